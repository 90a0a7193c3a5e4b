"""What the engine did, step by step, and each request's share of it.

A step's shares are whole nanoseconds that sum to its duration, so all requests' seconds plus idle time are the
engine's time, without rounding residue.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Row(NamedTuple):
    """One request's part of a step."""

    request_id: str
    new_tokens: int  # tokens computed for it in this step
    context_tokens: int  # tokens that attention saw, the new ones included


@dataclass(frozen=True)
class StepEvent:
    """One step of the engine."""

    started_ns: int  # the scheduler's clock
    duration_ns: int
    phase: str  # prefill | decode
    rows: tuple[Row, ...]
    shares_ns: tuple[int, ...]  # each row's part of the duration; sums to it

    @property
    def duration_s(self) -> float:
        return self.duration_ns / 1e9


@dataclass(frozen=True)
class WorkModel:
    """A step's time by its work: `fixed + token * max(0, new - free) + context * context`, all in seconds.

    It is ARCHITECTURE §4's `max(W, f*N) + kv*sum(c) + l` with fixed = W + l, token = f, free = W / f and context = kv.
    """

    fixed_s: float
    token_s: float  # per new token beyond the free ones
    free_tokens: float  # new tokens that cost nothing, as reading the weights takes longer
    context_s: float  # per token of context
    error: float = 0.0  # median relative error over the steps that it was fitted on

    def weights(self, rows: Sequence[Row]) -> list[float]:
        """Return each row's work, in seconds that the model predicts."""
        new = sum(row.new_tokens for row in rows)
        marginal_s = self.token_s * max(0.0, new - self.free_tokens)
        return [
            self.fixed_s / len(rows) + marginal_s * row.new_tokens / new + self.context_s * row.context_tokens
            for row in rows
        ]

    def seconds(self, rows: Sequence[Row]) -> float:
        """Return the predicted duration of a step with these rows."""
        return sum(self.weights(rows))


def shares_ns(duration_ns: int, rows: Sequence[Row], work: WorkModel | None = None) -> tuple[int, ...]:
    """Split a step's duration over its rows by their work, or by their new tokens while nothing is fitted.

    Largest remainder: every share is within one nanosecond of its exact part, and they sum to `duration_ns`.
    """
    weights = work.weights(rows) if work else [float(row.new_tokens) for row in rows]
    total = sum(weights)
    if total <= 0:
        weights, total = [1.0] * len(rows), float(len(rows))
    exact = [duration_ns * weight / total for weight in weights]
    whole = [int(part) for part in exact]
    by_remainder = sorted(range(len(rows)), key=lambda i: whole[i] - exact[i])
    left = duration_ns - sum(whole)
    for i in range(left):
        whole[by_remainder[i % len(rows)]] += 1
    if left < 0:  # float error of very long steps
        whole[by_remainder[-1]] += left
    return tuple(whole)


@dataclass
class Totals:
    """Sums over all steps since the engine was ready."""

    steps: int = 0
    busy_ns: int = 0
    prefill_ns: int = 0
    decode_ns: int = 0
    prefill_tokens: int = 0  # computed; reused ones are in cached_tokens
    decode_tokens: int = 0
    cached_tokens: int = 0  # prompt tokens reused from a slot
    cancelled_ns: int = 0  # engine time of requests that nobody waited for to the end
    finished: int = 0
    cancelled: int = 0


@dataclass
class StepLog:
    """The last steps and the totals of all."""

    size: int = 1024  # steps kept
    totals: Totals = field(default_factory=Totals)

    def __post_init__(self) -> None:
        self._recent: deque[StepEvent] = deque(maxlen=self.size)

    def add(self, event: StepEvent) -> None:
        """Keep `event`, in place of the oldest where the log is full."""
        self._recent.append(event)
        tokens = sum(row.new_tokens for row in event.rows)
        totals = self.totals
        totals.steps += 1
        totals.busy_ns += event.duration_ns
        if event.phase == "prefill":
            totals.prefill_ns += event.duration_ns
            totals.prefill_tokens += tokens
        else:
            totals.decode_ns += event.duration_ns
            totals.decode_tokens += tokens

    def recent(self, limit: int | None = None) -> list[StepEvent]:
        """Return the last `limit` steps, the oldest first."""
        events = list(self._recent)
        return events if limit is None else events[max(0, len(events) - limit) :]
