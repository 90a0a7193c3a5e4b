"""Finished spans wait here, bounded, until a thread of ours has brought them to the collector.

`put` never blocks and never raises. Every span that is put is accounted for: exported, or dropped under one of three
names. OpenTelemetry's own batch processor drops the oldest spans of a full queue without a count.
"""
from __future__ import annotations

import logging
import os
import random
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import monotonic, sleep
from typing import Protocol

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan

from farthing.tracing_post import Answer

BATCH_SPANS = 512
GATHER_S = 1.0  # seconds that the first span of a batch waits for others
ATTEMPT_S = 5.0  # seconds that one post may take
GIVE_UP_S = 30.0  # seconds after which a batch that cannot be delivered is dropped

log = logging.getLogger("farthing")


class Exporter(Protocol):
    """Where batches go: `tracing_post.Collector`, or a test's own."""

    def encode(self, spans: Sequence[ReadableSpan]) -> bytes: ...
    def post(self, body: bytes, timeout_s: float) -> Answer: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Counts:
    """What became of the spans since the start of the process."""

    exported: int = 0
    dropped_queue_full: int = 0  # came while the queue was full
    dropped_rejected: int = 0  # the collector refused them, or they could not be encoded
    dropped_gave_up: int = 0  # could not be delivered in time, or came after the shutdown
    last_error: str = ""


