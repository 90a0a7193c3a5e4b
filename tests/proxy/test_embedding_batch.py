"""proxy/embedding_batch.py: what was sent as one comes back as many, and the bill is split to the token."""
from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.errors import UpstreamError
from proxy.embedding_batch import inputs_of, shared_fields, split, taken_apart, whole_request


def answer(inputs: list[Any], tokens: int | None) -> bytes:
    """Answer as an upstream does, last input first; a vector is its input."""
    data = [{"object": "embedding", "index": n, "embedding": one} for n, one in enumerate(inputs)][::-1]
    usage = {} if tokens is None else {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    return json.dumps({"object": "list", "data": data, "model": "up"} | usage).encode()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.text("abü", min_size=1, max_size=9), min_size=1, max_size=4), min_size=1, max_size=6),
       st.integers(0, 10_000))  # fmt: skip
def test_each_caller_gets_its_own_vectors_and_the_shares_add_up(lists: list[list[str]], tokens: int) -> None:
    request = json.loads(whole_request({"model": "m", "input": "x", "user": "ann", "dimensions": 3}, lists))
    assert request == {"model": "m", "dimensions": 3, "input": [one for inputs in lists for one in inputs]}
    parts = [json.loads(one) for one in taken_apart(answer(request["input"], tokens), lists)]
    assert [[datum["embedding"] for datum in part["data"]] for part in parts] == lists
    assert [[datum["index"] for datum in part["data"]] for part in parts] == [list(range(len(one))) for one in lists]
    assert sum(part["usage"]["prompt_tokens"] for part in parts) == tokens


@given(st.integers(0, 10**9), st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_a_share_is_within_a_token_of_its_part(tokens: int, weights: list[int]) -> None:
    shares, whole = split(tokens, weights), sum(weights)
    assert sum(shares) == tokens or whole == 0
    assert all(abs(share * whole - tokens * one) < max(whole, 1) for share, one in zip(shares, weights, strict=True))


def test_what_the_upstream_does_not_bill_nobody_is_billed() -> None:
    (part,) = taken_apart(answer(["a"], None), [["a"]])
    assert "usage" not in json.loads(part)


@pytest.mark.parametrize("usage", [
    {"total_tokens": 3}, {"prompt_tokens": None}, {"prompt_tokens": -3}, {"prompt_tokens": "3"}, [], None,
], ids=["total", "null", "negative", "text", "list", "none"])  # fmt: skip
def test_usage_that_cannot_be_read_is_nobody_s_and_everybody_has_its_vectors(usage: object) -> None:
    body = json.dumps(json.loads(answer(["a", "b"], None)) | {"usage": usage}).encode()
    parts = [json.loads(one) for one in taken_apart(body, [["a"], ["b"]])]
    assert [part["data"][0]["embedding"] for part in parts] == ["a", "b"]
    assert not any("usage" in part for part in parts)


@pytest.mark.parametrize("body", [
    b"{}", b"[", answer(["a"], 1), answer(["a", "b", "c"], 1), b'{"model": "\xff", "data": []}',
    b'{"data": [], "x": ' + b"[" * 9999 + b"]" * 9999 + b"}",
], ids=["empty", "cut", "fewer", "more", "no UTF-8", "deep"])  # fmt: skip
def test_an_answer_that_is_not_one_vector_for_each_input_is_refused(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        taken_apart(body, [["a"], ["b"]])


def test_requests_meet_whatever_their_input_user_and_order_of_fields() -> None:
    one = {"model": "m", "input": "a", "user": "ann", "encoding_format": "float"}
    other = {"encoding_format": "float", "dimensions": None, "input": [1, 2], "model": "m"}
    assert shared_fields(one) == shared_fields(other) != shared_fields(one | {"dimensions": 2})
    assert inputs_of(one) == ["a"] and inputs_of(other) == [[1, 2]]
