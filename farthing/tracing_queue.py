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
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
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
        self._closed_at: float | None = None  # monotonic time by which the last post must have ended
        self._start_afresh()
        _queues.add(self)

    def _start_afresh(self) -> None:
        # The garbage collector may end an abandoned stream's span, and so call `put`, while this very thread is inside
        # one of these methods: hence a lock that can be taken again, and wake-ups by SimpleQueue, which is re-entrant.
        self._lock = threading.RLock()
        self._settled_one = threading.Condition(self._lock)
        self._wake: SimpleQueue[bool] = SimpleQueue()  # True = at once, False = after the gathering time
        self._spans: deque[ReadableSpan] = deque()
        self._is_idle = True  # the worker waits, or will look at the queue once more before it does
        self._in_flight = 0
        self._settled = 0  # exported or dropped, after having waited here
        self._worker: threading.Thread | None = None
        self._counts = Counts()

    def put(self, span: ReadableSpan) -> None:
        """Take in a finished span, or count it as dropped."""
        waiting = len(self._spans)
        if self._closed_at is not None:
            self._count(Counts(dropped_gave_up=1))
        elif waiting >= self.max_spans:
            self._count(Counts(dropped_queue_full=1))
        else:
            self._spans.append(span)
            if self._is_idle:
                self._is_idle = False
                self._wake_worker()
            elif waiting + 1 == BATCH_SPANS:
                self._wake.put(True)

    def counts(self) -> Counts:
        return self._counts

    def waiting(self) -> int:
        """Return how many spans are neither exported nor dropped yet."""
        with self._lock:
            return self._in_flight + len(self._spans)

    def flush(self, timeout_s: float) -> bool:
        """Deliver all that is waiting now; False if something is left or was lost after `timeout_s` seconds."""
        deadline = monotonic() + timeout_s
        with self._lock:
            target, lost = self._settled + self.waiting(), _lost(self._counts)
            if self._settled < target:
                self._wake.put(True)
            while self._settled < target:
                left = deadline - monotonic()
                if left <= 0:
                    return False
                self._settled_one.wait(left)
            return _lost(self._counts) == lost

    def close(self, timeout_s: float) -> bool:
        """Deliver what is waiting within `timeout_s` seconds, give up the rest, and take no more spans."""
        with self._lock:
            if self._closed_at is not None:
                return True
            self._closed_at = monotonic() + timeout_s
        delivered = self.flush(timeout_s)
        with self._lock:
            self._worker = None  # what it still does is not counted any more
            left, self._in_flight = self.waiting(), 0
            self._spans.clear()
            self._settle(Counts(dropped_gave_up=left), left)
        self._wake.put(True)
        return delivered

    def open(self) -> None:
        """Take spans again after `close`."""
        with self._lock:
            if self._closed_at is not None:
                self._wake, self._is_idle = SimpleQueue(), True  # an old worker still listens to the old one
                self._closed_at = None

    def _wake_worker(self) -> None:
        if self._worker is None:
            with self._lock:
                if self._worker is None and self._closed_at is None:
                    self._worker = threading.Thread(target=self._work, name="farthing-export", daemon=True)
                    self._worker.start()
        self._wake.put(False)

    def _work(self) -> None:
        with suppress_instrumentation():
            while self._wait_for_spans():
                while batch := self._next_batch():
                    try:
                        change = self._deliver(batch)
                    except Exception as error:  # noqa: BLE001 - one odd batch must not end the export; it is counted
                        change = Counts(dropped_rejected=len(batch), last_error=repr(error))
                    self._account(batch, change)

    def _wait_for_spans(self) -> bool:
        """Return when a batch may have gathered; False when this thread's work is over."""
        if not self._is_mine():
            return False
        self._is_idle = True
        is_hurried = not self._spans and self._wake.get()
        if not self._is_mine():
            return False
        self._is_idle = False
        if not is_hurried:
            self._pause(self._gather_s)
        return True

    def _pause(self, seconds: float) -> None:
        """Wait, but not when somebody is in a hurry: a full batch, a flush, the end of the process."""
        until = monotonic() + seconds
        with suppress(Empty):
            while not self._wake.get(timeout=max(0.0, until - monotonic())):
                pass

    def _is_mine(self) -> bool:
        return self._worker is threading.current_thread()

    def _next_batch(self) -> list[ReadableSpan]:
        with self._lock:
            if not self._is_mine():
                return []
            self._in_flight = min(BATCH_SPANS, len(self._spans))
            return [self._spans.popleft() for _ in range(self._in_flight)]

    def _deliver(self, batch: Sequence[ReadableSpan]) -> Counts:
        body = self.exporter.encode(batch)
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
        return self.exporter.post(body, min(ATTEMPT_S, max(0.1, left)))

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
        self._pause(delay)
        return True

    def _note(self, error: str) -> None:
        self._count(Counts(last_error=error))

    def _account(self, batch: Sequence[ReadableSpan], change: Counts) -> None:
        with self._lock:
            if not self._is_mine():
                return
            is_first_loss = _lost(change) > 0 and _lost(self._counts) == 0
            self._in_flight = 0
            self._settle(change, len(batch))
        if is_first_loss:
            log.warning("farthing: spans are dropped (%s); see farthing.status()", change.last_error)

    def _settle(self, change: Counts, spans: int) -> None:
        self._count(change)
        self._settled += spans
        self._settled_one.notify_all()

    def _count(self, change: Counts) -> None:
        with self._lock:
            old = self._counts
            self._counts = Counts(
                old.exported + change.exported,
                old.dropped_queue_full + change.dropped_queue_full,
                old.dropped_rejected + change.dropped_rejected,
                old.dropped_gave_up + change.dropped_gave_up,
                change.last_error or old.last_error,
            )

    def after_fork(self) -> None:
        """Begin anew in a forked child: the parent delivers what was waiting, and its thread is not here."""
        self._start_afresh()
        self.exporter.close()


def _lost(counts: Counts) -> int:
    return counts.dropped_rejected + counts.dropped_gave_up


_queues: weakref.WeakSet[SpanQueue] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for queue in tuple(_queues):
        queue.after_fork()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
