"""proxy/lane.py: the workers of a host have so many loads of a kind under way together, the oldest first."""
from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from proxy.lane import Lane
from proxy.place_table import KINDS, PlaceTable, key_of

CLOCK = count(1)  # no two loads come at the same moment


class Sender:
    """One worker's loads of a kind, by name, as they are begun."""

    def __init__(self, table: PlaceTable, kind: str = "kind", most: int = 1) -> None:
        self.begun: list[str] = []
        self.empty: set[str] = set()  # of what nobody waits for any more
        self.lane: Lane[str] = Lane(table, key_of(kind), self._begin, lambda: float(next(CLOCK)))
        self.lane.most = most

    def _begin(self, name: str) -> bool:
        if name in self.empty:
            return False
        self.begun.append(name)
        return True


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[tuple[PlaceTable, PlaceTable]]:
    """Return the table of two workers, as each of them sees it."""
    both = PlaceTable(tmp_path), PlaceTable(tmp_path)
    yield both
    for table in both:
        table.close()


Tables = tuple[PlaceTable, PlaceTable]


def test_two_workers_have_no_more_under_way_than_one_may_and_the_oldest_goes_next(tables: Tables) -> None:
    here, there = (Sender(table, most=2) for table in tables)
    for sender, name in ((here, "a"), (there, "b"), (there, "c"), (here, "d"), (there, "e")):
        sender.lane.put(name)
    assert (here.begun, there.begun) == (["a"], ["b"])
    here.lane.leave()
    assert (here.begun, there.begun) == (["a"], ["b"]), "it is given to who has waited longer than d"
    there.lane.go()
    assert (here.begun, there.begun) == (["a"], ["b", "c"])
    there.lane.leave()
    here.lane.go()
    assert (here.begun, there.begun) == (["a", "d"], ["b", "c"])
    there.lane.leave()
    assert there.begun == ["b", "c", "e"] and (here.lane.under_way, there.lane.under_way) == (1, 1)


def test_what_nobody_waits_for_any_more_takes_no_place_from_another_worker(tables: Tables) -> None:
    here, there = (Sender(table) for table in tables)
    for sender, name in ((here, "a"), (there, "gone"), (here, "b")):
        sender.lane.put(name)
    there.empty.add("gone")
    here.lane.leave()
    there.lane.go()  # it was given the place, and gives it on
    here.lane.go()
    assert (here.begun, there.begun, there.lane.waits) == (["a", "b"], [], False)


def test_a_limit_that_changes_holds_from_then_on(tables: Tables) -> None:
    here, there = (Sender(table) for table in tables)
    for name in ("a", "b", "c"):
        here.lane.put(name)
    there.lane.most = here.lane.most = 2
    there.lane.put("d")
    here.lane.go()
    assert (here.begun, there.begun) == (["a", "b"], [])
    here.lane.most = there.lane.most = 1
    here.lane.leave()
    assert (here.begun, there.begun) == (["a", "b"], []), "one is under way still"
    here.lane.leave()
    assert (here.begun, there.begun) == (["a", "b", "c"], [])


def test_kinds_do_not_meet_and_what_one_no_longer_uses_is_another_s(tables: Tables) -> None:
    here, there = tables
    first = Sender(there, "first")
    first.lane.put("a")
    others = [Sender(here, f"other {number}") for number in range(KINDS - 1)]
    for other in others:
        other.lane.put("a")
    assert all(other.begun for other in others)
    late = Sender(here, "late")
    late.lane.put("a")
    assert late.lane.waits and not late.begun, "every record is in use"
    first.lane.leave()
    late.lane.go()
    assert late.begun == ["a"]
    first.lane.put("b")
    assert not first.begun[1:], "its record is the late one's now"
    others[7].lane.leave()
    first.lane.go()
    late.lane.put("b")
    assert (first.begun, late.begun) == (["a", "b"], ["a"]), "each has a place of its own"
