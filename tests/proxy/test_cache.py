"""proxy/cache.py: bounded in bytes and in age, and never across tenants."""
from __future__ import annotations

from farthing.prices import Usage
from proxy.cache import ENTRY_BYTES, Entry, ExactCache, Key, Shape


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def key(name: str, tenant: str = "acme", shape: Shape = "answer") -> Key:
    return (tenant, "chat/completions", name, "model", shape)


def put(cache: ExactCache, name: str, body: bytes, room: int = 100) -> None:
    """Put an entry into a cache that holds three of them with `room` bytes of bodies in all."""
    entry = Entry(body, b"application/json", Usage(1, 0, 0, 1), "id", stored_at=0.0)
    cache.put(key(name), entry, 3 * ENTRY_BYTES + room)


def test_an_entry_is_served_until_its_time_is_over() -> None:
    clock = Clock()
    cache = ExactCache(clock)
    put(cache, "a", b"answer")
    clock.now = 60.0
    found = cache.get(key("a"), ttl_s=60)
    assert found is not None and found.body == b"answer"
    clock.now = 60.1
    assert cache.get(key("a"), ttl_s=60) is None and cache.size == 0
    assert (cache.hits, cache.misses) == (1, 1)


def test_the_least_recently_used_goes_first() -> None:
    cache = ExactCache(Clock())
    for name in "abc":
        put(cache, name, b"x" * 30)
    cache.get(key("a"), 60)
    put(cache, "d", b"x" * 30)
    assert [cache.get(key(name), 60) is not None for name in "abcd"] == [True, False, True, True]
    assert (cache.size, cache.evictions, len(cache)) == (90 + 3 * ENTRY_BYTES, 1, 3)


def test_what_alone_is_larger_than_the_bound_is_not_kept() -> None:
    cache = ExactCache(Clock())
    put(cache, "a", b"x" * (101 + 2 * ENTRY_BYTES))
    assert cache.get(key("a"), 60) is None and cache.size == 0


def test_an_answer_of_one_tenant_is_not_served_to_another() -> None:
    cache = ExactCache(Clock())
    put(cache, "a", b"secret")
    assert cache.get(key("a", tenant="other"), 60) is None


def test_a_replaced_entry_is_counted_once() -> None:
    cache = ExactCache(Clock())
    put(cache, "a", b"x" * 40)
    put(cache, "a", b"x" * 50)
    assert cache.size == 50 + ENTRY_BYTES


def test_an_answer_that_cannot_be_told_as_events_is_a_miss_for_who_wants_events() -> None:
    cache = ExactCache(Clock())
    put(cache, "a", b"no answer of that API")
    assert cache.get(key("a", shape="events"), 60) is None
    assert (cache.hits, cache.misses, len(cache)) == (0, 1, 1)
