"""proxy/embedder.py: whatever an embedder answers, its vectors or none."""
from __future__ import annotations

import asyncio
import base64
import json
import struct

import pytest

from proxy.embedder import Embedder
from proxy.http_request import Request

UNITS = struct.pack("<4f", 0.6, 0.8, 1.0, 0.0)


class Route:
    """The embeddings route, as it answers what an upstream said."""

    def __init__(self, *told: object) -> None:
        self.status = 200
        self.asked = 0
        self.tell(*told)

    def tell(self, *told: object) -> None:
        self.body = json.dumps({"data": [{"index": n, "embedding": one} for n, one in enumerate(told)]}).encode()

    async def __call__(self, request: Request) -> None:
        self.asked += 1
        request.answer(self.status, self.body, b"application/json", ())


def read(values: bytes) -> tuple[float, ...]:
    if len(values) != 8 or values == bytes(8):
        raise ValueError("it is none")
    return struct.unpack("<2f", values)


def embed(embedder: Embedder) -> list[tuple[float, ...]] | None:
    return asyncio.run(embedder.embed("m", ["a", "b"], {}, 1.0, read))


def test_vectors_come_as_base64_or_as_lists_of_numbers() -> None:
    packed = [base64.b64encode(UNITS[at : at + 8]).decode() for at in (0, 8)]
    wanted = [struct.unpack("<2f", UNITS[at : at + 8]) for at in (0, 8)]
    for told in (packed, [[0.6, 0.8], [1, 0]], [packed[0], [1.0, 0.0]]):
        assert embed(Embedder(Route(*told))) == wanted


@pytest.mark.parametrize("told", [
    "=", "AAAA", "\u00e9", [0, 0], [1], [1e300, 0], ["x", "y"], {"values": [1, 2]}, 7, None,
], ids=["no base64", "3 bytes", "no ascii", "no length", "short", "beyond float32", "words", "object", "number",
        "null"])  # fmt: skip
def test_an_answer_with_one_vector_that_cannot_be_read_is_none(told: object) -> None:
    embedder = Embedder(Route([0.6, 0.8], told))
    assert embed(embedder) is None and embedder.failed == 1


def test_an_answer_that_cannot_be_read_at_all_is_none() -> None:
    route = Route()
    for body in (b"", b"[", b"{}", b'{"data": "\xff"}', b'{"data": [], "x": ' + b"[" * 9999 + b"]" * 9999 + b"}"):
        route.body = body
        assert embed(Embedder(route)) is None
    route.tell([0.6, 0.8], [1, 0])
    assert embed(Embedder(route)) is not None
    route.status = 500
    assert embed(Embedder(route)) is None


def test_after_three_answers_in_a_row_that_are_none_nobody_asks_for_five_seconds() -> None:
    now, route = [100.0], Route([0.6, 0.8], [0, 0])
    embedder = Embedder(route, clock=lambda: now[0])
    for told in ([0, 0], [0, 0], [1, 0], [0, 0], [0, 0], [0, 0], [1, 0]):
        route.tell([0.6, 0.8], told)
        embed(embedder)
    assert (route.asked, embedder.failed) == (6, 5), "the seventh was not asked for"
    now[0] += 5.0
    assert embed(embedder) is not None and route.asked == 7
