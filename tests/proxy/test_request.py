"""proxy/request.py, bound.py, formats/chat.py: a request is read as its upstream will, and its cost is bounded."""
from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api_error import ApiError
from proxy.bound import IMAGE_TOKENS, TEMPLATE_TOKENS
from proxy.formats.chat import Chat
from proxy.request import MAX_COUNT

CHAT = Chat()
BASE: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def body_of(**more: Any) -> bytes:
    return msgspec.json.encode(BASE | more)


def with_text(text: str) -> bytes:
    """Return a request with further fields as they are written."""
    return body_of()[:-1] + b"," + text.encode() + b"}"


def refusal(body: bytes) -> ApiError:
    with pytest.raises(ApiError) as raised:
        CHAT.read(body)
    return raised.value


@pytest.mark.parametrize("text", [
    '"max_tokens":1,"max_tokens":100000',
    '"n":1,"n":128',
    '"stream":false,"stream":true',
    '"model":"cheap"',
    '"max_tokens":1,"max_\\u0074okens":100000',
    '"n" : 1 , "n" : 128',
    '"x":{"n":1},"n":1,"x":2',
])  # fmt: skip
def test_a_field_that_is_there_twice_is_refused_however_it_is_written(text: str) -> None:
    assert "is there twice" in refusal(with_text(text)).message


NAMES = st.sampled_from(["n", "a", "é", 'q"', "t\t"])
VALUES = st.sampled_from([1, 128, "x", '","n":1', {"n": 1}, [1, {"n": 2}], None])


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")]),
       st.booleans())  # fmt: skip
def test_any_body_is_refused_exactly_where_a_field_is_there_twice(
    pairs: list[tuple[str, Any]], separators: tuple[str, str], is_ascii: bool
) -> None:
    parts = [json.dumps({k: v}, ensure_ascii=is_ascii, separators=separators)[1:-1] for k, v in pairs]
    body = with_text(separators[0].join(parts)) if parts else body_of()
    names = [name for name, _ in pairs]
    numbers = [value for name, value in pairs if name == "n"]
    if len(set(names)) < len(names) or any(not isinstance(v, int | None) for v in numbers):
        assert refusal(body).status == 400
    else:
        assert CHAT.read(body).body == body


@pytest.mark.parametrize("name", ["Max_Tokens", "N", "STREAM", "max_token\u017f", "Prediction", "service_Tier"])
def test_a_name_that_another_reader_takes_for_one_with_a_meaning_is_refused(name: str) -> None:
    assert "did you mean" in refusal(body_of(**{name: 1})).message


@pytest.mark.parametrize("text", [
    '"max_tokens":5.0', '"max_tokens":1e3', '"max_tokens":"5"', '"max_tokens":true', '"max_tokens":0', '"n":0',
    '"n":129', f'"max_tokens":{MAX_COUNT + 1}', '"max_completion_tokens":0,"max_tokens":5', '"max_tokens":-1',
    '"best_of":1000',
    '"max_tokens":123456789012345678901234567890', '"n":1.5', '"stream":"true"', '"stream_options":"x"',
])  # fmt: skip
def test_a_count_that_readers_could_take_differently_is_refused(text: str) -> None:
    assert refusal(with_text(text)).code == "invalid_request"


@pytest.mark.parametrize("body", [
    with_text('"x":"\\ud800"'), with_text('"x":NaN'), with_text('"x":' + "[" * 100_000 + "]" * 100_000), b"", b"{",
    b"\xff",
    body_of()[:-1] + b',"x":"\xff"}', b"\xef\xbb\xbf" + body_of(), body_of().decode().encode("utf-16"), b"[]", b"null",
    with_text('"x":1e400'),
])  # fmt: skip
def test_what_is_not_json_for_everyone_is_a_400_and_never_a_crash(body: bytes) -> None:
    assert refusal(body).status == 400


@pytest.mark.parametrize("more", [
    {"stream": None, "stream_options": None, "user": None, "n": None}, {"seed": 10**30}, {"temperature": 0},
    {"x": "\N{GRINNING FACE}"}, {"messages": [{"role": "user", "content": None, "role2": "x"}]},
])  # fmt: skip
def test_what_upstreams_take_passes(more: dict[str, Any]) -> None:
    CHAT.read(body_of(**more))
    CHAT.read(json.dumps(BASE | more, indent=2).encode())


def bound(max_output: int = 10, **more: Any) -> tuple[int, int]:
    body = body_of(**more)
    inputs, outputs = CHAT.bound(CHAT.read(body), max_output)
    return inputs - len(body) - TEMPLATE_TOKENS, outputs


def test_the_bound_takes_the_larger_of_what_an_upstream_might_honour() -> None:
    assert CHAT.read(body_of(max_tokens=5, max_completion_tokens=500)).max_output == 500
    assert bound(n=3) == (0, 30)
    assert bound(n=3, best_of=7) == (0, 70)


def test_rejected_tokens_of_a_prediction_are_bounded_by_its_bytes() -> None:
    assert bound(prediction={"type": "content", "content": "a"}) == (0, 10 + len('{"type":"content","content":"a"}'))


def image(url: str) -> dict[str, Any]:
    parts = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"messages": [{"role": "user", "content": parts}]}


def test_an_image_is_bounded_by_a_constant_and_not_by_the_bytes_of_its_address() -> None:
    for url in ("https://example.com/a.png", "data:image/png;base64," + "A" * 100_000):
        assert bound(**image(url)) == (IMAGE_TOKENS - len(url), 10)


@pytest.mark.parametrize("more", [
    {"service_tier": "priority"}, {"modalities": ["text", "audio"]}, {"audio": {"voice": "x"}},
    {"web_search_options": {}}, {"models": ["dear"]}, {"plugins": []}, {"chat_template": "x"},
    {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": ""}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "", "video_url": {}}]}]},
    {"messages": [{"role": "user", "content": {"type": "file"}}]},
    {"messages": [{"role": "assistant", "Audio": {"id": "a"}, "content": None}]},
])  # fmt: skip
def test_what_has_no_bound_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="bounded") as refused:
        bound(**more)
    assert refused.value.code == "cost_unbounded" and refused.value.param in (*more, "messages")


@pytest.mark.parametrize("more", [
    {"service_tier": "auto"}, {"service_tier": "flex"}, {"modalities": ["text"]}, {"audio": None},
    {"messages": [{"role": "user", "content": ["a", {"type": "text", "text": "b"}]}]},
])  # fmt: skip
def test_what_costs_no_more_than_its_tokens_is_bounded_by_its_bytes(more: dict[str, Any]) -> None:
    assert bound(**more) == (0, 10)
