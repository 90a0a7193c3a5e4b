"""What an apply or a removal would change: documents in, document and changes out, nothing written."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from farthing.errors import DocumentError
from farthing.policy import Budget, Document, Policy
from policies.conflicts import conflicts
from policies.load import Key, Objects

Item = Policy | Budget


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one object."""

    kind: str  # Policy | Budget
    name: str
    change: str  # added | changed | removed | unchanged


def by_key(document: Document) -> dict[Key, Item]:
    """Return the objects of a document by (kind, name)."""
    found: dict[Key, Item] = {("Policy", policy.name): policy for policy in document.policies}
    return found | {("Budget", budget.name): budget for budget in document.budgets}


def applied(document: Document, objects: Objects, replace: bool) -> tuple[Document, tuple[Change, ...]]:
    """Return the document with `objects` put in; with `replace`, whatever they do not name goes.

    Raises:
        DocumentError: policies of the result conflict.
    """
    old = by_key(document)
    new: dict[Key, Item] = {("Policy", item.name): item for item in objects.policies}
    new |= {("Budget", item.name): item for item in objects.budgets}
    return _changed(document, old, new if replace else old | new, mentioned=new)


def removed(document: Document, key: Key) -> tuple[Document, tuple[Change, ...]]:
    """Return the document without the object `key`, which must be there."""
    old = by_key(document)
    return _changed(document, old, {k: item for k, item in old.items() if k != key}, mentioned={})


def _changed(
    document: Document, old: Mapping[Key, Item], new: Mapping[Key, Item], mentioned: Mapping[Key, Item]
) -> tuple[Document, tuple[Change, ...]]:
    changes = [Change(*key, _kind_of_change(key, old, new)) for key in sorted(old.keys() | new.keys())]
    kept = tuple(c for c in changes if c.change != "unchanged" or (c.kind, c.name) in mentioned)
    if all(change.change == "unchanged" for change in kept):
        return document, kept
    return _document(document.version + 1, new.values()), kept


def _kind_of_change(key: Key, old: Mapping[Key, Item], new: Mapping[Key, Item]) -> str:
    if key not in old:
        return "added"
    if key not in new:
        return "removed"
    return "unchanged" if old[key] == new[key] else "changed"


def _document(version: int, items: Iterable[Item]) -> Document:
    ordered = sorted(items, key=lambda item: item.name)
    policies = tuple(item for item in ordered if isinstance(item, Policy))
    if problems := conflicts(policies):
        raise DocumentError("\n".join(problems))
    return Document(version=version, policies=policies, budgets=tuple(i for i in ordered if isinstance(i, Budget)))
