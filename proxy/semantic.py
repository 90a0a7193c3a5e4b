"""The semantic response cache: one answer for requests that mean the same, within a bound of error that it has learned.

Requests meet only inside a partition (tenant, served model, system prompt, parameters), before any similarity. Nothing
is served before the outcomes of earlier requests bound the error, of all entries and of the one in question, under the
policy's `delta`; a share of the hits goes upstream all the same and is compared. Off unless a policy asks for it.
"""
from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Literal

import numpy

from proxy.semantic_agree import agree
from proxy.semantic_bound import Threshold, entry_upper
from proxy.semantic_guard import Guard
from proxy.semantic_store import Answer, Example, Examples, Neighbour, Reply, Vector

Kind = Literal["miss", "shadow", "verify", "hit"]
Agrees = Callable[[Any, Any], bool]  # whether the marks of two answers say the same

TEMPERATURE = 0.05  # of the neighbours' votes: one that is 0.05 less similar weighs e times less
NEAR = 0.3  # what similarity counts beside the share of the votes, which lies between 0 and 1


@dataclass(frozen=True)
class SemanticPolicy:
    """What a policy asks for."""

    serve: bool = False  # false: shadow, would-be hits are recorded and nothing is served
    delta: float = 0.01  # the share of wrong answers among those served that is still allowed
    confidence: float = 0.95  # of the bound that is held against delta
    floor: float = 0.75  # cosine under which nothing is a candidate
    neighbours: int = 20  # examples that vote
    verify_share: float = 0.05  # of the hits that go upstream all the same
    ttl_s: float = 86_400.0  # seconds since an upstream last gave an answer
    max_entries: int = 10_000  # examples a partition
    max_bodies: int = 100  # different requests that one answer may serve before the alarm
    alarm_checks: int = 10  # hits in a row that must verify right after an alarm


@dataclass(frozen=True)
class Query:
    """One request, as far as this cache looks at it."""

    partition: bytes  # digest of tenant, served model, system prompt and parameters
    vector: Vector  # of length 1
    guard: Guard
    body: int  # hash of the whole request


@dataclass(frozen=True)
class Lookup:
    """What the cache says; `observe` takes it back with the upstream's answer, unless it was a hit."""

    kind: Kind
    reason: str = ""  # why it is no hit: empty | far | numbers … | unproven | entry | shadow | verify | alarm
    similarity: float = 0.0
    score: float = 0.0
    upper: float = 1.0  # bound of the entry's error
    answer: Answer | None = None  # the candidate
    row: int = -1
    others: tuple[Answer, ...] = ()  # near by, which the upstream's answer may turn out to be
    is_outcome: bool = False  # whether the candidate passed the guards, so that its being wrong tells something

    @property
    def reply(self) -> Reply:
        """The answer to serve; for a hit alone."""
        assert self.kind == "hit" and self.answer is not None
        return self.answer.reply


@dataclass
class SemanticCounts:
    """What happened since the start."""

    hits: int = 0
    misses: int = 0
    shadow_hits: int = 0
    shadow_wrong: int = 0
    verified: int = 0
    verified_wrong: int = 0  # would have been served wrong
    alarms: int = 0
    blocked: dict[str, int] = field(default_factory=dict)  # misses by reason


class Partition:
    """What was learned of requests that may be compared."""

    def __init__(self, policy: SemanticPolicy) -> None:
        self.lessons = 0  # upstream answers that it has seen
        self.examples = Examples()
        self.threshold = Threshold(policy.delta, policy.confidence)


