"""farthing/cached.py: what is kept, for whom, for how long, and what the spans of the calls say."""
from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import farthing
from farthing import cached, semconv
from farthing.app_cache import AppCache, Entry
from farthing.app_cache_key import NoKeyError, cache_key, canonical
from farthing.app_flights import Flights
from farthing.errors import SettingsError


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(cached, "_tracer", provider.get_tracer("farthing.cached"))
    yield exporter
    provider.shutdown()


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def outcomes(exporter: InMemorySpanExporter) -> list[str]:
    return [told(span)[semconv.CACHE_OUTCOME] for span in exporter.get_finished_spans()]


def test_a_repeat_is_answered_from_the_cache_and_says_what_it_saved(spans: InMemorySpanExporter) -> None:
    made: list[str] = []

    @farthing.cached_tool(cost_usd="0.002")
    def stock(item: str, *, shop: str = "north") -> dict[str, int]:
        made.append(item)
        return {item: len(made)}

    assert stock("tea") == stock(item="tea", shop="north") == {"tea": 1}
    assert stock("tea", shop="south") == {"tea": 2}
    assert outcomes(spans) == ["miss", "hit", "miss"]
    hit = spans.get_finished_spans()[1]
    assert hit.name == "execute_tool stock"
    assert (told(hit)[semconv.CACHE_LEVEL], told(hit)[semconv.CACHE_NAME]) == ("tool", "stock")
    assert told(hit)[semconv.CACHE_SAVED_NUSD] == 2_000_000 and told(hit)[semconv.CACHE_SAVED_SECONDS] > 0
    assert 0 < told(hit)[semconv.CACHE_BYTES] < told(hit)[semconv.CACHE_HELD_BYTES]
    counts = stock.cache_counts()  # type: ignore[attr-defined]
    assert (counts.hits, counts.misses, counts.entries) == (1, 2, 2)


def test_changing_a_result_does_not_change_what_is_kept() -> None:
    @farthing.cached_component()
    def context(topic: str) -> list[str]:
        return [topic]

    first = context("tea")
    first.append("poison")
    second = context("tea")
    second.append("more")
    assert context("tea") == ["tea"]


def test_an_error_is_never_kept(spans: InMemorySpanExporter) -> None:
    made: list[int] = []

    @farthing.cached_tool()
    def flaky() -> str:
        made.append(1)
        if len(made) == 1:
            raise ConnectionError("away")
        return "here"

    with pytest.raises(ConnectionError):
        flaky()
    assert (flaky(), flaky(), len(made)) == ("here", "here", 2)
    assert outcomes(spans) == ["miss", "miss", "hit"]
    assert told(spans.get_finished_spans()[0])[semconv.ERROR_TYPE] == "ConnectionError"


def test_results_are_parted_by_tags_and_not_kept_without_them(spans: InMemorySpanExporter) -> None:
    made: list[str] = []

    @farthing.cached_tool(per=("tenant", "user"))
    def inbox() -> int:
        made.append("x")
        return len(made)

    with farthing.tags(tenant="acme", user="ann"):
        assert (inbox(), inbox()) == (1, 1)
    with farthing.tags(tenant="acme", user="bob"):
        assert inbox() == 2
    with farthing.tags(user="ann"):
        assert (inbox(), inbox()) == (3, 4)
    assert outcomes(spans) == ["miss", "hit", "miss", "skipped", "skipped"]


def test_a_tool_with_effects_is_recorded_and_never_cached(spans: InMemorySpanExporter) -> None:
    made: list[int] = []

    @farthing.cached_tool(cacheable=False)
    def send() -> None:
        made.append(1)

    send()
    send()
    assert (len(made), outcomes(spans)) == (2, ["skipped", "skipped"])


def test_a_result_may_be_refused_by_what_it_is() -> None:
    made: list[int] = []

    @farthing.cached_tool(cacheable=lambda found: bool(found))
    def find(word: str) -> list[str]:
        made.append(1)
        return [word] if len(made) > 1 else []

    assert (find("a"), find("a"), find("a"), len(made)) == ([], ["a"], ["a"], 2)


def test_what_cannot_be_a_key_or_cannot_be_kept_is_done_each_time(spans: InMemorySpanExporter) -> None:
    @farthing.cached_tool()
    def of(value: object) -> object:
        return threading.Lock() if value == "lock" else value

    for value in (object(), "lock"):
        of(value)
        of(value)
    assert outcomes(spans) == ["skipped"] * 4


def test_an_argument_that_is_ignored_does_not_part_results() -> None:
    class Shop:
        made = 0

        @farthing.cached_tool(ignore="self")
        def price(self, item: str) -> int:
            Shop.made += 1
            return Shop.made

    assert (Shop().price("tea"), Shop().price("tea"), Shop().price("milk")) == (1, 1, 2)


