"""A virtual key as proxies know it: whom it stands for and what it may use, by its digest alone."""
from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

# What a key may be limited to. `metrics` and `status` tell of everybody, so a key has to name them.
RouteName = Literal[
    "chat", "completions", "responses", "embeddings", "messages", "models", "files", "batches", "metrics", "status"
]
ROUTES: tuple[str, ...] = get_args(RouteName)
OPERATOR_ROUTES = ("metrics", "status")

NAME_ALLOWED = "a-z, 0-9 and -, not starting with -, up to 63 characters"
KeyName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Who = Annotated[str, StringConstraints(max_length=256)]
Model = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Key(BaseModel):
    """One virtual key; what it fixes of an identity wins over whatever a request says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: KeyName
    digest: Digest
    tenant: Who = ""  # empty: the proxy's own
    team: Who = ""  # empty: as the request says
    user: Who = ""
    models: Annotated[tuple[Model, ...], Field(max_length=1000)] = ()  # names and patterns it may ask for; none = all
    routes: Annotated[tuple[RouteName, ...], Field(max_length=len(ROUTES))] = ()  # none = all but OPERATOR_ROUTES
    expires: AwareDatetime | None = None
    old_digest: Digest | None = None  # what it was before its rotation, good until `old_until`
    old_until: AwareDatetime | None = None
    revoked: AwareDatetime | None = None
