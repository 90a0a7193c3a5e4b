from __future__ import annotations

from typing import Any

import pytest

from proxy.semantic_request import MAX_TEXT, Split, split

KEY = b"key"
USER = {"role": "user", "content": "What is it?"}
ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "system", "content": "Be brief."}, USER], "temperature": 0}


def parted(request: dict[str, Any], tenant: str = "t", served: str = "s", key: bytes = KEY) -> Split:
    found = split(request, tenant, served, key)
    assert isinstance(found, Split)
    return found


def test_the_text_is_the_user_message_and_the_rest_is_the_partition() -> None:
    found = parted(ASKED)
    other = parted(ASKED | {"messages": [ASKED["messages"][0], {"role": "user", "content": "Who is it?"}]})
    assert (found.text, other.text) == ("What is it?", "Who is it?")
    assert found.partition == other.partition and found.body != other.body


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [USER]},
        {"messages": [{"role": "system", "content": "Be brief"}, USER]},
        {"messages": [{"role": "developer", "content": "Be brief."}, USER]},
        {"messages": [ASKED["messages"][0], USER | {"name": "ann"}]},
        {"max_tokens": 5},
        {"top_p": 0.5},
        {"stream": True},
        {"response_format": {"type": "json_object"}},
        {"a_field_of_tomorrow": 1},
    ],
    ids=str,
)
def test_whatever_else_differs_keeps_requests_apart(change: dict[str, Any]) -> None:
    assert parted(ASKED | change).partition != parted(ASKED).partition


def test_tenants_models_and_keys_are_apart() -> None:
    partitions = {
        parted(ASKED).partition,
        parted(ASKED, tenant="u").partition,
        parted(ASKED, served="r").partition,
        parted(ASKED, tenant="ts", served="").partition,
        parted(ASKED, key=b"other").partition,
    }
    assert len(partitions) == 5


def test_what_no_answer_depends_on_does_not_keep_requests_apart() -> None:
    assert parted(ASKED | {"user": "ann", "model": "alias", "stop": None}).partition == parted(ASKED).partition


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"temperature": 0.7}, "sampled"),
        ({"temperature": None}, "sampled"),
        ({"n": 2}, "choices"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logprobs": True}, "tools"),
        ({"messages": [USER, {"role": "assistant", "content": "x"}, USER]}, "turns"),
        ({"messages": [{"role": "system", "content": "x"}]}, "turns"),
        ({"messages": [{"role": "user", "content": "x" * (MAX_TEXT + 1)}]}, "length"),
        ({"messages": [{"role": "user", "content": ""}]}, "length"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "length"),
        ({"messages": ["What is it?"]}, "turns"),
        ({"messages": [None, USER]}, "turns"),
        ({"messages": [{"role": "user", "content": ["What is it?"]}]}, "length"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "length"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "length"),
    ],
    ids=str,
)
def test_requests_whose_text_is_not_all_that_counts_are_left_alone(change: dict[str, Any], why: str) -> None:
    assert split(ASKED | change, "t", "s", KEY) == why


def test_a_policy_may_allow_sampled_requests() -> None:
    assert isinstance(split(ASKED | {"temperature": 0.7}, "t", "s", KEY, allow_sampled=True), Split)


def test_text_in_parts_is_text() -> None:
    parts = [{"type": "text", "text": "What "}, {"type": "text", "text": "is it?"}]
    asked = ASKED | {"messages": [ASKED["messages"][0], {"role": "user", "content": parts}]}
    assert parted(asked).text == "What is it?"
