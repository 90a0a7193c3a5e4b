"""proxy/stream.py: events pass as bytes, however they are cut, and the usage is read on the way."""
from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.errors import UpstreamError
from farthing.prices import Usage
from proxy.formats.chunks import ChunkRelay, read_answer
from proxy.stream import MAX_EVENT_BYTES, EventRelay, Tape


def event(**values: object) -> bytes:
    return b"data: " + json.dumps(values).encode() + b"\n\n"


def delta(text: str, finish: str | None = None) -> bytes:
    return event(
        id="chatcmpl-1", choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}], usage=None
    )


DELTA = b'"delta"'
USAGE = {
    "prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13, "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}  # fmt: skip
LAST = event(id="chatcmpl-1", choices=[], usage=USAGE, timings={"queue_s": 0.5, "engine_s": 1.5})
TRICKY = delta('he said "usage": {"prompt_tokens": 9} and\n\ndata: [DONE]')
STREAM = delta("one") + TRICKY + delta("", "stop") + LAST + b"data: [DONE]\n\n"


def relayed(stream: bytes, cuts: list[int], hide_usage: bool) -> tuple[bytes, EventRelay]:
    relay, out, edges = ChunkRelay(hide_usage, DELTA), b"", sorted({0, *cuts, len(stream)})
    for start, end in pairwise(edges):
        out += relay.feed(stream[start:end])
    return out + relay.finish(), relay


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_stream_passes_unchanged_however_it_is_cut(cuts: list[int]) -> None:
    assert relayed(STREAM, cuts, hide_usage=False)[0] == STREAM


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_only_the_usage_event_is_hidden_from_a_client_that_had_not_asked(cuts: list[int]) -> None:
    out, relay = relayed(STREAM, cuts, hide_usage=True)
    assert out == STREAM.replace(LAST, b"")
    assert relay.usage == Usage(input_uncached=6, cache_read=4, output=3) and relay.is_usage_last
    assert (relay.reasoning, relay.engine_s) == (2, 1.5)
    assert (relay.events, relay.finish_reason, relay.response_id) == (3, "stop", "chatcmpl-1")


def test_usage_on_an_event_with_content_is_read_and_kept() -> None:
    both = event(id="1", choices=[{"delta": {"content": "x"}}], usage=USAGE)
    out, relay = relayed(both, [], hide_usage=True)
    assert out == both and relay.usage is not None


def test_a_tape_that_grows_too_long_is_thrown_away() -> None:
    tape = Tape(limit=5)
    tape.add(b"abc")
    assert tape.whole() == b"abc"
    tape.add(b"def")
    assert tape.whole() is None


@given(st.lists(st.integers(0, 2000), max_size=40))
def test_lines_may_end_with_cr_lf_and_nothing_waits_for_the_end_of_the_stream(cuts: list[int]) -> None:
    stream = STREAM.replace(b"\n", b"\r\n")
    cuts = [cut for cut in cuts if cut < len(stream)]
    assert relayed(stream, cuts, hide_usage=False)[0] == stream
    out, relay = relayed(stream, list(range(len(stream))), hide_usage=True)
    assert out == stream.replace(LAST.replace(b"\n", b"\r\n"), b"")
    assert relay.usage is not None and relay.is_done
    whole = ChunkRelay(False, DELTA)
    assert whole.feed(stream[:-1]) == stream[: stream.rindex(b"data: [DONE]")]


@pytest.mark.parametrize("last", [
    b": {usage}\n" + LAST,
    LAST[:-1] + b"id: 7\nretry: 5\n\n",
    LAST.replace(b'"usage"', b'\ndata: "usage"'),
    LAST.replace(b"data: ", b"event: last\r\ndata:"),
], ids=["a comment before it", "fields behind it", "several lines of data", "a name and CR LF"])  # fmt: skip
def test_usage_is_read_of_whatever_an_event_is_made(last: bytes) -> None:
    stream = delta("one", "stop") + last + b"data: [DONE]\n\n"
    out, relay = relayed(stream, [], hide_usage=True)
    assert out == stream.replace(last, b"")
    assert relay.usage == Usage(input_uncached=6, cache_read=4, output=3) and relay.is_usage_last


def test_usage_in_a_last_event_without_an_empty_line_is_read_and_hidden() -> None:
    out, relay = relayed(delta("one", "stop") + LAST[:-1], [], hide_usage=True)
    assert out == delta("one", "stop") and relay.usage is not None


def test_an_event_without_an_end_breaks_off_before_it_fills_the_memory() -> None:
    relay = ChunkRelay(False, DELTA)
    with pytest.raises(UpstreamError, match="event of more than"):
        for _ in range(MAX_EVENT_BYTES // 2**16 + 1):
            relay.feed(b"x" * 2**16)


@pytest.mark.parametrize(("stream", "is_whole", "has_failed"), [
    (delta("one"), False, False),
    (delta("one", "length"), True, False),
    (delta("[DONE]"), False, False),
    (event(error={"message": "x"}), False, True),
    (event(error=None, choices=[]), False, False),
    (b"data:[DONE]\n\n", True, False),
])  # fmt: skip
def test_a_stream_says_whether_it_ended_well(stream: bytes, is_whole: bool, has_failed: bool) -> None:
    relay = relayed(stream, [], hide_usage=True)[1]
    assert (relay.is_whole, relay.has_failed) == (is_whole, has_failed)


@pytest.mark.parametrize(("usage", "read"), [
    ({"prompt_tokens": 3, "completion_tokens": None, "prompt_tokens_details": {"cached_tokens": None}}, Usage(3)),
    ({"prompt_tokens": 3, "completion_tokens": 2, "completion_tokens_details": None}, Usage(3, output=2)),
    ({"completion_tokens": 2}, None),
])  # fmt: skip
def test_nulls_in_usage_are_what_some_servers_send(usage: dict[str, object], read: Usage | None) -> None:
    answer = read_answer(json.dumps({"id": None, "choices": None, "usage": usage}).encode())
    assert answer is not None and answer.usage == read


@pytest.mark.parametrize("count", [-1, 10**9, 10**30, 1.5, "3"])
def test_a_count_that_no_call_can_have_is_no_usage(count: object) -> None:
    assert read_answer(json.dumps({"usage": {"prompt_tokens": count}}).encode()) is None
