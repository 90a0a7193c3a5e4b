"""The control plane, as the command line asks it: at its address, with the token that the settings hold."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from farthing.http_json import call
from farthing.settings import Settings


def ask(settings: Settings, method: str, path: str, asked: Mapping[str, str] | None = None, body: object = None) -> Any:
    """Return the decoded answer of the control plane; `asked` is the query.

    Raises:
        ServeError: nobody answers, or the answer is an error.
    """
    query = f"?{urlencode(asked)}" if asked else ""
    return call(method, f"{settings.url('policies')}{path}{query}", body, token=settings.control_token)
