"""What semantic caches have learned, on the disk: a worker that starts goes on from there.

A partition is one sealed entry of the disk behind the caches, written whole some time after it changed, so a kill loses
what was learned since. Workers of one host learn apart: one that meets a partition for the first time takes what any of
them wrote last, and outcomes are never added up from several, as one that counted twice would tighten the bound.
"""
from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice

import msgspec
import numpy

from farthing.prices import Usage
from proxy.cache_disk import DiskCache
from proxy.cache_packed import name_of, packed, unpacked
from proxy.semantic import Partition
from proxy.semantic_agree import Mark, VectorMark
from proxy.semantic_guard import Guard
from proxy.semantic_store import Answer, Example, Reply

MAX_BYTES = 8 * 1024 * 1024  # of one partition, about; the examples that were used last are kept
_FORMAT = 2


class _Mark(msgspec.Struct, array_like=True):
    exact: bytes = b""  # of an answer that is compared by meaning, its text
    vector: bytes = b""  # float32, of an answer that is compared by meaning
    guard: Guard = Guard()
    at_least: float = 0.0


class _Answer(msgspec.Struct, array_like=True):
    body: bytes
    content_type: bytes
    usage: Usage
    response_id: str
    mark: _Mark
    confirmed_at: float
    outcomes: list[tuple[float, bool]]
    served: int
    bodies: list[int]
    checks_due: int
    alarms: int


class _Example(msgspec.Struct, array_like=True):
    vector: bytes  # float32
    guard: Guard
    answer: int


class _Snapshot(msgspec.Struct, array_like=True):
    format: int
    examples: list[_Example]  # the least recently used one first
    answers: list[_Answer]
    outcomes: list[tuple[float, bool]]  # that the threshold rests on


class Shelf:
    """The partitions of one policy's semantic cache."""

    def __init__(self, disk: DiskCache, policy: str, secret: bytes) -> None:
        self._disk = disk
        self._policy = policy
        self._secret = secret

    async def fill(self, key: bytes, partition: Partition, max_entries: int) -> bool:
        """Put into an empty partition what was kept of it; tell whether there was anything."""
        name = self._name(key)
        sealed = (await self._disk.many([name])).get(name)
        if sealed is None:
            return False
        kept = await asyncio.to_thread(unpacked, sealed, _Snapshot, name, self._secret)
        if kept is None or kept.format != _FORMAT:
            self._disk.drop(name)
            return False
        _restore(partition, kept, max_entries)
        return True

    async def keep(self, key: bytes, partition: Partition, ttl_s: float) -> None:
        """Write a partition as it is now."""
        name, kept = self._name(key), _snapshot(partition)
        self._disk.put(name, await asyncio.to_thread(packed, kept, name, self._secret), ttl_s)

    def _name(self, key: bytes) -> str:
        return name_of(("semantic", self._policy, key), self._secret)


def _snapshot(partition: Partition) -> _Snapshot:
    """Return what is worth keeping, nothing of which changes any more."""
    numbers: dict[Answer, int] = {}
    answers: list[_Answer] = []
    examples: list[_Example] = []
    size = 0
    for vector, example in partition.examples.latest():
        answer = example.answer
        size += vector.nbytes + (len(answer.reply.body) if answer not in numbers else 0)
        if size > MAX_BYTES:
            break
        if answer not in numbers:
            numbers[answer] = len(answers)
            answers.append(_kept(answer))
        examples.append(_Example(vector.tobytes(), example.guard, numbers[answer]))
    return _Snapshot(_FORMAT, examples[::-1], answers, list(partition.threshold.remembered))


def _kept(answer: Answer) -> _Answer:
    reply = answer.reply
    return _Answer(
        reply.body, reply.content_type, reply.usage, reply.response_id, _kept_mark(reply.mark), answer.confirmed_at,
        list(answer.outcomes), answer.served, list(answer.bodies), answer.checks_due, answer.alarms,
    )  # fmt: skip


def _restore(partition: Partition, kept: _Snapshot, max_entries: int) -> None:
    answers = [_restored(one) for one in kept.answers]
    for one in _last(kept.examples, max_entries):
        vector = numpy.frombuffer(one.vector, numpy.float32)
        partition.examples.add(vector, Example(one.guard, answers[one.answer]), max_entries)
    partition.threshold.recall(kept.outcomes)


def _last(examples: list[_Example], count: int) -> Iterable[_Example]:
    return islice(examples, max(0, len(examples) - count), None)


def _restored(kept: _Answer) -> Answer:
    reply = Reply(kept.body, _mark(kept.mark), kept.content_type, kept.usage, kept.response_id)
    made = Answer(reply, kept.confirmed_at, served=kept.served, bodies=set(kept.bodies))
    made.outcomes.extend(kept.outcomes)
    made.checks_due, made.alarms = kept.checks_due, kept.alarms
    return made


def _kept_mark(mark: Mark) -> _Mark:
    if isinstance(mark, VectorMark):
        return _Mark(mark.text, mark.vector.tobytes(), mark.guard, mark.at_least)
    return _Mark(mark)


def _mark(kept: _Mark) -> Mark:
    if kept.vector:
        return VectorMark(numpy.frombuffer(kept.vector, numpy.float32), kept.guard, kept.exact, kept.at_least)
    return kept.exact
