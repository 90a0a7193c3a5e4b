"""Which deployment serves a model: those configured under its name, the least busy first."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from farthing.settings import Deployment, secret
from proxy.api_error import ApiError


class Deployments:
    """The deployments of this proxy; upstreams come from the configuration only, never from a request."""

    def __init__(self, deployments: Sequence[Deployment]) -> None:
        """Read each deployment's secret once.

        Raises:
            SettingsError: a deployment names an environment variable that is not set.
        """
        self._pools: dict[str, list[Deployment]] = {}
        self._secrets: dict[str, str] = {}
        self.in_flight: Counter[Deployment] = Counter()
        for deployment in deployments:
            self._pools.setdefault(deployment.model, []).append(deployment)
            if deployment.api_key_env:
                self._secrets[deployment.api_key_env] = secret(deployment.api_key_env)

    @property
    def models(self) -> list[str]:
        return list(self._pools)

    def candidates(self, model: str) -> list[Deployment]:
        """Return the deployments of `model`, the least busy first.

        Raises:
            ApiError: 404, there is none.
        """
        pool = self._pools.get(model)
        if pool is None:
            message = f"the model {model!r} is not served here; served: {', '.join(self._pools) or 'none'}"
            raise ApiError(404, "model_not_found", message, param="model")
        return pool if len(pool) == 1 else sorted(pool, key=lambda deployment: self.in_flight[deployment])

    def headers(self, deployment: Deployment) -> list[tuple[str, str]]:
        """Return the headers that carry the deployment's own key."""
        if not deployment.api_key_env:
            return []
        return [("authorization", f"Bearer {self._secrets[deployment.api_key_env]}")]
