"""Which deployment serves a model: those configured under its name, the least busy first."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from farthing.errors import SettingsError
from farthing.settings import Deployment, secret
from proxy.api_error import ApiError

_FORMATS = {"openai": "openai", "azure": "openai", "anthropic": "anthropic"}  # how it is spoken to -> what is said
_ROUTES = {"openai": "OpenAI's API (/v1/chat/completions and others)", "anthropic": "Anthropic's API (/v1/messages)"}
_KEY_HEADERS = {"openai": ("authorization", "Bearer "), "azure": ("api-key", ""), "anthropic": ("x-api-key", "")}


class Deployments:
    """The deployments of this proxy; upstreams come from the configuration only, never from a request."""

    def __init__(self, deployments: Sequence[Deployment]) -> None:
        """Read each deployment's secret once.

        Raises:
            SettingsError: a deployment names an environment variable that is not set, or an unknown API.
        """
        self._pools: dict[str, list[Deployment]] = {}
        self._secrets: dict[str, str] = {}
        self.in_flight: Counter[Deployment] = Counter()
        for deployment in deployments:
            if spoken(deployment) not in _FORMATS:
                allowed = ", ".join(_FORMATS)
                raise SettingsError(f"deployment {deployment.model}: api = {deployment.api!r}; allowed are {allowed}")
            self._pools.setdefault(deployment.model, []).append(deployment)
            if deployment.api_key_env:
                self._secrets[deployment.api_key_env] = secret(deployment.api_key_env)

    @property
    def models(self) -> list[str]:
        return list(self._pools)

    def candidates(self, model: str, api: str = "openai") -> list[Deployment]:
        """Return the deployments of `model` that speak an API, the least busy first.

        Raises:
            ApiError: 404, there is none, or 400, none of them speaks it.
        """
        pool = self._pools.get(model)
        if pool is None:
            message = f"the model {model!r} is not served here; served: {', '.join(self._pools) or 'none'}"
            raise ApiError(404, "model_not_found", message, param="model")
        if any(_FORMATS[spoken(one)] != api for one in pool):
            pool = [one for one in pool if _FORMATS[spoken(one)] == api]
            if not pool:
                message = f"the model {model!r} is not served over {_ROUTES[api]}; ask for it over the other one"
                raise ApiError(400, "wrong_api", message, param="model")
        return pool if len(pool) == 1 else sorted(pool, key=lambda deployment: self.in_flight[deployment])

    def headers(self, deployment: Deployment) -> list[tuple[str, str]]:
        """Return the headers that carry the deployment's own key."""
        if not deployment.api_key_env:
            return []
        name, scheme = _KEY_HEADERS[spoken(deployment)]
        return [(name, scheme + self._secrets[deployment.api_key_env])]


def spoken(deployment: Deployment) -> str:
    """Return the API that an upstream speaks: openai, anthropic or azure."""
    if deployment.api:
        return deployment.api
    if deployment.provider.startswith("azure"):
        return "azure"
    return "anthropic" if deployment.provider == "anthropic" else "openai"
