"""What the files and batches of a caller may take, as the policy document says it now, and to whom they belong."""
from __future__ import annotations

from collections.abc import Callable

from farthing.policy import Document, Facts
from farthing.policy.index import FIELDS, Globs
from farthing.policy.kinds.batch import Batch
from proxy.keys import Caller

_DEFAULT = Batch(name="default")


class Limits:
    """The Batch objects of the newest document."""

    def __init__(self, document: Callable[[], Document]) -> None:
        self._document = document

    def of(self, caller: Caller) -> Batch:
        """Return the limits of a caller: of the objects that fit, the one that names most."""
        facts = Facts(caller.tenant, caller.team, caller.user, key=caller.key)
        found = [batch for batch in self._document().batches if _fits(batch, facts)]
        return min(found, key=_rank) if found else _DEFAULT

    def most(self) -> int:
        """Return the bytes of the largest file that anybody may send."""
        return max(batch.max_file_bytes for batch in (*self._document().batches, _DEFAULT))


def owner_of(caller: Caller) -> str:
    """Return whom a caller's files and batches belong to: its team, else its key alone, else its tenant."""
    parts = ("team", caller.team) if caller.team else ("key", caller.key) if caller.key else ("", "")
    return "\x1f".join((caller.tenant, *parts))


def _fits(batch: Batch, facts: Facts) -> bool:
    named = {name: patterns for name in FIELDS if (patterns := getattr(batch.scope, name))}
    return not batch.scope.tags and all(getattr(facts, name) in Globs(patterns) for name, patterns in named.items())


def _rank(batch: Batch) -> tuple[int, str]:
    return -len(batch.scope.model_dump(exclude_defaults=True)), batch.name
