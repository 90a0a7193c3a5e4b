"""proxy/stream.py: events pass as bytes, however they are cut, and the usage is read on the way."""
from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from farthing.prices import Usage
from proxy.stream import EventRelay, Tape


def event(**values: object) -> bytes:
    return b"data: " + json.dumps(values).encode() + b"\n\n"


def delta(text: str, finish: str | None = None) -> bytes:
    return event(
        id="chatcmpl-1", choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}], usage=None
    )


USAGE = {
    "prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13, "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}  # fmt: skip
LAST = event(id="chatcmpl-1", choices=[], usage=USAGE, timings={"queue_s": 0.5, "engine_s": 1.5})
TRICKY = delta('he said "usage": {"prompt_tokens": 9} and\n\ndata: [DONE]')
STREAM = delta("one") + TRICKY + delta("", "stop") + LAST + b"data: [DONE]\n\n"


def relayed(stream: bytes, cuts: list[int], hide_usage: bool) -> tuple[bytes, EventRelay]:
    relay, out, edges = EventRelay(hide_usage), b"", sorted({0, *cuts, len(stream)})
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
    assert relay.answer is not None and relay.answer.usage is not None and relay.answer.timings is not None
    assert relay.answer.usage.usage() == Usage(input_uncached=6, cache_read=4, output=3)
    assert (relay.answer.usage.reasoning, relay.answer.timings.engine_s) == (2, 1.5)
    assert (relay.events, relay.finish_reason, relay.response_id) == (3, "stop", "chatcmpl-1")


def test_usage_on_an_event_with_content_is_read_and_kept() -> None:
    both = event(id="1", choices=[{"delta": {"content": "x"}}], usage=USAGE)
    out, relay = relayed(both, [], hide_usage=True)
    assert out == both and relay.answer is not None


def test_a_tape_that_grows_too_long_is_thrown_away() -> None:
    tape = Tape(limit=5)
    tape.add(b"abc")
    assert tape.whole() == b"abc"
    tape.add(b"def")
    assert tape.whole() is None
