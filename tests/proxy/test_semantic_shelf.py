"""proxy/semantic_shelf.py: what was learned is there after a restart, as it was, and nothing that was tampered with."""
from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from proxy import semantic_level, semantic_shelf
from proxy.cache_disk import DiskCache
from proxy.semantic import Partition, SemanticCache
from proxy.semantic_agree import agree, vector_mark
from proxy.semantic_guard import guard
from proxy.semantic_shelf import Shelf
from proxy.semantic_store import Answer, Example, Reply
from tests.proxy.rig import Rig, until
from tests.proxy.test_caching import another
from tests.proxy.test_semantic import KEY, PLAIN, SERVE, Clock, ask, near, query, teach, unit
from tests.proxy.test_semantic_level import ANSWERS, QUESTION, learned, policy, provider
from tests.proxy.test_semantic_level import ask as ask_proxy


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskCache]:
    made = DiskCache(tmp_path / "disk", 256 * 1024 * 1024)
    yield made
    made.close()


def written(disk: DiskCache, cache: SemanticCache, name: str = "policy") -> Shelf:
    """Write everything a cache has learned, and return where it lies once it is there."""
    shelf = Shelf(disk, name, KEY)
    for key, partition in cache.partitions():
        asyncio.run(shelf.keep(key, partition, 60))
    disk.close()  # waits for what is being written
    return Shelf(DiskCache(disk._folder, 256 * 1024 * 1024), name, KEY)  # pyright: ignore[reportPrivateUsage]


def recalled(shelf: Shelf, key: bytes = b"p", most: int = 10_000) -> Partition | None:
    partition = Partition(SERVE)
    return partition if asyncio.run(shelf.fill(key, partition, most)) else None


def test_a_new_cache_serves_at_once_what_an_earlier_one_had_learned(disk: DiskCache) -> None:
    random, cache = Random(1), SemanticCache(Random(1).random, Clock())
    teach(cache, random)
    ((_, before),) = cache.partitions()
    after = recalled(written(disk, cache))
    assert after is not None
    assert after.threshold.score == before.threshold.score and after.threshold.upper == before.threshold.upper
    assert len(after.examples) == len(before.examples) and after.examples.bytes == before.examples.bytes
    fresh = SemanticCache(Random(2).random, Clock())
    fresh.adopt(b"p", after)
    found = ask(fresh, query(near(2, random)), "answer 2")
    assert found.kind == "hit" and found.reply.body == b"answer 2"


def test_an_alarm_and_an_answer_s_own_errors_outlive_a_restart(disk: DiskCache) -> None:
    cache = SemanticCache(Random(1).random, Clock())
    teach(cache, Random(1))
    ((_, before),) = cache.partitions()
    for number, answer in enumerate(before.examples.answers()):
        answer.checks_due, answer.alarms = 10 - number, number
        answer.bodies.update(range(number))
    after = recalled(written(disk, cache))
    assert after is not None

    def known(partition: Partition) -> dict[bytes, object]:
        return {one.reply.body: (one.checks_due, one.alarms, one.bodies, list(one.outcomes), one.confirmed_at)
                for one in partition.examples.answers()}  # fmt: skip

    assert known(after) == known(before)


def test_nobody_gets_what_another_partition_policy_or_key_has_learned(disk: DiskCache) -> None:
    cache = SemanticCache(Random(1).random, Clock())
    teach(cache, Random(1))
    shelf = written(disk, cache)
    folder = shelf._disk  # pyright: ignore[reportPrivateUsage]
    assert recalled(shelf) is not None
    assert recalled(shelf, b"another tenant's") is None
    assert recalled(Shelf(folder, "another policy", KEY)) is None
    assert recalled(Shelf(folder, "policy", b"another key")) is None


def test_what_was_damaged_is_dropped_and_counted(disk: DiskCache) -> None:
    cache = SemanticCache(Random(1).random, Clock())
    teach(cache, Random(1))
    shelf = written(disk, cache)
    folder = shelf._disk  # pyright: ignore[reportPrivateUsage]
    (path,) = folder._folder.glob("??/*")  # pyright: ignore[reportPrivateUsage]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert recalled(shelf) is None
    folder.close()
    assert folder.damaged == 1 and not path.exists()


def test_of_more_than_is_kept_the_examples_that_were_used_last_are(
    disk: DiskCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = SemanticCache(Random(1).random, Clock())
    teach(cache, Random(1))
    monkeypatch.setattr(semantic_shelf, "MAX_BYTES", 1000)
    shelf = written(disk, cache)
    few, fewer = recalled(shelf), recalled(shelf, most=3)
    assert few is not None and fewer is not None
    ((_, whole),) = cache.partitions()
    assert 3 < len(few.examples) < len(whole.examples) and len(fewer.examples) == 3
    for partition in (few, fewer):
        pairs = zip(partition.examples.latest(), whole.examples.latest(), strict=False)
        assert all((mine == theirs).all() for (mine, _), (theirs, _) in pairs)


def test_an_answer_that_is_compared_by_meaning_still_is(disk: DiskCache) -> None:
    cache = SemanticCache(Random(1).random, Clock())
    mark = vector_mark("about 5 days", near(1, Random(1)), KEY)
    partition = Partition(SERVE)
    partition.examples.add(unit(near(1, Random(2))), Example(PLAIN, Answer(Reply(b"about 5 days", mark), 1.0)), 10)
    cache.adopt(b"p", partition)
    after = recalled(written(disk, cache))
    assert after is not None
    (answer,) = after.examples.answers()
    assert agree(answer.reply.mark, mark)
    assert not agree(answer.reply.mark, vector_mark("about 6 days", near(1, Random(1)), KEY))
    assert answer.reply.mark.guard == guard("about 5 days", KEY)


def test_a_proxy_that_starts_serves_what_one_before_it_had_learned(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = rig.budget()
    policy(rig, team, serve=True)
    rule = {"embedder": "gpt-plain", "delta": 0.2, "verify_share": 0.001, "embed_timeout_s": 10, "serve": True}
    rig.cache(team, exact=False, disk=True, semantic=rule)
    rig.upstream.next(provider())
    monkeypatch.setattr(semantic_level, "_SAVE_S", 0.0)
    folder, first = tmp_path / "one", rig.proxy
    try:
        with another(rig, folder) as rig.proxy:
            for n in range(36):
                ask_proxy(rig, team, QUESTION + "?!. "[n % 4])
            assert learned(rig, team)["seen"]["hits"] > 0
            until(lambda: list((folder / "proxy" / "cache").glob("??/*")), "it is written while the proxy runs")
        with another(rig, folder) as rig.proxy:
            assert ask_proxy(rig, team, QUESTION + "??") == (ANSWERS[QUESTION], "semantic")
    finally:
        rig.proxy = first
