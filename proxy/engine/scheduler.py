"""Continuous batching: which requests share the next step of the model, and what each of them is charged for it.

One thread calls `step`; `submit` and `cancel` may be called from any. Between two decode steps at most about
`prefill_chunk` prompt tokens are computed, so a long prompt does not stall the answers that are running.
"""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor

from farthing.errors import EngineError
from proxy.engine.kv import Lease
from proxy.engine.model import Llama
from proxy.engine.sample import Sampler, Sampling, choose
from proxy.engine.steps import Row, StepEvent, StepLog, WorkModel, shares_ns
from proxy.engine.text import TextStream
from proxy.engine.work import fit_work

REFIT_STEPS = 256  # decode steps between two fits of the work model


@dataclass(frozen=True)
class Timings:
    """Where one request's time went."""

    queue_s: float  # from submit until its first step began
    prefill_s: float  # from there until its first token, waiting between chunks included
    decode_s: float  # from there until its last token
    engine_ns: int  # the engine's time that it is charged with
    cached_tokens: int  # prompt tokens reused from a slot

    @property
    def engine_s(self) -> float:
        return self.engine_ns / 1e9


@dataclass(frozen=True)
class Output:
    """What one step brought a request; the last one carries the reason and the timings."""

    text: str
    completion_tokens: int  # so far, the end token included
    finish: str = ""  # stop | length | cancelled | error; "" = more will come
    timings: Timings | None = None
    error: str = ""


@dataclass(frozen=True)
class Request:
    """One answer to compute."""

    request_id: str
    prompt: tuple[int, ...]
    text: TextStream
    on_output: Callable[[Output], None]  # called on the engine's thread; must not block
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop_tokens: frozenset[int] = frozenset()  # end the answer and are not shown


class _Sequence:
    """A request under way."""

    def __init__(self, request: Request, now_ns: int) -> None:
        self.request = request
        self.sampler = Sampler(request.sampling)
        self.lease = Lease(-1, 0)
        self.computed = 0  # tokens of the prompt and answer whose KV is stored
        self.answer: list[int] = []
        self.submitted_ns = now_ns
        self.started_ns = 0  # its first step; 0 = still waiting
        self.first_token_ns = 0
        self.engine_ns = 0

    def timings(self, now_ns: int) -> Timings:
        started = self.started_ns or now_ns
        first = self.first_token_ns or now_ns
        return Timings(
            queue_s=(started - self.submitted_ns) / 1e9,
            prefill_s=(first - started) / 1e9 if self.started_ns else 0.0,
            decode_s=(now_ns - first) / 1e9,
            engine_ns=self.engine_ns,
            cached_tokens=self.lease.cached_tokens,
        )