def test_threads_that_ask_at_once_work_once(spans: InMemorySpanExporter) -> None:
    release, made = threading.Event(), []

    @farthing.cached_tool()
    def slow(item: str) -> str:
        made.append(item)
        release.wait(120)
        return item

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(slow, "tea") for _ in range(4)]
        release.set()
        assert [one.result() for one in asked] == ["tea"] * 4
    assert made == ["tea"] and outcomes(spans).count("miss") == 1


def test_tasks_that_ask_at_once_work_once_and_a_cancelled_leader_leaves_the_work_to_them() -> None:
    made: list[str] = []

    @farthing.cached_tool()
    async def slow(item: str) -> str:
        made.append(item)
        await asyncio.sleep(0.01 if len(made) > 1 else 30)
        return item

    async def together() -> list[str]:
        leader = asyncio.create_task(slow("tea"))
        await asyncio.sleep(0)
        others = [asyncio.create_task(slow("tea")) for _ in range(2)]
        await asyncio.sleep(0)
        leader.cancel()
        found = list(await asyncio.gather(*others))
        return [*found, *await asyncio.gather(*(slow("milk") for _ in range(3)))]

    assert asyncio.run(together()) == ["tea", "tea", "milk", "milk", "milk"]
    assert made.count("milk") == 1 and made.count("tea") == 3


def test_a_function_that_calls_itself_for_the_same_does_not_wait_for_itself() -> None:
    depth: list[int] = []

    @farthing.cached_tool(ignore="left")
    def down(left: int) -> int:
        depth.append(left)
        return down(left - 1) if left else 0

    assert (down(2), depth) == (0, [2, 1, 0])


def test_a_flight_is_over_when_it_lands() -> None:
    flights = Flights()
    flight, is_ours = flights.join("key", 1, threading.Event())
    assert is_ours and flights.join("key", 2, threading.Event()) == (flight, False)
    assert flight is not None
    flights.land("key", flight)
    assert flights.join("key", 2, threading.Event())[1]


def entry(size: int, ends_at: float = 10.0) -> Entry:
    return Entry(b"x" * (size - 256), 1.0, None, ends_at)


def test_results_end_and_those_used_longest_ago_make_room() -> None:
    now = [0.0]
    cache = AppCache(1000, lambda: now[0])
    for name in (b"a", b"b", b"c"):
        assert cache.put(name, entry(300)) == 0
    cache.get(b"a")
    assert cache.put(b"d", entry(300)) == 1
    assert [cache.get(name) is not None for name in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    cache.put(b"huge", entry(1001))
    assert cache.get(b"huge") is None and cache.counts().evictions == 1 and cache.size == 900
    now[0] = 10.0
    assert cache.get(b"a") is None and cache.counts().entries == 2


class Colour(Enum):
    RED = 1


@dataclass(frozen=True)
class Point:
    x: int


DIFFERENT: list[Any] = [
    None, True, 1, 1.0, "1", b"1", [1], (1,), {1}, {"1": 1}, {1: 1}, Colour.RED, Point(1), Decimal(1), date(2026, 1, 1),
    datetime(2026, 1, 1), PurePath("1"), [[1]], ["1"], "", [], {}, [None],
]  # fmt: skip


def test_values_of_different_kinds_have_different_keys() -> None:
    assert len({canonical(value) for value in DIFFERENT}) == len(DIFFERENT)
    with pytest.raises(NoKeyError):
        canonical(object())
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(NoKeyError):
        canonical(deep)


VALUES = some.recursive(
    some.none() | some.booleans() | some.integers() | some.text(max_size=4) | some.binary(max_size=4),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def typed(value: Any) -> Any:
    """Return a value that is equal only where the kinds are equal too."""
    if isinstance(value, list):
        return ["list", *map(typed, value)]
    if isinstance(value, dict):
        return {name: typed(one) for name, one in value.items()}
    return type(value).__name__, value


@settings(max_examples=80, deadline=None)
@given(VALUES, VALUES)
def test_two_values_share_a_key_only_where_they_are_the_same(one: Any, other: Any) -> None:
    is_same = typed(one) == typed(other)
    assert (canonical(one) == canonical(other)) == is_same
    assert (cache_key(("a",), {"x": one}) == cache_key(("a",), {"x": other})) == is_same
    assert cache_key(("a",), {"x": one}) != cache_key(("b",), {"x": one})


def generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("given", "words"),
    [({"ttl_s": 0}, "ttl_s"), ({"max_bytes": 0}, "max_bytes"), ({"cost_usd": "much"}, "cost_usd"),
     ({"ignore": "nobody"}, "nobody"), ({}, "generator")],
)  # fmt: skip
def test_what_cannot_be_is_said_where_it_is_written(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        farthing.cached_tool(**given)(generator)
