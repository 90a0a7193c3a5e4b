"""The policy document: what the control plane publishes and every proxy follows.

Everything in it is frozen and checked at the border, so that whoever holds a `Document` never checks again. Its
checksum covers the content in canonical order without the version: equal checksums mean equal decisions.
"""
from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from pydantic import Field, ValidationError, model_validator

from farthing.errors import DocumentError
from farthing.policy import defaults
from farthing.policy.crossed import Crossed
from farthing.policy.key import Key
from farthing.policy.kinds import KINDS
from farthing.policy.kinds.alert import Alert
from farthing.policy.kinds.batch import Batch
from farthing.policy.kinds.budget import Budget
from farthing.policy.kinds.cache import Cache
from farthing.policy.kinds.key import DeclaredKey
from farthing.policy.kinds.limit import Limit
from farthing.policy.kinds.policy import Policy
from farthing.policy.kinds.report import Report
from farthing.policy.kinds.route import Route
from farthing.policy.kinds.slo import Slo
from farthing.policy.record import Named, Record
from farthing.policy.route import Pair
from farthing.policy.trained import Trained


class Document(Record):
    """All objects of one version, one field for each kind, ordered by name."""

    version: int = Field(ge=0)
    policies: tuple[Policy, ...] = ()
    budgets: tuple[Budget, ...] = ()
    alerts: tuple[Alert, ...] = ()
    batches: tuple[Batch, ...] = ()
    limits: tuple[Limit, ...] = ()
    routes: tuple[Route, ...] = ()
    caches: tuple[Cache, ...] = ()
    slos: tuple[Slo, ...] = ()
    reports: tuple[Report, ...] = ()
    declared_keys: tuple[DeclaredKey, ...] = ()
    keys: tuple[Key, ...] = ()  # handed out, not written: they change without a new version
    crossed: tuple[Crossed, ...] = ()  # told by the ledger, not written, as the keys
    trained: tuple[Trained, ...] = ()  # told by the analyzer

    @classmethod
    def of(cls, version: int, items: Iterable[Named]) -> Document:
        """Return the document that holds `items`, whatever their kinds."""
        ordered = sorted(items, key=lambda item: item.name)
        fields: dict[str, Any] = {
            kind.PLURAL: tuple(item for item in ordered if isinstance(item, kind)) for kind in KINDS.values()
        }
        return cls(version=version, **fields)

    def with_keys(self, keys: Iterable[Key]) -> Document:
        """Return the document with these keys in place of its own."""
        return self._with(keys=tuple(keys))

    def with_told(self, keys: Iterable[Key], crossed: Iterable[Crossed], trained: Iterable[Trained]) -> Document:
        """Return the document with these keys, thresholds crossed and gain models, and no others."""
        return self._with(keys=tuple(keys), crossed=tuple(crossed), trained=tuple(trained))

    def _with(self, **told: Any) -> Document:
        fields: dict[str, Any] = {name: getattr(self, name) for name in Document.model_fields}
        return Document(**fields | told)  # a copy would keep the old checksum

    @property
    def pairs(self) -> list[Pair]:
        """The pairs of models that routes ask to be told apart, each once."""
        routes = [*[policy.action.route for policy in self.policies], *self.routes]
        return list(dict.fromkeys(route.pair for route in routes if route is not None and route.pair is not None))

    def items(self) -> Iterator[Named]:
        """Return every object, kind by kind."""
        for kind in KINDS.values():
            yield from getattr(self, kind.PLURAL)

    @cached_property
    def rules(self) -> tuple[Policy, ...]:
        """All that decides about requests: the policies, then what routes and caches stand for."""
        return defaults.rules((*self.policies, *self.routes, *self.caches))

    @cached_property
    def all_limits(self) -> tuple[Limit, ...]:
        """The limits, and those of declared keys."""
        return defaults.limits((*self.limits, *self.declared_keys))

    @model_validator(mode="after")
    def _names_are_unique(self) -> Document:
        for kind in KINDS.values():
            names = [item.name for item in getattr(self, kind.PLURAL)]
            twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
            if twice:
                raise ValueError(f"{kind.KIND} {twice[0]!r} is there more than once")
        return self

    @cached_property
    def checksum(self) -> str:
        """sha256 of the content in canonical form, hex; the version is not part of it."""
        return hashlib.sha256(self.canonical).hexdigest()

    @cached_property
    def canonical(self) -> bytes:
        """What `content` returns, as canonical JSON; objects that stay from one version to the next keep theirs."""
        told = {"keys": sorted(self.keys, key=lambda key: key.name), "crossed": self.crossed, "trained": self.trained}
        named = {kind.PLURAL: sorted(getattr(self, kind.PLURAL), key=lambda one: one.name) for kind in KINDS.values()}
        lists: dict[str, Iterable[Record]] = {**named, **told}
        filled = [(name, b",".join([one.canonical for one in lists[name]])) for name in sorted(lists)]
        return b"{" + b",".join([b'"%b":[%b]' % (name.encode(), items) for name, items in filled if items]) + b"}"

    def content(self) -> dict[str, Any]:
        """Return the objects as JSON-ready values, each kind ordered by name; a kind without any is left out."""
        content: dict[str, Any] = {}
        for kind in KINDS.values():
            items: Iterable[Named] = getattr(self, kind.PLURAL)
            if items:
                ordered = sorted(items, key=lambda item: item.name)
                content[kind.PLURAL] = [item.model_dump(mode="json") for item in ordered]
        told = {
            "keys": [key.model_dump(mode="json") for key in sorted(self.keys, key=lambda key: key.name)],
            "crossed": [one.model_dump(mode="json") for one in self.crossed],
            "trained": [one.model_dump(mode="json") for one in self.trained],
        }
        return content | {name: value for name, value in told.items() if value}

    def to_json(self) -> bytes:
        """Return the document as canonical JSON, UTF-8."""
        content = self.canonical[1:-1]
        return b'{%b%b"version":%d}' % (content, b"," if content else b"", self.version)

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


EMPTY = Document(version=0)
