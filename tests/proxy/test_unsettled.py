"""proxy/unsettled.py: what is kept of calls, in how little room, and what is read of it after the process is gone."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy import unsettled
from proxy.lease import Account
from proxy.unsettled import Unsettled, operations_of


def account(budget: str = "b", period: str = "month:2026-03-01") -> Account:
    made = Account(budget)
    made.period = period
    return made


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Unsettled]:
    made = Unsettled(tmp_path, "w")
    yield made
    made.close(is_all_told=True)
    assert list(tmp_path.glob("unsettled-*")) == []


def left(kept: Unsettled, folder: Path) -> list[dict[str, Any]]:
    """What another worker would read, had this one died now."""
    (path,) = folder.glob("unsettled-*")
    copy = folder / "copy"
    copy.write_bytes(path.read_bytes())
    return operations_of(copy) or []


def test_what_the_ledger_was_told_is_gone_and_the_rest_is_read_as_it_stands(kept: Unsettled, tmp_path: Path) -> None:
    places = [account("ü" * 60), account("b", "total")]
    told, ended, _ = (kept.hold(name, 100, 7, places) for name in ("told", "ended", "under way"))
    elsewhere = kept.hold("at the ledger", 50, 7, ())
    kept.ended(ended, 30)
    kept.ended(elsewhere, 20)
    kept.told(told)
    named = [["ü" * 60, "month:2026-03-01"], ["b", "total"]]
    of_lease = {"op": "draw", "worker": "w", "attempt": 0, "held_nusd": 100, "places": named, "reserved_ns": 7}
    assert left(kept, tmp_path) == [
        of_lease | {"request_id": "ended", "actual_nusd": 30, "is_guess": False},
        of_lease | {"request_id": "under way", "actual_nusd": 100, "is_guess": True},
        {"op": "settle", "request_id": "at the ledger", "attempt": 0, "actual_nusd": 20},
        {"op": "retire", "worker": "w"},
    ]


def test_the_whole_file_is_on_the_disk_from_the_start_since_a_full_one_would_kill_the_worker(
    kept: Unsettled, tmp_path: Path
) -> None:
    kept.open()
    (found,) = [path.stat() for path in tmp_path.glob("unsettled-*")]
    assert found.st_blocks * 512 >= found.st_size > 0


def test_a_call_that_no_slot_takes_is_not_kept(kept: Unsettled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unsettled, "_SLOTS", 4)  # the worker's own, one place, two calls
    one = account()
    assert not kept.hold("x" * 200, 1, 0, [one])
    assert not kept.hold("r", 1, 0, [account() for _ in range(13)])
    assert not kept.hold("r", 1, 0, [account("b" * 200)])
    slots = [kept.hold(f"r{n}", 1, 0, [one]) for n in range(3)]
    assert [bool(slot) for slot in slots] == [True, True, False]
    kept.told(slots[0])
    assert kept.hold("r3", 1, 0, [one])


def test_names_of_periods_that_are_over_make_room_for_those_that_come(kept: Unsettled, tmp_path: Path) -> None:
    first = account(period="day:0")
    kept.hold("still under way", 1, 0, [first])
    first.is_ended = True
    for day in range(1, 2500):
        today = account(period=f"day:{day}")
        kept.told(kept.hold(f"r{day}", 1, 0, [today]))
        today.is_ended = True
    assert len(kept._places) <= 1001
    assert left(kept, tmp_path)[0]["places"] == [["b", "day:0"]]


def test_a_file_whose_worker_lives_is_left_alone(kept: Unsettled, tmp_path: Path) -> None:
    kept.hold("r", 1, 0, [account()])
    (path,) = Unsettled(tmp_path, "other").left_behind()
    assert operations_of(path) is None
    assert kept.left_behind() == []
