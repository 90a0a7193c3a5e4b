"""A virtual key as proxies know it: whom it stands for and what it may use, by its digest alone."""
from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, Field, StringConstraints

from farthing.policy.record import Name, Patterns, Record

# What a key may be limited to. `metrics` and `status` tell of everybody, so a key has to name them.
RouteName = Literal[
    "chat", "completions", "responses", "embeddings", "messages", "models", "files", "batches", "grades",
    "metrics", "status",
]
ROUTES: tuple[str, ...] = get_args(RouteName)
OPERATOR_ROUTES = ("metrics", "status")

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Who = Annotated[str, StringConstraints(max_length=256)]
RouteNames = Annotated[tuple[RouteName, ...], Field(max_length=len(ROUTES))]


class Key(Record):
    """One virtual key; what it fixes of an identity wins over whatever a request says of itself."""

    name: Name
    digest: Digest
    tenant: Who = ""  # empty: the proxy's own
    team: Who = ""  # empty: as the request says
    user: Who = ""
    models: Patterns = ()  # names and patterns it may ask for; none = all
    routes: RouteNames = ()  # none = all but OPERATOR_ROUTES
    expires: AwareDatetime | None = None
    old_digest: Digest | None = None  # what it was before its rotation, good until `old_until`
    old_until: AwareDatetime | None = None
    revoked: AwareDatetime | None = None
