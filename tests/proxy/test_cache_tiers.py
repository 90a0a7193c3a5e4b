"""The tiers behind the memory: bounded, sealed, back after a restart, and never an error where one is away."""
from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from farthing.errors import SettingsError
from farthing.policy.caching import CacheAction
from farthing.prices import Usage
from proxy.cache import Entry
from proxy.cache_disk import DiskCache
from proxy.cache_packed import name_of, packed, unpacked
from proxy.cache_shared import SharedCache
from proxy.cache_tiers import Tiers
from proxy.embedding_cache import Item
from tests.redis_server import RedisServer

SECRET = b"s" * 32
DISK, SHARED = CacheAction(disk=True), CacheAction(shared=True)


def entry(body: bytes = b"answer", at: float = 1000.0) -> Entry:
    return Entry(body, b"application/json", Usage(1, output=2), "id", at)


def test_what_was_packed_comes_back_as_it_was() -> None:
    item = Item(b'"AAAA"', 1.5, "up", 7.0)
    for value in (entry(), item):
        assert unpacked(packed(value, "n", SECRET), type(value), "n", SECRET) == value
    assert name_of("a", SECRET) != name_of("b", SECRET) != name_of("b", b"other")


def test_a_value_that_was_changed_swapped_or_sealed_with_another_key_does_not_open() -> None:
    sealed = packed(entry(), "n", SECRET)
    for position in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[position] ^= 1
        assert unpacked(bytes(damaged), Entry, "n", SECRET) is None
    assert all(unpacked(sealed[:end], Entry, "n", SECRET) is None for end in range(len(sealed)))
    assert unpacked(sealed, Entry, "m", SECRET) is None and unpacked(sealed, Entry, "n", b"other") is None
    assert unpacked(packed([1], "n", SECRET), Entry, "n", SECRET) is None  # of another version


def find(tiers: Tiers, *keys: str, action: CacheAction = DISK, now: float = 1000.0) -> dict[str, bytes]:
    found = asyncio.run(tiers.find(keys, Entry, action, now))
    return {key: value.body for key, value in found.items()}


def disk_in(folder: Path, max_bytes: int = 2**20, *bodies: bytes) -> Tiers:
    """Return tiers over a folder in which `bodies` have been kept under their numbers, oldest first."""
    tiers = Tiers(SECRET, DiskCache(folder, max_bytes))
    for number, body in enumerate(bodies):
        tiers.put(str(number), entry(body), DISK)
    assert tiers.disk is not None
    tiers.disk.close()
    return Tiers(SECRET, DiskCache(folder, max_bytes))


def test_the_disk_is_there_after_a_restart_and_forgets_by_the_policy_s_time(tmp_path: Path) -> None:
    tiers = disk_in(tmp_path / "cache", 2**20, b"zero", b"one")
    assert find(tiers, "0", "1", "2") == {"0": b"zero", "1": b"one"}
    assert find(tiers, "0", now=1000.0 + DISK.ttl_s + 1) == {}
    assert find(tiers, "0", action=CacheAction()) == {}  # the policy did not ask for it
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o600"}
    assert tiers.counts()["disk"].hits == 3


def test_a_damaged_file_is_dropped_and_not_served(tmp_path: Path) -> None:
    tiers = disk_in(tmp_path, 2**20, b"zero")
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    path.write_bytes(path.read_bytes()[:-1])
    assert find(tiers, "0") == {}
    assert tiers.disk is not None
    tiers.disk.close()
    assert not path.exists() and tiers.counts()["disk"].damaged == 1


