"""What an apply or a removal would change: documents in, document and changes out, nothing written."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from farthing.errors import DocumentError
from farthing.policy import Document, Named
from policies.conflicts import conflicts
from policies.load import Key, Objects


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one object."""

    kind: str  # of KINDS
    name: str
    change: str  # added | changed | removed | unchanged


def by_key(document: Document) -> dict[Key, Named]:
    """Return the objects of a document by (kind, name)."""
    return _by_key(document.items())


def applied(document: Document, objects: Objects, replace: bool) -> tuple[Document, tuple[Change, ...]]:
    """Return the document with `objects` put in; with `replace`, whatever they do not name goes.

    Raises:
        DocumentError: policies of the result conflict.
    """
    old = by_key(document)
    new = _by_key(objects.items)
    return _changed(document, old, new if replace else old | new, mentioned=new)


def removed(document: Document, key: Key) -> tuple[Document, tuple[Change, ...]]:
    """Return the document without the object `key`, which must be there."""
    old = by_key(document)
    return _changed(document, old, {k: item for k, item in old.items() if k != key}, mentioned={})


def _changed(
    document: Document, old: Mapping[Key, Named], new: Mapping[Key, Named], mentioned: Mapping[Key, Named]
) -> tuple[Document, tuple[Change, ...]]:
    changes = [Change(*key, _kind_of_change(key, old, new)) for key in sorted(old.keys() | new.keys())]
    kept = tuple(c for c in changes if c.change != "unchanged" or (c.kind, c.name) in mentioned)
    if all(change.change == "unchanged" for change in kept):
        return document, kept
    return _document(document.version + 1, new.values()), kept


def _kind_of_change(key: Key, old: Mapping[Key, Named], new: Mapping[Key, Named]) -> str:
    if key not in old:
        return "added"
    if key not in new:
        return "removed"
    return "unchanged" if old[key] == new[key] else "changed"


def _by_key(items: Iterable[Named]) -> dict[Key, Named]:
    return {(item.KIND, item.name): item for item in items}


def _document(version: int, items: Iterable[Named]) -> Document:
    document = Document.of(version, items)
    if problems := conflicts(document.rules):
        raise DocumentError("\n".join(problems))
    return document
