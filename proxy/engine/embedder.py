"""Runs one encoder on a thread of its own; each step takes what waits, from all callers, up to a bound of tokens.

There is no waiting for more to come: while one step runs the next fills up by itself, and a lone caller loses nothing.
"""
from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from proxy.engine.encoder import Encoder

log = logging.getLogger(__name__)

# Tokens of one step, padding included. A CPU core takes 450 µs a token for a lone short text, 278 from 64 tokens on and
# 261 at 1,024 (0.27 s), so a larger step would only make others wait.
STEP_TOKENS = {"cpu": 1024, "cuda": 16_384}

Vector = bytes  # float32, little-endian


@dataclass(frozen=True)
class Embedded:
    """The vectors of one request, in the order of its rows, or why there are none."""

    vectors: tuple[Vector, ...] = ()
    queue_ns: int = 0  # from submit until the first of its rows was in a step
    engine_ns: int = 0  # its share of the steps that it was in, by padded tokens
    error: str = ""


@dataclass
class EmbedTotals:
    """What an encoder has done since its start."""

    steps: int = 0
    rows: int = 0
    tokens: int = 0  # without padding
    padded_tokens: int = 0
    busy_ns: int = 0
    failed_steps: int = 0
    cancelled: int = 0  # requests


@dataclass(eq=False)
class EmbedRequest:
    """Rows to embed, and whom to tell; `on_done` is called on the encoder's thread and must not block."""

    rows: Sequence[Sequence[int]]  # token ids
    on_done: Callable[[Embedded], None]
    submitted_ns: int = 0
    started_ns: int = 0
    engine_ns: int = 0
    is_over: bool = False
    vectors: dict[int, Vector] = field(default_factory=dict)  # by row


class Embedder:
    """One encoder and its queue; `submit` and `cancel` may be called from any thread."""

    def __init__(
        self, encoder: Encoder, threads: int, name: str, clock_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self.encoder = encoder
        self.totals = EmbedTotals()
        self._threads = max(1, threads)
        self._clock_ns = clock_ns
        self._step_tokens = STEP_TOKENS[encoder.device.type]
        self._queue: deque[tuple[EmbedRequest, int]] = deque()  # (request, row)
        self._waiting_tokens = 0
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)

    @property
    def waiting_tokens(self) -> int:
        """Tokens that no step has taken yet."""
        return self._waiting_tokens

    def start(self) -> None:
        """Begin to take requests."""
        self._thread.start()

    def submit(self, request: EmbedRequest) -> None:
        """Queue a request, its shortest rows first, so that a step pads little."""
        request.submitted_ns = self._clock_ns()
        order = sorted(range(len(request.rows)), key=lambda row: len(request.rows[row]))
        with self._changed:
            self._queue.extend((request, row) for row in order)
            self._waiting_tokens += sum(len(row) for row in request.rows)
            self._changed.notify()

    def cancel(self, request: EmbedRequest) -> None:
        """Drop the rows of a request that no step has taken; one that is over is left alone."""
        with self._changed:
            if request.is_over:
                return
            request.is_over = True
            self.totals.cancelled += 1
            dropped = [(one, row) for one, row in self._queue if one is request]
            self._queue = deque(entry for entry in self._queue if entry[0] is not request)
            self._waiting_tokens -= sum(len(one.rows[row]) for one, row in dropped)

    def close(self) -> None:
        """End the thread, and every request that still waits with an error."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        while self._queue:
            self._fail(self._take(), "the engine is shutting down")

    def step(self) -> bool:
        """Embed what waits, up to the bound of one step; tell whether there was anything."""
        with self._changed:
            taken = self._take()
        if not taken:
            return False
        started_ns = self._clock_ns()
        try:
            vectors = self.encoder.encode([request.rows[row] for request, row in taken]).numpy()
        except Exception as error:  # out of memory, a CUDA fault: the requests fail, the server must not
            self.totals.failed_steps += 1
            log.exception("a step of the encoder failed; its requests are ended with an error")
            self._fail(taken, f"the engine failed: {error}")
            return True
        self._count(taken, started_ns, self._clock_ns() - started_ns)
        for (request, row), vector in zip(taken, vectors, strict=True):
            request.vectors[row] = vector.astype("<f4", copy=False).tobytes()
            if len(request.vectors) == len(request.rows):
                self._finish(request)
        return True

    def _take(self) -> list[tuple[EmbedRequest, int]]:
        taken: list[tuple[EmbedRequest, int]] = []
        longest = 0
        while self._queue:
            request, row = self._queue[0]
            longest = max(longest, len(request.rows[row]))
            if taken and longest * (len(taken) + 1) > self._step_tokens:
                break
            taken.append(self._queue.popleft())
            self._waiting_tokens -= len(request.rows[row])
        return taken

    def _count(self, taken: list[tuple[EmbedRequest, int]], started_ns: int, took_ns: int) -> None:
        totals, lengths = self.totals, [len(request.rows[row]) for request, row in taken]
        totals.steps += 1
        totals.rows += len(taken)
        totals.tokens += sum(lengths)
        totals.padded_tokens += max(lengths) * len(taken)
        totals.busy_ns += took_ns
        for request, _ in taken:
            request.started_ns = request.started_ns or started_ns
            request.engine_ns += took_ns // len(taken)  # padded to the same length, so each row costs the same

    def _finish(self, request: EmbedRequest) -> None:
        with self._changed:
            if request.is_over:
                return
            request.is_over = True
        vectors = tuple(request.vectors[row] for row in range(len(request.rows)))
        request.on_done(Embedded(vectors, request.started_ns - request.submitted_ns, request.engine_ns))

    def _fail(self, taken: list[tuple[EmbedRequest, int]], error: str) -> None:
        for request in dict.fromkeys(request for request, _ in taken):
            if not request.is_over:
                self.cancel(request)
                request.on_done(Embedded(error=error))

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        while not self._is_closing:
            if not self.step():
                with self._changed:
                    self._changed.wait_for(lambda: self._queue or self._is_closing)
