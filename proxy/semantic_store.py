"""The examples of one partition: vectors of earlier requests, and for each the answer that it got.

An answer has many examples, as requests that got the same answer share it. Vectors lie in one matrix that is searched
from end to end: 10,000 of them in a fraction of a millisecond, so an index would only add errors of its own.
"""
from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy
from numpy.typing import NDArray

from farthing.prices import Usage
from proxy.semantic_guard import Guard

Vector = NDArray[numpy.float32]

FIRST_ROWS = 64  # of a new matrix; it doubles
OWN_OUTCOMES = 128  # kept of one answer
EXAMPLE_BYTES = 500  # of Python objects an example, beside its vector (measured)
ANSWER_BYTES = 1650  # of Python objects an answer, beside its body (measured)


@dataclass(frozen=True, eq=False)
class Reply:
    """An upstream's answer: what a client gets of it, and a mark to compare it by."""

    body: bytes
    mark: Any  # a semantic_agree.Mark
    content_type: bytes = b"application/json"
    usage: Usage = field(default_factory=Usage)
    response_id: str = ""

    @property
    def size(self) -> int:
        """Bytes, about."""
        return len(self.body) + ANSWER_BYTES


@dataclass(eq=False)
class Answer:
    """One answer and what is known of how well it serves."""

    reply: Reply
    confirmed_at: float  # seconds; when an upstream last gave it
    outcomes: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=OWN_OUTCOMES))  # score, is wrong
    served: int = 0
    bodies: set[int] = field(default_factory=set)  # hashes of different requests that it was served to
    checks_due: int = 0  # hits that must be verified before it is served again
    alarms: int = 0
    examples: int = 0


@dataclass(frozen=True)
class Example:
    """One earlier request, without its text."""

    guard: Guard
    answer: Answer


@dataclass(frozen=True)
class Neighbour:
    """An example near a request."""

    row: int
    similarity: float
    example: Example


class Examples:
    """A bounded set of examples; the least recently used one goes first."""

    def __init__(self) -> None:
        self._matrix: Vector = numpy.zeros((0, 0), numpy.float32)
        self._rows: OrderedDict[int, Example] = OrderedDict()  # by row of the matrix, least recently used first
        self._free: list[int] = []
        self.evictions = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    def nearest(self, vector: Vector, count: int, after: float) -> list[Neighbour]:
        """Return the `count` nearest whose answers were confirmed after `after`, the nearest first."""
        if not self._rows or self._matrix.shape[1] != len(vector):
            return []
        near = self._matrix @ vector
        wanted = min(count, len(near))
        best = numpy.argpartition(near, len(near) - wanted)[-wanted:]
        best = best[numpy.argsort(-near[best], kind="stable")]
        found = [Neighbour(row, float(near[row]), self._rows[row]) for row in best.tolist() if row in self._rows]
        live = [one for one in found if one.example.answer.confirmed_at > after]
        if len(live) < len(found):
            self._drop(one.row for one in found if one.example.answer.confirmed_at <= after)
        return live

    def add(self, vector: Vector, example: Example, max_rows: int) -> None:
        """Keep an example; the least recently used ones make room."""
        if len(vector) != self._matrix.shape[1]:
            self.clear()
            self._matrix, self._free = numpy.zeros((0, len(vector)), numpy.float32), []
        while len(self._rows) >= max_rows:
            self.evict()
        row = self._free.pop() if self._free else self._grow(max_rows)
        self._matrix[row] = vector
        self._rows[row] = example
        if example.answer.examples == 0:
            self.bytes += example.answer.reply.size
        example.answer.examples += 1
        self.bytes += EXAMPLE_BYTES + vector.nbytes

    def touch(self, row: int) -> None:
        """Mark an example as used."""
        self._rows.move_to_end(row)

    def evict(self) -> None:
        """Drop the least recently used example."""
        self.evictions += 1
        self._drop((next(iter(self._rows)),))

    def clear(self) -> None:
        """Drop everything, such as when another model embeds from now on."""
        self._drop(list(self._rows))

    def latest(self) -> Iterator[tuple[Vector, Example]]:
        """Yield every example with its vector, the most recently used one first."""
        for row in reversed(self._rows):
            yield self._matrix[row], self._rows[row]

    def answers(self) -> Iterator[Answer]:
        """Yield every answer once."""
        return iter(dict.fromkeys(example.answer for example in self._rows.values()))

    def _grow(self, max_rows: int) -> int:
        """Return a free row of a matrix twice as large."""
        used, size = self._matrix.shape
        rows = max(used + 1, min(max(FIRST_ROWS, 2 * used), max_rows))
        grown = numpy.zeros((rows, size), numpy.float32)
        grown[:used] = self._matrix
        self._matrix = grown
        self._free = list(range(rows - 1, used, -1))
        return used

    def _drop(self, rows: Iterable[int]) -> None:
        for row in rows:
            answer = self._rows.pop(row).answer
            self._matrix[row] = 0.0
            self._free.append(row)
            answer.examples -= 1
            self.bytes -= EXAMPLE_BYTES + self._matrix.shape[1] * self._matrix.itemsize
            if answer.examples == 0:
                self.bytes -= answer.reply.size