class Scheduler:
    """The requests of one model. `max_batch`, `prefill_chunk` and `reuse_prefix` are read at each step."""

    def __init__(
        self, model: Llama, slots: int, max_tokens: int, clock_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self.max_batch = slots  # requests in work at once
        self.prefill_chunk = 128  # prompt tokens computed between two decode steps
        self.reuse_prefix = True
        self.log = StepLog()
        self.work: WorkModel | None = None  # None until enough steps were seen
        self._model = model
        # spare slots keep finished prompts for reuse while the others work
        self._cache = model.new_cache(slots + max(1, slots // 4), max_tokens)
        self._clock_ns = clock_ns
        self._inbox: deque[_Sequence] = deque()  # submitted, not yet seen by the engine's thread
        self._cancelled: deque[str] = deque()
        self._waiting: deque[_Sequence] = deque()
        self._prefilling: _Sequence | None = None
        self._running: dict[int, _Sequence] = {}  # by slot
        self._prefilled = 0  # prompt tokens since the last decode step
        self._decodes = 0

    @property
    def max_tokens(self) -> int:
        """The longest prompt plus answer, tokens."""
        return self._cache.max_tokens

    @property
    def active(self) -> int:
        """Requests that hold a slot."""
        return (self._prefilling is not None) + len(self._running)

    @property
    def waiting(self) -> int:
        """Requests that do not hold a slot yet."""
        return len(self._inbox) + len(self._waiting)

    @property
    def has_work(self) -> bool:
        return bool(self._inbox or self._cancelled or self._waiting or self.active)

    def submit(self, request: Request) -> None:
        """Queue `request`.

        Raises:
            EngineError: its prompt is empty or leaves no room for an answer.
        """
        if not 0 < len(request.prompt) < self.max_tokens:
            raise EngineError(f"a prompt of {len(request.prompt)} tokens; it must have 1 to {self.max_tokens - 1}")
        self._inbox.append(_Sequence(request, self._clock_ns()))

    def cancel(self, request_id: str) -> None:
        """End a request at the next step; one that is over already is left alone."""
        self._cancelled.append(request_id)

    def steps(self) -> Iterator[StepEvent]:
        """Run until nothing is left to do, yielding every step."""
        while self.has_work:
            event = self.step()
            if event is not None:
                yield event

    def step(self) -> StepEvent | None:
        """Run one step of the model, or return None where there is nothing to run."""
        self._take_messages()
        sequence = self._prefilling or self._next_waiting()
        if sequence and (self._prefilled < self.prefill_chunk or not self._running):
            return self._prefill(sequence)
        self._prefilled = 0
        return self._decode() if self._running else None

    def fail_all(self, message: str) -> None:
        """End every request with `message`: a step failed and the cache can no longer be trusted."""
        self._take_messages()
        for sequence in self._all():
            self._end(sequence, "error", error=message)
        self._cache.forget()

    def _take_messages(self) -> None:
        while self._inbox:
            self._waiting.append(self._inbox.popleft())
        gone = {self._cancelled.popleft() for _ in range(len(self._cancelled))}
        if not gone:
            return
        for sequence in self._all():
            if sequence.request.request_id in gone:
                self._end(sequence, "cancelled")

    def _all(self) -> list[_Sequence]:
        prefilling = [self._prefilling] if self._prefilling else []
        return [*self._waiting, *prefilling, *self._running.values()]

    def _next_waiting(self) -> _Sequence | None:
        """Return the request that may begin now, or None."""
        may_begin = self._waiting and self.active < max(1, self.max_batch) and self._cache.free_slots
        return self._waiting[0] if may_begin else None

    def _begin(self, sequence: _Sequence) -> None:
        """Give a waiting request its slot; no earlier than its first step, when the most can be reused."""
        self._waiting.popleft()
        self._prefilling = sequence
        sequence.started_ns = self._clock_ns()
        sequence.lease = self._cache.acquire(sequence.request.prompt, self.reuse_prefix)
        sequence.computed = sequence.lease.cached_tokens
        self.log.totals.cached_tokens += sequence.lease.cached_tokens

    def _prefill(self, sequence: _Sequence) -> StepEvent:
        """Compute the next chunk of a prompt."""
        started_ns = self._clock_ns()
        if sequence is not self._prefilling:
            self._begin(sequence)
        chunk = sequence.request.prompt[sequence.computed : sequence.computed + max(1, self.prefill_chunk)]
        logits = self._model.prefill(self._cache, sequence.lease.slot, sequence.computed, chunk)
        self._cache.extend(sequence.lease.slot, chunk)
        sequence.computed += len(chunk)
        self._prefilled += len(chunk)
        is_last = sequence.computed == len(sequence.request.prompt)
        if is_last:
            self._prefilling = None
            self._running[sequence.lease.slot] = sequence
        return self._close_step("prefill", started_ns, [sequence], len(chunk), logits[None] if is_last else None)

    def _decode(self) -> StepEvent:
        """Compute one more token for every running answer."""
        started_ns = self._clock_ns()
        slots = sorted(self._running)
        rows = [self._running[slot] for slot in slots]
        last = [sequence.answer[-1] for sequence in rows]
        logits = self._model.decode(self._cache, slots, [sequence.computed for sequence in rows], last)
        for sequence, token in zip(rows, last, strict=True):
            self._cache.extend(sequence.lease.slot, (token,))
            sequence.computed += 1
        return self._close_step("decode", started_ns, rows, 1, logits)

    def _close_step(
        self, phase: str, started_ns: int, sequences: list[_Sequence], new_tokens: int, logits: Tensor | None
    ) -> StepEvent:
        """Choose the tokens, charge the step to its rows, then tell each request what it got."""
        tokens = [] if logits is None else choose(logits, [sequence.sampler for sequence in sequences])
        now_ns = self._clock_ns()
        rows = tuple(Row(s.request.request_id, new_tokens, s.computed) for s in sequences)
        shares = shares_ns(now_ns - started_ns, rows, self.work)
        event = StepEvent(started_ns, now_ns - started_ns, phase, rows, shares)
        self.log.add(event)
        for sequence, share in zip(sequences, shares, strict=True):
            sequence.engine_ns += share
        for sequence, token in zip(sequences, tokens, strict=bool(tokens)):
            self._deliver(sequence, token, now_ns)
        self._refit(phase)
        return event

    def _deliver(self, sequence: _Sequence, token: int, now_ns: int) -> None:
        """Add `token` to the answer, and end it where that was its last one."""
        request = sequence.request
        sequence.first_token_ns = sequence.first_token_ns or now_ns
        sequence.answer.append(token)
        if token in request.stop_tokens:
            return self._end(sequence, "stop")
        text = request.text.push(token)
        if request.text.is_stopped:
            return self._end(sequence, "stop", text)
        full = len(request.prompt) + len(sequence.answer) >= self.max_tokens
        if len(sequence.answer) >= request.max_tokens or full:
            return self._end(sequence, "length", text)
        request.on_output(Output(text, len(sequence.answer)))

    def _end(self, sequence: _Sequence, finish: str, text: str = "", error: str = "") -> None:
        """Free what the request holds and send its last output."""
        self._leave(sequence)
        totals = self.log.totals
        totals.finished += finish in ("stop", "length")
        if finish == "cancelled":
            totals.cancelled += 1
            totals.cancelled_ns += sequence.engine_ns
        rest = "" if finish in ("cancelled", "error") else sequence.request.text.finish()
        timings = sequence.timings(self._clock_ns())
        sequence.request.on_output(Output(text + rest, len(sequence.answer), finish, timings, error))

    def _leave(self, sequence: _Sequence) -> None:
        slot = sequence.lease.slot
        if slot < 0:
            self._waiting.remove(sequence)
            return
        self._cache.release(slot)
        self._running.pop(slot, None)
        self._prefilling = None if self._prefilling is sequence else self._prefilling

    def _refit(self, phase: str) -> None:
        self._decodes += phase == "decode"
        if phase == "decode" and self._decodes % REFIT_STEPS == 0:
            self.work = fit_work([event for event in self.log.recent() if event.phase == "decode"]) or self.work
