"""Bodies that would become a hundred times their size as objects are refused before any object is made of them."""
from __future__ import annotations

import asyncio
import gzip
from pathlib import Path

import pytest
from google.protobuf.message import Message

from collector import receive
from collector.answers import TRACES
from collector.commit import GroupCommit
from collector.intake import Delivery, Intake
from collector.receive import MAX_PARTS, measured
from collector.screen import Screen
from collector.spool import Spool
from farthing import otlp
from farthing.errors import IngestError
from farthing.settings import Settings

MOST = 3 * 1024 * 1024  # bytes, of the 20 MiB that a body may have
IDS = otlp.field(0x0A, b"t" * 16) + otlp.field(0x12, b"s" * 8)


def body_of(*spans: bytes) -> bytes:
    return otlp.field(0x0A, otlp.field(0x12, b"".join(otlp.field(0x12, IDS + one) for one in spans)))


def listed(values: bytes) -> bytes:
    """Return an attribute whose value is a list of these values."""
    return otlp.field(0x4A, otlp.field(0x0A, b"farthing.tag.a") + otlp.field(0x12, otlp.field(0x2A, values)))


def nested(levels: int) -> bytes:
    value = otlp.field(0x0A, b"deep")
    for _ in range(levels):
        value = otlp.field(0x2A, otlp.field(0x0A, value))
    return value


BOMBS = {
    "attributes": body_of(b"\x4a\x00" * (MOST // 2)),
    "events": body_of(b"\x5a\x00" * (MOST // 2)),
    "links": body_of(b"\x6a\x00" * (MOST // 2)),
    "attributes of many small spans": body_of(*[b"\x4a\x00" * 2000] * (MOST // 4040)),
    "attributes of a resource": otlp.field(0x0A, otlp.field(0x0A, b"\x0a\x00" * (MOST // 2))),
    "attributes of a scope": otlp.field(0x0A, otlp.field(0x12, otlp.field(0x0A, b"\x1a\x00" * (MOST // 2)))),
    "attributes of an event": body_of(otlp.field(0x5A, b"\x1a\x00" * (MOST // 2))),
    "attributes of a link": body_of(otlp.field(0x6A, b"\x22\x00" * (MOST // 2))),
    "items of a list": body_of(listed(b"\x0a\x00" * (MOST // 2))),
    "items of a list in a list": body_of(listed(otlp.field(0x0A, otlp.field(0x2A, b"\x0a\x00" * (MOST // 2))))),
    "pairs of a map": body_of(listed(otlp.field(0x0A, otlp.field(0x32, b"\x0a\x00" * (MOST // 2))))),
    "entities": otlp.field(0x0A, otlp.field(0x0A, b"\x1a\x00" * (MOST // 2))),
}


@pytest.mark.parametrize("name", BOMBS)
def test_millions_of_empty_parts_are_refused_before_the_parser(name: str) -> None:
    with pytest.raises(IngestError) as caught:
        measured(BOMBS[name], 200_000)
    assert caught.value.status == 413 and f"more than {MAX_PARTS} attributes, events, links" in str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
def test_they_are_refused_at_the_door_too_packed_or_not(tmp_path: Path, packed: bool) -> None:
    intake, spool = Intake(Settings(data_dir=tmp_path)), Spool(tmp_path / "spool", 10**9)

    async def send() -> list[object]:
        intake.start(GroupCommit(spool))
        sent = [gzip.compress(one, 1) if packed else one for one in BOMBS.values()]
        deliveries = [Delivery(TRACES, "acme", one, "gzip" if packed else "") for one in sent]
        return await asyncio.gather(*map(intake.take, deliveries), return_exceptions=True)

    refusals = asyncio.run(send())
    assert [getattr(one, "status", one) for one in refusals] == [413] * len(BOMBS)
    assert spool.held_bytes == 0


def test_lists_nested_past_reason_in_a_large_body_are_refused() -> None:
    deep = listed(otlp.field(0x0A, nested(40)))
    with pytest.raises(IngestError, match="more than 32 deep"):
        measured(body_of(*[deep] * 6000), 200_000)
    assert measured(body_of(deep), 200_000).spans == 1  # a small one is left to the parser


def test_a_full_body_of_ordinary_spans_is_far_from_the_limit() -> None:
    attributes = otlp.attributes([(f"farthing.tag.a{n}", "x") for n in range(20)])
    spans = [otlp.span(b"t" * 16, n.to_bytes(8, "big"), b"", "chat", (1, 2), attributes) for n in range(1, 30_000)]
    body = otlp.traces([], "test", "1", spans)
    assert 15_000_000 < len(body) < Settings().max_body_bytes
    extent = measured(body, 200_000)
    assert (extent.spans, extent.attributes) == (29_999, 29_999 * 20)
    assert Screen(Settings(), b"k" * 32)(body, extent, "acme").body is body


def test_what_is_below_the_limit_is_cut_and_counted() -> None:
    body = body_of(b"\x4a\x00" * 400_000, b"\x5a\x00" * 400_000)
    made = Screen(Settings(), b"k" * 32)(body, measured(body, 200_000), "acme")
    assert (made.spans, made.cuts["attributes dropped"], made.cuts["events over the limit"]) == (2, 400_000, 399_872)
    assert len(made.body) < 2000


def test_counting_makes_no_object_of_a_part() -> None:
    """What the parser in C hands to Python are bytes; a message for each part is what the limit is there to avoid."""
    counted = receive.Counted.FromString(body_of(b"\x4a\x00" * 1000)).resource_spans.scope_spans.spans
    assert len(counted.attributes) == 1000 and not isinstance(counted.attributes[0], Message)


@pytest.mark.parametrize(
    "body", [b"\x0a\x00" * 300, otlp.field(0x0A, b"\x0a\x00" * 300), otlp.field(0x0A, b"\x12\x00" * 300)]
)
def test_empty_resources_and_scopes_are_counted_while_they_are_walked(body: bytes) -> None:
    with pytest.raises(IngestError, match="more than 299 resources and scopes"):
        measured(body + b"\x07", 299)  # what stands behind the limit, a broken field here, is not walked to
    with pytest.raises(IngestError, match="not protobuf"):
        measured(body + b"\x07", 301)
