"""collector/spool.py and farthing/warehouse/segment.py: what was appended is there, whatever happens to the file."""
from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector import spool as spooling
from collector.spool import Spool
from farthing.errors import SpoolFullError
from farthing.warehouse import segment

BODIES = [b"first", b"\x0a\x03abc" * 50, b"", b"\xdd\x3e" * 9]


def framed(body: bytes, tenant: str = "acme") -> bytes:
    return segment.frame(tenant, body, 1_795_000_000_000, segment.digest(tenant, body))


def held(folder: Path) -> list[bytes]:
    """Return the digests of all bodies that a spool would replay."""
    spool = Spool(folder, 10**9)
    try:
        return [digest for closed in spool.closed() for digest in segment.digests(closed.path)]
    finally:
        spool.close()


def test_what_was_appended_is_replayed_by_the_next_start(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 10**9)
    spool.append([framed(body) for body in BODIES])
    assert held(tmp_path) == [segment.digest("acme", body) for body in BODIES]


def test_a_torn_tail_costs_only_the_torn_record(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 10**9)
    spool.append([framed(body) for body in BODIES])
    spool.close()
    path = next(tmp_path.glob("*.otlp"))
    path.write_bytes(path.read_bytes()[:-3])
    assert held(tmp_path) == [segment.digest("acme", body) for body in BODIES[:-1]]


@given(bodies=st.lists(st.binary(max_size=300), min_size=2, max_size=6), data=st.data())
def test_a_flipped_byte_costs_at_most_its_own_record(bodies: list[bytes], data: st.DataObject) -> None:
    records = [framed(body) for body in bodies]
    whole = bytearray(b"".join(records))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    found = {segment.body_digest_of(bytes(whole)[start:end]) for _, start, end in segment.scan(bytes(whole))}
    ends = [sum(map(len, records[: n + 1])) for n in range(len(records))]
    hit = next(n for n, end in enumerate(ends) if at < end)
    assert {segment.digest("acme", body) for n, body in enumerate(bodies) if n != hit} <= found


def test_a_spool_past_its_limit_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=200)
    spool.append([framed(b"fits")])
    with pytest.raises(SpoolFullError, match="holds"):
        spool.append([framed(b"x" * 200)])
    assert held(tmp_path) == [segment.digest("acme", b"fits")]


def test_a_forgotten_segment_leaves_its_digests_for_the_duplicate_check(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 10**9)
    spool.append([framed(body) for body in BODIES])
    spool.rotate()
    spool.forget(spool.closed()[0])
    assert spool.closed() == [] and spool.held_bytes == 0
    spool.close()
    assert Spool(tmp_path, 10**9).recent_digests(60) == [segment.digest("acme", body) for body in BODIES]


def test_the_tenant_is_part_of_a_body_s_identity() -> None:
    assert segment.digest("acme", b"x") != segment.digest("other", b"x")
    long = "a-tenant-whose-name-is-longer-than-the-key-of-a-hash-may-be-" * 2
    assert segment.digest(f"{long}1", b"x") != segment.digest(f"{long}2", b"x")


def test_appends_beside_rotations_stay_whole(tmp_path: Path) -> None:
    spool, done = Spool(tmp_path, 10**9), threading.Event()

    def rotate() -> None:
        while not done.is_set():
            spool.rotate()

    rotating = threading.Thread(target=rotate)
    rotating.start()
    bodies = [b"%d" % n for n in range(300)]
    for body in bodies:
        spool.append([framed(body)])
    done.set()
    rotating.join()
    spool.rotate()
    digests = [digest for closed in spool.closed() for digest in segment.digests(closed.path)]
    assert digests == [segment.digest("acme", body) for body in bodies]
    assert spool.held_bytes == sum(closed.size for closed in spool.closed()) == sum(len(framed(b)) for b in bodies)


def test_a_segment_ends_at_its_size_also_while_nobody_rotates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooling, "SEGMENT_BYTES", 1000)
    spool = Spool(tmp_path, 10**9)
    for _ in range(20):
        spool.append([framed(os.urandom(300))])
    assert max(closed.size for closed in spool.closed()) <= 1000 and len(spool.closed()) >= 6


def test_a_disk_that_is_nearly_full_is_left_to_the_store(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 10**9, min_free_bytes=2**62)
    with pytest.raises(SpoolFullError, match="stay free"):
        spool.append([framed(b"x")])
    assert list(tmp_path.iterdir()) == []


def test_digests_past_their_time_are_removed_while_the_collector_runs(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 10**9)
    old = tmp_path / "0.seen"
    old.write_bytes(b"d" * 16)
    then = time.time() - spooling.DIGESTS_KEPT_S - 1
    os.utime(old, (then, then))
    spool.append([framed(b"x")])
    spool.rotate()
    spool.forget(spool.closed()[0])
    assert [path.suffix for path in tmp_path.iterdir()] == [".seen"] and not old.exists()


def test_a_forgotten_segment_frees_its_room_on_a_disk_that_takes_no_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    spool = Spool(tmp_path, 10**9)
    spool.append([framed(b"x")])
    spool.rotate()
    monkeypatch.setattr(spooling, "write_durably", full)
    spool.forget(spool.closed()[0])
    assert list(tmp_path.iterdir()) == [] and spool.held_bytes == 0
