"""farthing/tags.py: whom a call is for, and how far that reaches."""
from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry import baggage
from opentelemetry.sdk.trace import Span, TracerProvider

from farthing import semconv, tags
from farthing.errors import SettingsError
from farthing.tags import MAX_HEADER_CHARS, current_tags
from farthing.tracing_post import Collector
from farthing.tracing_provider import Recorder
from farthing.tracing_queue import SpanQueue


@pytest.fixture
def provider() -> TracerProvider:
    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(Recorder(SpanQueue(Collector("http://127.0.0.1:1")), exit_s=0.1))
    return made


def started(provider: TracerProvider, scope: str = "any") -> dict[str, object]:
    span = provider.get_tracer(scope).start_span("work")
    assert isinstance(span, Span)
    return dict(span.attributes or {})


def values() -> dict[str, str]:
    found = current_tags()
    return dict(found.values) if found else {}


def test_every_span_below_carries_the_tags_whatever_tracer_made_it(provider: TracerProvider) -> None:
    with tags(team="search", user="ann", feature="answers", session="s1", tier="batch"):
        expected = {
            semconv.TEAM: "search",
            semconv.USER: "ann",
            semconv.FEATURE: "answers",
            semconv.SESSION: "s1",
            "farthing.tag.tier": "batch",
        }
        assert started(provider, "one") == started(provider, "another") == expected
    assert started(provider) == {}


def test_an_explicit_parent_context_without_tags_takes_those_in_force(provider: TracerProvider) -> None:
    from opentelemetry.context import Context

    with tags(team="search"):
        span = provider.get_tracer("any").start_span("work", context=Context())
    assert isinstance(span, Span)
    assert span.attributes == {semconv.TEAM: "search"}


def test_nested_tags_merge_and_the_inner_one_wins() -> None:
    with tags(team="search", user="ann"):
        with tags(user="bob", tier="batch"):
            assert values() == {"team": "search", "user": "bob", "tier": "batch"}
        assert values() == {"team": "search", "user": "ann"}
    assert values() == {}


def test_an_exception_leaves_no_tags_behind() -> None:
    with pytest.raises(ZeroDivisionError), tags(team="search"):
        _ = 1 / 0
    assert values() == {}


def test_a_decorated_function_is_tagged_during_each_call() -> None:
    @tags(team="search")
    def double(number: int) -> tuple[int, dict[str, str]]:
        return 2 * number, values()

    assert double(4) == (8, {"team": "search"})
    assert double.__name__ == "double"
    assert values() == {}


def test_a_decorated_coroutine_is_tagged_while_it_runs_and_not_its_neighbours() -> None:
    @tags(team="search")
    async def slow() -> dict[str, str]:
        await asyncio.sleep(0.01)
        return values()

    async def quick() -> dict[str, str]:
        await asyncio.sleep(0)
        async with tags(team="billing"):
            await asyncio.sleep(0.02)
            return values()

    async def both() -> list[dict[str, str]]:
        return list(await asyncio.gather(slow(), quick(), slow()))

    assert asyncio.run(both()) == [{"team": "search"}, {"team": "billing"}, {"team": "search"}]


def test_a_generator_cannot_be_decorated_because_its_body_runs_later() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(SettingsError, match="numbers"):
        tags(team="search")(numbers)


def test_values_become_text_of_at_most_256_characters_and_none_is_skipped() -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError("no")

    with tags(team=None, user=7, tier="x" * 1000, odd=Unprintable()):
        assert values() == {"user": "7", "tier": "x" * 256, "odd": "<unprintable Unprintable>"}


@pytest.mark.parametrize("name", ["", "with space", "comma,", "x" * 65, "tier=", "größe"])
def test_a_bad_name_is_refused_with_what_is_allowed(name: str) -> None:
    with pytest.raises(SettingsError, match="allowed are 1 to 64"):
        tags(**{name: "value"})


def test_the_header_is_percent_encoded() -> None:
    with tags(team="a b", user="änn,=", tier="x"):
        found = current_tags()
    assert found is not None
    assert found.header == "team=a%20b,user=%C3%A4nn%2C%3D,tier=x"


def test_tags_that_would_make_the_header_too_long_stay_on_the_span_only() -> None:
    with tags(team="search", **{f"t{i}": "ü" * 256 for i in range(10)}):
        found = current_tags()
    assert found is not None
    assert len(found.attributes) == 11
    assert found.header.startswith("team=search,t0=")
    assert len(found.header) <= MAX_HEADER_CHARS


def test_tags_are_no_baggage_which_others_would_send_on() -> None:
    with tags(team="search"):
        assert not baggage.get_all()
