"""Policy files checked together, as one apply of all of them would be; nothing is written and nobody is asked."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timezone

from farthing.errors import DocumentError
from farthing.policy import EMPTY, Document
from policies.changes import applied
from policies.dead import dead
from policies.load import MAX_PROBLEMS, Objects, load
from policies.references import unresolved


@dataclass(frozen=True)
class Checked:
    """What is good, and what is odd about it."""

    counts: dict[str, int]  # kind -> objects
    warnings: list[str]


def check(texts: Iterable[tuple[str, str]]) -> Checked:
    """Check (file name, YAML text) pairs.

    Raises:
        DocumentError: something is wrong; the message has one line for each problem of every file.
    """
    read: list[tuple[str, Objects]] = []
    problems: list[str] = []
    for origin, text in texts:
        try:
            read.append((origin, load(text, origin)))
        except DocumentError as error:
            problems += str(error).split("\n")
    problems += _used_twice(read)
    if problems:
        raise DocumentError("\n".join(problems[:MAX_PROBLEMS]))
    items = tuple(item for _, objects in read for item in objects.items)
    document, _ = applied(EMPTY, Objects(items, {}, ""), replace=True)
    return Checked(dict(Counter(item.KIND for item in items)), warnings(document))


def warnings(document: Document, today: date | None = None) -> list[str]:
    """Return what is allowed in a document and hardly meant; `today` is the UTC date."""
    return dead(document.rules, today or datetime.now(timezone.utc).date()) + unresolved(document)


def _used_twice(read: list[tuple[str, Objects]]) -> list[str]:
    first: dict[tuple[str, str], str] = {}
    problems: list[str] = []
    for origin, objects in read:
        for item in objects.items:
            other = first.setdefault((item.KIND, item.name), origin)
            if other != origin:
                problems.append(f"{origin}: {item.KIND} {item.name}: already in {other}; names are unique")
    return problems
