"""collector/commit.py: many senders, one sync, and nobody is told more than is true."""
from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from collector import commit as committing
from collector.commit import GroupCommit
from collector.spool import Spool
from farthing.errors import SpoolFullError


def test_a_spool_that_is_full_for_some_refuses_them_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committing, "BATCH_BYTES", 1500)
    spool = Spool(tmp_path, max_bytes=5000)

    async def send() -> list[object]:
        group = GroupCommit(spool)
        bodies = [bytes([n]) * 1000 for n in range(10)]
        return list(await asyncio.gather(*(group.put("acme", body) for body in bodies), return_exceptions=True))

    answers = asyncio.run(send())
    assert answers[:4] == [True] * 4
    assert all(isinstance(answer, SpoolFullError) for answer in answers[4:])


def test_a_body_that_was_refused_is_not_taken_for_a_duplicate(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=10)

    async def send() -> list[object]:
        group = GroupCommit(spool)
        refused = await asyncio.gather(group.put("acme", b"same"), group.put("acme", b"same"), return_exceptions=True)
        spool.max_bytes = 10**9
        return [*map(type, refused), await group.put("acme", b"same"), await group.put("acme", b"same")]

    assert asyncio.run(send()) == [SpoolFullError, SpoolFullError, True, False]


def test_bodies_of_many_small_spans_share_no_segment(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 10**9)

    async def send() -> None:
        group = GroupCommit(spool)
        await asyncio.gather(*(group.put("acme", b"%d" % n, spans=90_000) for n in range(5)))

    asyncio.run(send())
    spool.rotate()
    assert len(spool.closed()) == 3
