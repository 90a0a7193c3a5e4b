"""What is known about one request when it is decided; an empty text means that the fact is absent."""
from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Facts(msgspec.Struct, frozen=True):
    """Who asks for which model; `model` is the one that the client asked for, before any routing."""

    tenant: str
    team: str = ""
    user: str = ""
    feature: str = ""
    session: str = ""
    key: str = ""  # name of the API key, never the key itself
    model: str = ""
    tags: Mapping[str, str] = {}