def test_the_disk_stays_within_its_bound_and_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    most = 64 * 4096
    tiers = disk_in(tmp_path, most, *[b"x" * 3000] * 50)
    for number in range(50):
        path = tmp_path / name_of(str(number), SECRET)[:2] / name_of(str(number), SECRET)
        os.utime(path, (number, number))
    assert find(tiers, "0") != {}  # used: the oldest is now the newest
    for number in range(50, 90):
        tiers.put(str(number), entry(b"x" * 3000), DISK)
    assert tiers.disk is not None
    tiers.disk.close()
    sizes = [path.stat().st_blocks * 512 for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(sizes) <= most and tiers.disk.evictions >= 90 - 64
    again = Tiers(SECRET, DiskCache(tmp_path, most))
    assert set(find(again, "0", "1", "2", "89")) == {"0", "89"}


def test_what_does_not_fit_is_dropped_and_counted(tmp_path: Path) -> None:
    tiers = disk_in(tmp_path / "small", 8 * 4096)
    tiers.put("0", entry(b"x" * 9000), DISK)
    assert tiers.counts()["disk"].dropped == 1
    (tmp_path / "file").write_text("")  # where the folder should be
    broken = disk_in(tmp_path / "file", 2**20, b"zero")
    assert find(broken, "0") == {}


def test_what_was_never_finished_is_litter_after_a_while(tmp_path: Path) -> None:
    disk_in(tmp_path, 2**20, b"zero")
    litter = tmp_path / "ab" / f"{'ab' * 16}.1-0"
    litter.parent.mkdir(exist_ok=True)
    litter.write_bytes(b"half")
    os.utime(litter, (0, 0))
    disk_in(tmp_path, 2**20, b"zero")
    assert not litter.exists()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


async def there(shared: SharedCache) -> None:
    deadline = time.monotonic() + 120
    while shared.is_away:
        assert time.monotonic() < deadline, "the server is never there"
        await asyncio.sleep(0.01)


def test_two_proxies_share_what_one_of_them_keeps(redis: RedisServer) -> None:
    async def act() -> None:
        one, other = (Tiers(SECRET, shared=SharedCache(redis.url)) for _ in range(2))
        stranger = Tiers(b"another key", shared=SharedCache(redis.url))
        for tiers in (one, other, stranger):
            tiers.start()
            assert tiers.shared is not None
            await there(tiers.shared)
        one.put("k", entry(b"shared"), SHARED)
        one.put("brief", entry(b"brief"), CacheAction(shared=True, ttl_s=0.001))
        await one.close()
        await asyncio.sleep(0.02)  # twenty times what the brief one lives
        found = await other.find(["k", "brief", "none"], Entry, SHARED, 1000.0)
        assert {key: value.body for key, value in found.items()} == {"k": b"shared"}
        assert await stranger.find(["k"], Entry, SHARED, 1000.0) == {}
        assert other.counts()["shared"].hits == 1
        await other.close()
        await stranger.close()

    asyncio.run(act())


def test_a_server_that_goes_away_is_a_miss_and_comes_back_by_itself(redis: RedisServer) -> None:
    async def act() -> None:
        tiers = Tiers(SECRET, shared=(shared := SharedCache(redis.url)))
        tiers.start()
        await there(shared)
        redis.stop()
        assert await tiers.find(["k"], Entry, SHARED, 0.0) == {} and shared.is_away
        failures = shared.failures
        for _ in range(1000):
            assert await tiers.find(["k"], Entry, SHARED, 0.0) == {}
            tiers.put("k", entry(), SHARED)
        assert shared.failures == failures and shared.dropped == 1000  # nothing is asked of it meanwhile
        redis.start()
        await there(shared)
        tiers.put("k", entry(), SHARED)
        await asyncio.wait_for(asyncio.shield(shared._writer), 20)  # type: ignore[arg-type] # it has just begun
        assert await tiers.find(["k"], Entry, SHARED, 1000.0) != {}
        await tiers.close()

    asyncio.run(act())


def test_a_server_that_was_never_there_delays_nobody() -> None:
    async def act() -> None:
        tiers = Tiers(SECRET, shared=SharedCache("redis://127.0.0.1:1/0"))
        tiers.start()
        assert await tiers.find(["k"], Entry, SHARED, 0.0) == {}
        tiers.put("k", entry(), SHARED)
        assert tiers.counts()["shared"].is_away and tiers.counts()["shared"].dropped == 1
        await tiers.close()

    asyncio.run(act())


def test_an_address_that_is_none_stops_the_start() -> None:
    with pytest.raises(SettingsError, match=r"cache_redis_url.*redis://"):
        SharedCache("localhost:6379")
