"""The control plane and the analyzer, as other parts ask them: at their addresses, with the token of the settings."""
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


def analyzer(settings: Settings, method: str, path: str, body: object = None, timeout_s: float = 120.0) -> Any:
    """Return the decoded answer of the analyzer.

    Raises:
        ServeError: nobody answers, or the answer is an error.
    """
    return call(method, f"{settings.url('analyzer')}{path}", body, timeout_s, token=settings.control_token)
