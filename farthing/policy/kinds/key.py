"""kind: Key: whom a virtual key stands for and what it may use, as a document; the key itself is in none.

`farthing key create NAME` makes the key that a document declares; a change of the document changes the key that is
there. Taken out, the key stays as it was last declared, until it is revoked.
"""
from __future__ import annotations

from datetime import date, datetime, timezone
from typing import Annotated, ClassVar

from pydantic import AwareDatetime, BeforeValidator, Field, model_validator

from farthing.policy.key import RouteNames, Who
from farthing.policy.kinds.limit import Count, InFlight, Limit
from farthing.policy.match import Match
from farthing.policy.record import Named, Patterns, Record


def _midnight(value: object) -> object:
    """Read a date as its midnight, UTC."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=timezone.utc)
    return value


class KeyLimits(Record):
    """How much may be asked with one key of the proxies of a host."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    in_flight: InFlight | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> KeyLimits:
        if self == KeyLimits.model_construct():
            raise ValueError("set requests_per_minute, tokens_per_minute, in_flight or several of them")
        return self


class DeclaredKey(Named):
    """One virtual key."""

    KIND: ClassVar[str] = "Key"
    PLURAL: ClassVar[str] = "declared_keys"

    tenant: Who = ""  # empty: the proxy's own
    team: Who = ""  # empty: as the request says
    user: Who = ""
    models: Patterns = ()  # names and patterns it may ask for; none = all
    routes: RouteNames = ()  # none = all but those that tell of everybody
    expires: Annotated[AwareDatetime | None, BeforeValidator(_midnight), Field(default=None)]
    limits: KeyLimits | None = None

    def limit(self) -> Limit | None:
        """Return the limit that it stands for, under a name that no Limit can have."""
        if self.limits is None:
            return None
        most = {name: getattr(self.limits, name) for name in KeyLimits.model_fields}
        scope = Match(key=(self.name,))
        return Limit.model_construct(name=f"key/{self.name}", owner=self.owner, scope=scope, **most)