class SemanticCache:
    """All partitions of one worker."""

    def __init__(
        self,
        random: Callable[[], float],
        clock: Callable[[], float] = monotonic,
        agrees: Agrees = agree,
        max_partitions: int = 256,
        max_bytes: int = 32 * 1024 * 1024,
    ) -> None:
        self.counts = SemanticCounts()
        self._agrees = agrees
        self._random = random  # uniform in [0, 1)
        self._clock = clock
        self._max_partitions = max_partitions
        self.max_bytes = max_bytes  # may change while it runs
        self._partitions: OrderedDict[bytes, Partition] = OrderedDict()  # least recently used first
        self._evicted = 0  # examples of partitions that are gone

    @property
    def bytes(self) -> int:
        return sum(partition.examples.bytes for partition in self._partitions.values())

    @property
    def entries(self) -> int:
        return sum(len(partition.examples) for partition in self._partitions.values())

    @property
    def evictions(self) -> int:
        return self._evicted + sum(partition.examples.evictions for partition in self._partitions.values())

    def lookup(self, query: Query, policy: SemanticPolicy) -> Lookup:
        """Return what the cache would answer, and whether it may."""
        found = self._find(query, policy)
        if found.kind == "miss":
            self.counts.misses += 1
            self.counts.blocked[found.reason] = self.counts.blocked.get(found.reason, 0) + 1
        elif found.kind == "hit":
            self.counts.hits += 1
            self._serve(found, query, policy)
        return found

    def observe(self, query: Query, found: Lookup, reply: Reply, policy: SemanticPolicy) -> bool | None:
        """Learn from the upstream's answer to a request that was not served; tell whether the candidate agreed.

        A reply that no client should get again (an error, a cut stream) must not come here.
        """
        partition = self._partition(query, policy)
        agreed = None if found.answer is None else self._agrees(found.answer.reply.mark, reply.mark)
        if found.answer is not None and agreed is not None and found.is_outcome:
            self._learn(partition, found, found.answer, agreed)
        self._keep(partition, query, found, reply, agreed, policy)
        partition.lessons += 1
        return agreed

    def knows(self, key: bytes) -> bool:
        return key in self._partitions

    def partitions(self) -> list[tuple[bytes, Partition]]:
        return list(self._partitions.items())

    def adopt(self, key: bytes, partition: Partition) -> None:
        """Take a partition that was filled elsewhere, unless there is one already."""
        if key not in self._partitions:
            self._partitions[key] = partition
            self._make_room()

    def _find(self, query: Query, policy: SemanticPolicy) -> Lookup:
        partition = self._partitions.get(query.partition)
        if partition is None:
            return Lookup("miss", "empty")
        self._partitions.move_to_end(query.partition)
        near = partition.examples.nearest(query.vector, policy.neighbours, self._clock() - policy.ttl_s)
        if not near or near[0].similarity < policy.floor:
            return Lookup("miss", "far" if near else "empty", others=_answers(near, None))
        answer, share = vote(near)
        others = _answers(near, answer)
        first = next(one for one in near if one.example.answer is answer)
        score = share + NEAR * first.similarity
        differences = {one: one.example.guard.difference(query.guard) for one in near if one.example.answer is answer}
        fitting = next((one for one, difference in differences.items() if not difference), None)
        if fitting is None or fitting.similarity < policy.floor:
            return Lookup("miss", differences[first] or "far", first.similarity, score, 1.0, answer, first.row, others)
        upper = entry_upper(answer.outcomes, partition.threshold)
        kind, reason = self._judge(score, upper, answer, partition.threshold, policy)
        return Lookup(kind, reason, fitting.similarity, score, upper, answer, fitting.row, others, is_outcome=True)

    def _judge(
        self, score: float, upper: float, answer: Answer, threshold: Threshold, policy: SemanticPolicy
    ) -> tuple[Kind, str]:
        if score < threshold.score:
            return "miss", "unproven"
        if upper > policy.delta:
            return "miss", "entry"
        if not policy.serve:
            return "shadow", "shadow"
        if answer.checks_due:
            return "verify", "alarm"
        return ("verify", "verify") if self._random() < policy.verify_share else ("hit", "")

    def _serve(self, found: Lookup, query: Query, policy: SemanticPolicy) -> None:
        answer = found.answer
        assert answer is not None
        self._partitions[query.partition].examples.touch(found.row)
        answer.served += 1
        answer.bodies.add(query.body)
        if len(answer.bodies) >= policy.max_bodies:
            answer.bodies.clear()
            answer.checks_due = policy.alarm_checks
            answer.alarms += 1
            self.counts.alarms += 1

    def _learn(self, partition: Partition, found: Lookup, answer: Answer, agreed: bool) -> None:
        partition.threshold.add(found.score, not agreed)
        answer.outcomes.append((found.score, not agreed))
        if found.kind == "shadow":
            self.counts.shadow_hits += 1
            self.counts.shadow_wrong += not agreed
        elif found.kind == "verify":
            self.counts.verified += 1
            self.counts.verified_wrong += not agreed
            answer.checks_due = max(0, answer.checks_due - 1) if agreed else answer.checks_due

    def _keep(
        self, partition: Partition, query: Query, found: Lookup, reply: Reply, agreed: bool | None,
        policy: SemanticPolicy,
    ) -> None:  # fmt: skip
        if query.guard.unreadable:
            return  # it could never be served
        answer = found.answer if agreed else self._known(found, reply)
        answer = answer or Answer(reply, self._clock())
        answer.confirmed_at = self._clock()  # its reply stays, so that many small differences cannot add up
        partition.examples.add(query.vector, Example(query.guard, answer), policy.max_entries)
        self._make_room()

    def _make_room(self) -> None:
        while len(self._partitions) > self._max_partitions:
            self._forget_oldest()
        while self.bytes > self.max_bytes:
            oldest = next(iter(self._partitions.values()))
            if len(oldest.examples) <= 1 and len(self._partitions) > 1:
                self._forget_oldest()
            else:
                oldest.examples.evict()

    def _known(self, found: Lookup, reply: Reply) -> Answer | None:
        """Return the answer near by that says the same as `reply`; the candidate has been compared already."""
        return next((answer for answer in found.others if self._agrees(answer.reply.mark, reply.mark)), None)

    def _partition(self, query: Query, policy: SemanticPolicy) -> Partition:
        partition = self._partitions.get(query.partition)
        if partition is not None:
            partition.threshold.demand(policy.delta, policy.confidence)
        else:
            partition = self._partitions[query.partition] = Partition(policy)
            self._make_room()
        return partition

    def _forget_oldest(self) -> None:
        _, oldest = self._partitions.popitem(last=False)
        self._evicted += len(oldest.examples) + oldest.examples.evictions


def vote(near: list[Neighbour]) -> tuple[Answer, float]:
    """Return the answer that most of the neighbours got, nearer ones counting more, and its share of the votes."""
    votes: dict[Answer, float] = {}
    for one in near:
        weight = math.exp((one.similarity - 1.0) / TEMPERATURE)
        votes[one.example.answer] = votes.get(one.example.answer, 0.0) + weight
    best = max(votes, key=votes.__getitem__)
    return best, votes[best] / sum(votes.values())


def _answers(near: list[Neighbour], but: Answer | None) -> tuple[Answer, ...]:
    return tuple(dict.fromkeys(one.example.answer for one in near if one.example.answer is not but))


def as_vector(values: bytes) -> Vector:
    """Return a vector of length 1 from an embedding in base64's own bytes: float32, little-endian.

    Raises:
        ValueError: it has no length.
    """
    vector = numpy.frombuffer(values, "<f4")
    length = float(numpy.linalg.norm(vector))
    if not math.isfinite(length) or length == 0.0:
        raise ValueError("an embedding of length 0 or not a number; it cannot be compared")
    return (vector / length).astype(numpy.float32)
