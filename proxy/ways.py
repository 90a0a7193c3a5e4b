"""How one API is reached at a deployment: its URL and the headers of a request there, put together once."""
from __future__ import annotations

from typing import NamedTuple

from proxy import azure
from proxy.dispatch import Target
from proxy.upstream import Fields

_MOST = 256  # that are remembered; a client may send any version of an API
_JSON_BODY = ("content-type", "application/json")


class Way(NamedTuple):
    """One deployment's."""

    url: str
    headers: Fields  # those that the client's request passes on among them


class Ways:
    """The ways of one API."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: dict[tuple[Target, Fields], Way] = {}

    def to(self, target: Target, passed_on: tuple[tuple[str, str], ...]) -> Way:
        """Return the way to a deployment for a request that passes these headers on."""
        return self._known.get((target, passed_on)) or self._found(target, passed_on)

    def _found(self, target: Target, passed_on: tuple[tuple[str, str], ...]) -> Way:
        deployment, path = target.deployment, self._path
        url = azure.url_of(deployment, path) if deployment.api_version else f"{deployment.url}/{path}"
        if len(self._known) >= _MOST:
            self._known.clear()
        way = self._known[target, passed_on] = Way(url, (_JSON_BODY, *passed_on, *target.headers))
        return way
