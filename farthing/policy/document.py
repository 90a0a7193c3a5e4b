"""The policy document: what the control plane publishes and every proxy follows.

Everything in it is frozen and checked at the border, so that whoever holds a `Document` never checks again. Its
checksum covers the content in canonical order without the version: equal checksums mean equal decisions.
"""
from __future__ import annotations

import hashlib
import json
from datetime import date, timezone, tzinfo
from functools import cached_property
from typing import Annotated, Any, Literal, cast
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, model_validator

from farthing.errors import DocumentError
from farthing.policy.flow import ConcurrencyAction, PriorityAction
from farthing.policy.record import Nusd, Pattern, Record, as_list
from farthing.policy.route import RouteAction

NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"


def _as_lists(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {name: as_list(entry) for name, entry in cast("dict[object, object]", value).items()}


def _known_zone(name: str) -> str:
    zone(name)
    return name


def zone(name: str) -> tzinfo:
    """Return the time zone of an IANA name; UTC needs no zone database.

    Raises:
        ValueError: there is no such zone.
    """
    if name == "UTC":
        return timezone.utc
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{name!r} is not a time zone; write an IANA name, such as Europe/London or UTC") from None


Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Patterns = Annotated[tuple[Pattern, ...], BeforeValidator(as_list), Field(max_length=1000)]
SomePatterns = Annotated[tuple[Pattern, ...], BeforeValidator(as_list), Field(min_length=1, max_length=1000)]


class Match(Record):
    """Which requests are meant: all fields must fit; a field fits if one of its names or patterns does.

    An empty field fits everything. A fact that a request lacks fits no pattern, not even `*`.
    """

    tenant: Patterns = ()
    team: Patterns = ()
    user: Patterns = ()
    model: Patterns = ()  # the model asked for, before any routing
    feature: Patterns = ()
    key: Patterns = ()
    tags: Annotated[dict[Pattern, SomePatterns], BeforeValidator(_as_lists)] = Field(default_factory=dict)


class CacheAction(Record):
    """Answer repeats of an identical request from the exact cache."""

    ttl_s: float = Field(default=3600.0, gt=0, allow_inf_nan=False)  # seconds an answer may be reused
    max_bytes: int = Field(default=67_108_864, gt=0)  # bytes of answers kept for this policy
    allow_sampled: bool = False  # also reuse answers to requests with temperature above 0


class Action(Record):
    """What a policy does: exactly one of these."""

    route: RouteAction | None = None
    cache: CacheAction | None = None
    concurrency: ConcurrencyAction | None = None
    priority: PriorityAction | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Action:
        names = list(type(self).model_fields)
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(f"set exactly one of {', '.join(names[:-1])} and {names[-1]}")
        return self

    @property
    def verb(self) -> str:
        """What it does: route, cache and so on."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)


class Policy(Record):
    """Which requests are treated differently, and how."""

    name: Name
    owner: str = ""
    match: Match = Match()
    action: Action
    mode: Literal["shadow", "enforce"] = "enforce"
    priority: int = Field(default=0, ge=-1_000_000, le=1_000_000)  # the higher one wins
    expires: date | None = None  # last day, UTC, on which it acts

    @model_validator(mode="after")
    def _matches_what_it_can(self) -> Policy:
        """A deployment's window is shared by all who ask for it, so that only the model can choose it."""
        if self.action.concurrency is not None and self.match.model_fields_set - {"model"}:
            raise ValueError("a policy of concurrency matches by `model` alone: a deployment's window is everybody's")
        return self


class Window(Record):
    """The calendar period after which a budget starts anew."""

    calendar: Literal["day", "week", "month", "total"] = "month"
    tz: Annotated[str, BeforeValidator(_known_zone)] = "UTC"  # IANA zone whose midnight begins a period


class Budget(Record):
    """How much the requests of a scope may cost in one window."""

    name: Name
    scope: Match = Match()  # empty: everything that this control plane governs
    limit_nusd: Nusd  # nano-dollars a window
    window: Window = Window()
    hard: bool = True  # false: counted and shown, never refuses
    on_ledger_away: Literal["refuse", "allow"] = "refuse"
    owner: str = ""


class Document(Record):
    """All policies and budgets of one version, ordered by name."""

    version: int = Field(ge=0)
    policies: tuple[Policy, ...] = ()
    budgets: tuple[Budget, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Document:
        for kind, names in (("policy", [p.name for p in self.policies]), ("budget", [b.name for b in self.budgets])):
            twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
            if twice:
                raise ValueError(f"{kind} {twice[0]!r} is there more than once")
        return self

    @cached_property
    def checksum(self) -> str:
        """sha256 of the content in canonical form, hex; the version is not part of it."""
        return hashlib.sha256(_canonical(self.content())).hexdigest()

    def content(self) -> dict[str, Any]:
        """Return policies and budgets as JSON-ready values, each ordered by name."""
        return {
            "policies": [p.model_dump(mode="json") for p in sorted(self.policies, key=lambda p: p.name)],
            "budgets": [b.model_dump(mode="json") for b in sorted(self.budgets, key=lambda b: b.name)],
        }

    def to_json(self) -> bytes:
        """Return the document as canonical JSON, UTF-8."""
        return _canonical({"version": self.version, **self.content()})

    @classmethod
    def from_json(cls, body: bytes) -> Document:
        """Read what `to_json` wrote.

        Raises:
            DocumentError: not such a document; a proxy then keeps the one it has.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "document"
            raise DocumentError(f"{where}: {first['msg']}; keep the document in use and report this") from None


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


EMPTY = Document(version=0)
