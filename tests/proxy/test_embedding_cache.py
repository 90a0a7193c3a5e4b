from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse

from farthing.errors import UpstreamError
from proxy.embedding_cache import ENTRY_BYTES, EmbeddingCache, Joined

TEXTS = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=8)


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def upstream(body: bytes) -> bytes:
    """Answer as an upstream does, last input first; a text's vector is its bytes, and each costs its length."""
    inputs = json.loads(body)["input"]
    numbers = [[float(ord(c)) if isinstance(c, str) else float(c) for c in one] for one in inputs]
    data = [{"object": "embedding", "index": i, "embedding": one} for i, one in enumerate(numbers)]
    tokens = sum(map(len, inputs))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json.dumps({"object": "list", "data": data[::-1], "model": "up", "usage": usage}).encode()


def ask(
    cache: EmbeddingCache, value: Any, tenant: str = "t", model: str = "m", **fields: Any
) -> tuple[Joined, list[Any]]:
    plan = cache.plan(tenant, model, {"model": "alias", "input": value, **fields})
    sent = json.loads(plan.forward)["input"] if plan.forward else []
    return cache.join(plan, upstream(plan.forward) if plan.forward else b""), sent


def vectors(joined: Joined) -> list[str]:
    data = CreateEmbeddingResponse.model_validate_json(joined.body).data
    assert [one.index for one in data] == list(range(len(data)))
    return ["".join(chr(int(number)) for number in one.embedding) for one in data]


def test_only_the_inputs_that_are_new_are_sent_on() -> None:
    cache = EmbeddingCache(100_000, 60)
    first, sent = ask(cache, ["aa", "b"])
    assert sent == ["aa", "b"] and vectors(first) == ["aa", "b"] and (first.billed_tokens, first.saved_tokens) == (3, 0)
    second, sent = ask(cache, ["cccc", "b", "aa"])
    assert sent == ["cccc"] and vectors(second) == ["cccc", "b", "aa"]
    assert (second.billed_tokens, second.saved_tokens) == (4, 3)
    usage = CreateEmbeddingResponse.model_validate_json(second.body).usage
    assert (usage.prompt_tokens, usage.total_tokens) == (4, 4)
    third, sent = ask(cache, "aa")
    assert sent == [] and vectors(third) == ["aa"] and (third.billed_tokens, third.saved_tokens) == (0, 2)
    assert json.loads(third.body)["model"] == "up"
    assert (cache.hits, cache.misses, cache.saved_tokens) == (3, 3, 5)


def test_an_input_that_a_request_has_twice_is_sent_once() -> None:
    joined, sent = ask(EmbeddingCache(100_000, 60), ["aa", "b", "aa"])
    assert sent == ["aa", "b"] and vectors(joined) == ["aa", "b", "aa"]
    assert (joined.billed_tokens, joined.saved_tokens) == (3, 2)


@given(st.lists(TEXTS, min_size=1, max_size=6), st.integers(0, 3000))
def test_whatever_is_cached_the_answer_is_that_of_the_upstream(requests: list[list[str]], max_bytes: int) -> None:
    cache = EmbeddingCache(max_bytes, 60)
    for texts in requests:
        joined, sent = ask(cache, texts)
        assert vectors(joined) == texts
        assert joined.billed_tokens == sum(map(len, sent))
        assert joined.billed_tokens + joined.saved_tokens == sum(map(len, texts))
        assert cache.bytes <= max_bytes


@pytest.mark.parametrize(
    "other",
    [{"tenant": "u"}, {"model": "n"}, {"dimensions": 4}, {"encoding_format": "base64"}, {"input_type": "query"}],
    ids=str,
)
def test_what_could_change_the_vector_keeps_requests_apart(other: dict[str, Any]) -> None:
    cache = EmbeddingCache(100_000, 60)
    ask(cache, ["aa"])
    assert ask(cache, ["aa"], **other)[1] == ["aa"]


def test_what_changes_nothing_does_not() -> None:
    cache = EmbeddingCache(100_000, 60)
    ask(cache, ["aa"], user="ann")
    assert ask(cache, "aa", user="bob", encoding_format="float", dimensions=None)[1] == []


def test_a_text_of_digits_and_tokens_are_different_inputs() -> None:
    cache = EmbeddingCache(100_000, 60)
    ask(cache, "[97,98]")
    joined, sent = ask(cache, [97, 98])
    assert sent == [[97, 98]] and vectors(joined) == ["ab"]
    assert ask(cache, [[97, 98], [97]])[1] == [[97]]


def test_a_vector_is_served_until_its_time_is_over() -> None:
    clock = Clock()
    cache = EmbeddingCache(100_000, 60, clock)
    ask(cache, "aa")
    clock.now = 60
    assert ask(cache, "aa")[1] == []
    clock.now = 60.1
    assert ask(cache, "aa")[1] == ["aa"] and len(cache) == 1


def test_the_least_recently_used_vector_goes_first() -> None:
    size = ENTRY_BYTES + len("[97.0]")
    cache = EmbeddingCache(2 * size, 60)
    for text in ("a", "b", "a", "c"):
        ask(cache, text)
    assert (len(cache), cache.evictions, cache.bytes) == (2, 1, 2 * size)
    assert ask(cache, ["a", "c"])[1] == [] and ask(cache, "b")[1] == ["b"]


@pytest.mark.parametrize(
    "answered",
    [
        b"{}",
        b"not json",
        b'{"data":[]}',
        b'{"data":[{"index":0,"embedding":[1]}]}',
        b'{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[2]}]}',
        b'{"data":[{"index":0,"embedding":[1]},{"index":2,"embedding":[2]}]}',
    ],
)
def test_an_answer_that_is_not_one_vector_an_input_is_an_error_and_is_not_kept(answered: bytes) -> None:
    cache = EmbeddingCache(100_000, 60)
    plan = cache.plan("t", "m", {"model": "m", "input": ["a", "b"]})
    with pytest.raises(UpstreamError):
        cache.join(plan, answered)
    assert len(cache) == 0


def test_an_upstream_that_tells_no_usage_bills_and_saves_nothing() -> None:
    cache = EmbeddingCache(100_000, 60)
    plan = cache.plan("t", "m", {"model": "m", "input": "a"})
    joined = cache.join(plan, b'{"data":[{"index":0,"embedding":"AAAA"}]}')
    assert (joined.billed_tokens, joined.saved_tokens) == (0, 0)
    assert json.loads(joined.body)["data"] == [{"object": "embedding", "index": 0, "embedding": "AAAA"}]
