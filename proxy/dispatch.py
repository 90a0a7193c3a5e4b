"""Which deployments may serve a model: those configured under its name, the least busy first."""
from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from farthing.errors import SettingsError
from farthing.settings import Deployment, Settings, secret
from proxy.api_error import ApiError
from proxy.health import Health
from proxy.upstream import Timeouts

_FORMATS = {"openai": "openai", "azure": "openai", "anthropic": "anthropic"}  # how it is spoken to -> what is said
_ROUTES = {"openai": "OpenAI's API (/v1/chat/completions and others)", "anthropic": "Anthropic's API (/v1/messages)"}
_KEY_HEADERS = {"openai": ("authorization", "Bearer "), "azure": ("api-key", ""), "anthropic": ("x-api-key", "")}
_busyness = attrgetter("health.in_flight")


@dataclass(eq=False, slots=True)
class Target:
    """One deployment as this worker reaches it."""

    deployment: Deployment
    api: str  # openai | anthropic: what is said to it
    headers: tuple[tuple[str, str], ...]  # with its own key
    timeouts: Timeouts
    health: Health


class Deployments:
    """The deployments of this proxy; upstreams come from the configuration only, never from a request."""

    def __init__(self, settings: Settings) -> None:
        """Read each deployment's secret once.

        Raises:
            SettingsError: a deployment names an environment variable that is not set, or an unknown API.
        """
        self._pools: dict[str, list[Target]] = {}
        for deployment in settings.served():
            self._pools.setdefault(deployment.model, []).append(_target(deployment, settings))

    @property
    def models(self) -> list[str]:
        return list(self._pools)

    @property
    def targets(self) -> list[Target]:
        return [target for pool in self._pools.values() for target in pool]

    def busy(self, model: str) -> int:
        """Return how many calls a model's deployments are answering."""
        return sum([target.health.in_flight for target in self._pools.get(model, ())])

    def candidates(self, model: str, api: str = "openai") -> list[Target]:
        """Return the deployments of `model` that speak an API, the least busy first.

        Raises:
            ApiError: 404, there is none, or 400, none of them speaks it.
        """
        pool = self._pools.get(model)
        if pool is None:
            message = f"the model {model!r} is not served here; served: {', '.join(self._pools) or 'none'}"
            raise ApiError(404, "model_not_found", message, param="model")
        if any(target.api != api for target in pool):
            pool = [target for target in pool if target.api == api]
            if not pool:
                message = f"the model {model!r} is not served over {_ROUTES[api]}; ask for it over the other one"
                raise ApiError(400, "wrong_api", message, param="model")
        return pool if len(pool) == 1 else sorted(pool, key=_busyness)

    def known(self, model: str, api: str) -> list[Target]:
        """Return what `candidates` does, and nothing where it would raise."""
        return sorted([target for target in self._pools.get(model, ()) if target.api == api], key=_busyness)


def _target(deployment: Deployment, settings: Settings) -> Target:
    spoken = _spoken(deployment)
    if spoken not in _FORMATS:
        allowed = ", ".join(_FORMATS)
        raise SettingsError(f"deployment {deployment.model}: api = {deployment.api!r}; allowed are {allowed}")
    headers: tuple[tuple[str, str], ...] = ()
    if deployment.api_key_env:
        name, scheme = _KEY_HEADERS[spoken]
        headers = ((name, scheme + secret(deployment.api_key_env)),)
    timeouts = Timeouts(
        deployment.connect_timeout_s,
        deployment.first_byte_timeout_s or settings.request_timeout_s,
        deployment.between_timeout_s or settings.request_timeout_s,
    )
    return Target(deployment, _FORMATS[spoken], headers, timeouts, Health(settings.breaker_failures))


def _spoken(deployment: Deployment) -> str:
    """Return the API that an upstream speaks: openai, anthropic or azure."""
    if deployment.api:
        return deployment.api
    if deployment.provider.startswith("azure"):
        return "azure"
    return "anthropic" if deployment.provider == "anthropic" else "openai"
