"""farthing/audit.py: every write is on the disk before it is done, and nothing that has ended changes."""
from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from farthing.access import Principal
from farthing.audit import FILE, MAX_TEXT, Asker, Audit
from farthing.errors import AccessError

ANN = Asker(Principal("ann", "operator"), "10.0.0.7")


def test_a_write_says_who_when_what_and_what_became_of_it(tmp_path: Path) -> None:
    audit = Audit(tmp_path, "collector", clock_ns=lambda: 1_795_000_000_123_000_000)
    entry = audit.begin(ANN, "POST /v1/prices", "provider=vllm")
    (begun,) = audit.newest()
    assert (begun["status"], begun["note"]) == (None, "")
    audit.end(entry, 400, "input is missing")
    assert audit.newest() == [
        {"at": "2026-11-18T11:06:40.123+00:00", "entry": 1, "part": "collector", "who": "ann", "role": "operator",
         "client": "10.0.0.7", "what": "POST /v1/prices", "asked": "provider=vllm", "status": 400,
         "note": "input is missing"}
    ]  # fmt: skip


def test_parts_of_one_folder_share_a_file_and_tell_their_own_newest_first(tmp_path: Path) -> None:
    first, second = Audit(tmp_path, "collector"), Audit(tmp_path, "analyzer")
    for number in range(3):
        first.end(first.begin(ANN, f"POST /{number}", ""), 200)
        second.tell("retention", f"{number} rows")
    assert [one["what"] for one in first.newest(2)] == ["POST /2", "POST /1"]
    assert [one["what"] for one in first.newest(before=first.newest(2)[-1]["entry"])] == ["POST /0"]
    assert {(one["who"], one["note"]) for one in second.newest(1)} == {("analyzer", "2 rows")}
    assert first.page({"limit": "1"})["writes"][0]["what"] == "POST /2"


@pytest.mark.parametrize("query", [{"limit": "many"}, {"before": "-1"}, {"since": "1"}, {"limit": "9" * 30}])
def test_a_page_that_makes_no_sense_says_what_is_allowed(tmp_path: Path, query: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="allowed are limit and before"):
        Audit(tmp_path, "collector").page(query)


def test_what_raises_has_failed_and_what_cannot_be_noted_is_not_done(tmp_path: Path) -> None:
    audit = Audit(tmp_path, "analyzer")
    done: list[str] = []

    async def write(to: Audit, act: str) -> None:
        async with to.noted(ANN, act, "") as outcome:
            done.append(act)
            if act == "broken":
                raise ZeroDivisionError
            outcome.status, outcome.note = 200, "well"

    asyncio.run(write(audit, "good"))
    with pytest.raises(ZeroDivisionError):
        asyncio.run(write(audit, "broken"))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(AccessError) as refused:
        asyncio.run(write(Audit(tmp_path / "file", "analyzer"), "unseen"))
    assert (refused.value.status, refused.value.code, done) == (503, "audit_unavailable", ["good", "broken"])
    assert [(one["what"], one["status"]) for one in audit.newest()] == [("broken", 500), ("good", 200)]


@pytest.mark.parametrize("statement", ["DELETE FROM writes", "UPDATE writes SET who = 'eve'"])
def test_what_has_ended_cannot_be_rewritten(tmp_path: Path, statement: str) -> None:
    audit = Audit(tmp_path, "policies")
    audit.end(audit.begin(ANN, "POST /v1/apply", ""), 200)
    with closing(sqlite3.connect(tmp_path / FILE)) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)
    assert audit.newest()[0]["who"] == "ann"


def test_what_was_asked_cannot_write_on_a_terminal_or_fill_the_disk(tmp_path: Path) -> None:
    audit = Audit(tmp_path, "policies")
    audit.begin(ANN, "POST /v1/\x1b[2Japply", "x" * 10_000)
    (one,) = audit.newest()
    assert one["what"] == "POST /v1/ [2Japply" and one["asked"] == "x" * MAX_TEXT + "…"