class SpanQueue:
    """A bounded queue of finished spans and the thread that empties it."""

    def __init__(
        self, exporter: Exporter, max_spans: int = 2048, gather_s: float = GATHER_S, give_up_s: float = GIVE_UP_S
    ) -> None:
        self.exporter = exporter
        self.max_spans = max_spans
        self._gather_s = gather_s
        self._give_up_s = give_up_s
        self._start_afresh()
        _queues.add(self)

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._settled_one = threading.Condition(self._lock)
        self._some = threading.Event()  # the queue is not empty any more
        self._hurry = threading.Event()  # a full batch, a flush or the end: do not gather, do not back off
        self._spans: deque[ReadableSpan] = deque()
        self._worker: threading.Thread | None = None
        self._closed_at: float | None = None  # monotonic time by which the last post must have ended
        self._taken_in = 0
        self._settled = 0
        self._counts = Counts()

    def put(self, span: ReadableSpan) -> None:
        """Take in a finished span, or count it as dropped."""
        with self._lock:
            waiting = len(self._spans)
            if self._closed_at is not None:
                self._counts = replace(self._counts, dropped_gave_up=self._counts.dropped_gave_up + 1)
                return
            if waiting >= self.max_spans:
                self._counts = replace(self._counts, dropped_queue_full=self._counts.dropped_queue_full + 1)
                return
            self._spans.append(span)
            self._taken_in += 1
        if waiting == 0:
            self._wake_worker()
        elif waiting + 1 == BATCH_SPANS:
            self._hurry.set()

    def counts(self) -> Counts:
        return self._counts

    def waiting(self) -> int:
        """Return how many spans are neither exported nor dropped yet."""
        with self._lock:
            return self._taken_in - self._settled

    def flush(self, timeout_s: float) -> bool:
        """Deliver all that is waiting now; False if something is left or was lost after `timeout_s` seconds."""
        deadline = monotonic() + timeout_s
        with self._lock:
            target, lost = self._taken_in, _lost(self._counts)
            self._some.set()
            self._hurry.set()
            while self._settled < target:
                if not self._settled_one.wait(max(0.0, deadline - monotonic())) and monotonic() >= deadline:
                    return False
            return _lost(self._counts) == lost

    def close(self, timeout_s: float) -> bool:
        """Deliver what is waiting within `timeout_s` seconds, give up the rest, and take no more spans."""
        with self._lock:
            if self._closed_at is not None:
                return True
            self._closed_at = monotonic() + timeout_s
        delivered = self.flush(timeout_s)
        with self._lock:
            left = self._taken_in - self._settled
            self._worker = None  # what it still does is not counted any more
            self._spans.clear()
            self._settle(Counts(dropped_gave_up=left), left)
        self._some.set()
        return delivered

    def open(self) -> None:
        """Take spans again after `close`."""
        with self._lock:
            self._closed_at = None

    def _wake_worker(self) -> None:
        with self._lock:
            if self._worker is None and self._closed_at is None:
                self._worker = threading.Thread(target=self._work, name="farthing-export", daemon=True)
                self._worker.start()
        self._some.set()

    def _work(self) -> None:
        with suppress_instrumentation():
            while self._is_mine():
                self._some.wait()
                self._some.clear()
                self._hurry.wait(self._gather_s)
                self._hurry.clear()
                while batch := self._next_batch():
                    self._account(batch, self._deliver(batch))

    def _is_mine(self) -> bool:
        return self._worker is threading.current_thread()

    def _next_batch(self) -> list[ReadableSpan]:
        with self._lock:
            if not self._is_mine():
                return []
            return [self._spans.popleft() for _ in range(min(BATCH_SPANS, len(self._spans)))]

    def _deliver(self, batch: Sequence[ReadableSpan]) -> Counts:
        try:
            body = self.exporter.encode(batch)
        except Exception as error:  # one odd attribute of the application's must not end the export
            return Counts(dropped_rejected=len(batch), last_error=f"cannot encode: {error!r}")
        give_up_at = monotonic() + self._give_up_s
        attempt = 0
        while True:
            answer = self._post(body, give_up_at)
            if answer.is_accepted:
                refused = min(answer.rejected, len(batch))
                return Counts(exported=len(batch) - refused, dropped_rejected=refused)
            if not answer.is_retryable:
                return Counts(dropped_rejected=len(batch), last_error=answer.error)
            if not self._may_retry(answer, attempt, give_up_at):
                return Counts(dropped_gave_up=len(batch), last_error=answer.error)
            attempt += 1

    def _post(self, body: bytes, give_up_at: float) -> Answer:
        left = max(1.0, give_up_at - monotonic()) if self._closed_at is None else self._closed_at - monotonic()
        try:
            return self.exporter.post(body, min(ATTEMPT_S, max(0.1, left)))
        except Exception as error:  # the thread must outlive whatever a transport raises
            return Answer(0, repr(error))

    def _may_retry(self, answer: Answer, attempt: int, give_up_at: float) -> bool:
        """Wait until the batch may be sent again; False when its time is up."""
        self._note(answer.error)
        left = min(give_up_at, self._closed_at or give_up_at) - monotonic()
        if left <= 0 or not self._is_mine():
            return False
        delay = min(left, max(answer.retry_after_s, random.uniform(0.5, 1.0) * min(5.0, 0.2 * 2**attempt)))
        if self._closed_at is not None:
            sleep(delay)
            return answer.status != 0  # nobody listens: do not hold up the end of the process
        self._hurry.wait(delay)
        self._hurry.clear()
        return True

    def _note(self, error: str) -> None:
        with self._lock:
            self._counts = replace(self._counts, last_error=error)

    def _account(self, batch: Sequence[ReadableSpan], change: Counts) -> None:
        with self._lock:
            if self._is_mine():
                first = _lost(change) > 0 and _lost(self._counts) == 0
                self._settle(change, len(batch))
                if first:
                    log.warning("farthing: spans are dropped (%s); see farthing.status()", change.last_error)

    def _settle(self, change: Counts, spans: int) -> None:
        old = self._counts
        self._counts = Counts(
            old.exported + change.exported,
            old.dropped_queue_full,
            old.dropped_rejected + change.dropped_rejected,
            old.dropped_gave_up + change.dropped_gave_up,
            change.last_error or old.last_error,
        )
        self._settled += spans
        self._settled_one.notify_all()

    def _after_fork(self) -> None:
        closed_at = self._closed_at
        self._start_afresh()
        self._closed_at = closed_at
        self.exporter.close()


def _lost(counts: Counts) -> int:
    return counts.dropped_rejected + counts.dropped_gave_up


_queues: weakref.WeakSet[SpanQueue] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for queue in tuple(_queues):
        queue._after_fork()  # pyright: ignore[reportPrivateUsage] - the module's own class


os.register_at_fork(after_in_child=_after_fork_in_child)
