"""Gathers the embeddings calls of a moment: each caller gets its own vectors, its share of the usage, its own error.

A batch leaves when it is full, when its oldest call has waited for the window or when a deadline would pass otherwise.
Calls meet only where tenant, deployment, parameters and headers are the same. A batch that the upstream refuses is sent
call by call, so that one caller's bad input is nobody else's error.
"""
from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from time import monotonic, time_ns
from typing import Any

import msgspec

from farthing.errors import UpstreamError
from farthing.policy.micro_batch import MicroBatchAction
from proxy.call import Call
from proxy.dispatch import Target
from proxy.embedding_batch import inputs_of, shared_fields, size_of, taken_apart, tokens_of, whole_request
from proxy.upstream import Client, NotSentError, Timeouts
from proxy.whole_response import WholeResponse

_REFUSED = (400, 413, 422)  # answers that one call's input may be the reason for
_ANSWER_BYTES = 256 * 1024 * 1024
_GROUPS = 256  # kept while idle, for what is known of their time
_WEIGHT = 0.2  # of the newest batch in the moving average of their time

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Letter:
    """One call as it would be sent alone."""

    tenant: str
    url: str
    headers: Headers
    body: bytes
    fields: Mapping[str, Any]  # of the body
    timeouts: Timeouts
    is_repeatable: bool
    until: float  # monotonic seconds; nobody waits for the answer then

    @classmethod
    def of(cls, call: Call, target: Target, url: str, headers: Headers, body: bytes) -> Letter:
        left_s = call.limit_s - (time_ns() - call.started_ns) / 1e9
        return cls(
            call.facts.tenant, url, headers, body, msgspec.json.decode(body), target.timeouts,
            is_repeatable=not target.deployment.metered, until=monotonic() + left_s,
        )  # fmt: skip


@dataclass(eq=False)
class _Waiting:
    letter: Letter
    inputs: list[Any]
    size: int
    answer: asyncio.Future[WholeResponse]

    @cached_property
    def tokens(self) -> int:
        """Estimated, for a policy that has a budget of them."""
        return tokens_of(self.inputs)

    def tell(self, answer: WholeResponse) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: UpstreamError) -> None:
        """Raise an error of its own: one that several raise would gather all of their frames."""
        if not self.answer.done():
            kind = NotSentError if isinstance(error, NotSentError) else UpstreamError
            self.answer.set_exception(kind(str(error)))


@dataclass(eq=False)
class _Batch:
    calls: list[_Waiting] = field(default_factory=list[_Waiting])
    inputs: int = 0
    size: int = 0
    timer: asyncio.TimerHandle | None = None
    leaves_at: float = 0.0
    under_way: asyncio.Task[None] | None = None
    _tokens: int = 0
    _counted: int = 0  # calls

    def add(self, call: _Waiting) -> None:
        self.calls.append(call)
        self.inputs += len(call.inputs)
        self.size += call.size

    @property
    def tokens(self) -> int:
        """Counted once a policy has a budget of them, each call once."""
        self._tokens += sum(call.tokens for call in self.calls[self._counted :])
        self._counted = len(self.calls)
        return self._tokens

    def fits(self, call: _Waiting, rule: MicroBatchAction) -> bool:
        """Tell whether a call may join."""
        return (
            self.inputs + len(call.inputs) <= rule.max_inputs
            and self.size + call.size <= rule.max_bytes
            and (rule.max_tokens is None or self.tokens + call.tokens <= rule.max_tokens)
        )

    def has_enough(self, inputs: int, rule: MicroBatchAction) -> bool:
        """Tell whether it need not wait for more."""
        return (
            self.inputs >= inputs
            or self.size >= rule.max_bytes
            or (rule.max_tokens is not None and self.tokens >= rule.max_tokens)
        )

    def live(self) -> list[_Waiting]:
        """Return the calls that somebody still waits for."""
        return [call for call in self.calls if not call.answer.done()]


class _Group:
    """Calls that may be sent together."""

    def __init__(self) -> None:
        self.open = _Batch()
        self.ready: deque[_Batch] = deque()  # full, and waiting for one that is under way
        self.under_way = 0
        self.time_s = 0.0  # moving average of a batch's time; 0 = none seen yet

    @property
    def is_idle(self) -> bool:
        return not (self.open.calls or self.ready or self.under_way)


class MicroBatches:
    """The batches of one worker; what it counts only grows."""

    def __init__(self, client: Client, clock: Callable[[], float] = monotonic) -> None:
        self._client = client
        self._clock = clock
        self._groups: dict[object, _Group] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.batches = self.calls = self.inputs = 0
        self.refused_batches = 0  # sent again call by call

    @property
    def waiting(self) -> int:
        """Calls that have not been sent yet."""
        found = [batch for group in self._groups.values() for batch in (group.open, *group.ready)]
        return sum(len(batch.live()) for batch in found)

    async def post(self, rule: MicroBatchAction, letter: Letter) -> WholeResponse:
        """Send a call together with others; `rule` may change from call to call.

        Raises:
            UpstreamError: no answer came, or none that could be taken apart; NotSentError where nothing was sent.
        """
        key = (letter.tenant, letter.url, tuple(letter.headers), letter.timeouts, shared_fields(letter.fields))
        group = self._group(key)
        inputs = inputs_of(letter.fields)
        call = _Waiting(letter, inputs, size_of(inputs), asyncio.get_running_loop().create_future())
        batch = self._add(group, rule, call)
        try:
            return await call.answer
        except asyncio.CancelledError:
            call.answer.cancel()
            self._left(batch)
            raise

    def _group(self, key: object) -> _Group:
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= _GROUPS:
                self._groups = {known: one for known, one in self._groups.items() if not one.is_idle}
            group = self._groups[key] = _Group()
        return group

    def _add(self, group: _Group, rule: MicroBatchAction, call: _Waiting) -> _Batch:
        batch = group.open
        if batch.calls and not batch.fits(call, rule):
            self._close(group, rule.concurrent)
            batch = group.open
        batch.add(call)
        enough = rule.min_inputs if rule.min_inputs is not None and not group.under_way else rule.max_inputs
        now = self._clock()
        left_s = call.letter.until - now
        leaves_at = now + min(rule.window_ms / 1000, left_s / 2, left_s - 2 * group.time_s)
        if batch.has_enough(enough, rule) or leaves_at <= now:
            self._close(group, rule.concurrent)
        elif batch.timer is None or leaves_at < batch.leaves_at:
            self._arm(group, rule, leaves_at - now)
        return batch

    def _arm(self, group: _Group, rule: MicroBatchAction, wait_s: float) -> None:
        batch = group.open
        if batch.timer is not None:
            batch.timer.cancel()
        batch.leaves_at = self._clock() + wait_s
        loop = asyncio.get_running_loop()
        batch.timer = loop.call_later(wait_s, self._close, group, rule.concurrent)

    def _close(self, group: _Group, concurrent: int) -> None:
        """Let the open batch leave, now or after one that is under way."""
        batch, group.open = group.open, _Batch()
        if batch.timer is not None:
            batch.timer.cancel()
        group.ready.append(batch)
        self._send_ready(group, concurrent)

    def _send_ready(self, group: _Group, concurrent: int) -> None:
        while group.ready and group.under_way < concurrent:
            batch = group.ready.popleft()
            calls = batch.live()
            if not calls:
                continue
            group.under_way += 1
            task = batch.under_way = asyncio.create_task(self._carry(group, calls))
            self._tasks.add(task)
            task.add_done_callback(lambda task: self._carried(task, group, concurrent))

    def _carried(self, task: asyncio.Task[None], group: _Group, concurrent: int) -> None:
        self._tasks.discard(task)
        group.under_way -= 1
        self._send_ready(group, concurrent)

    def _left(self, batch: _Batch) -> None:
        """Stop a batch that nobody waits for any more."""
        if batch.under_way is not None and not batch.live():
            batch.under_way.cancel()

    async def _carry(self, group: _Group, calls: list[_Waiting]) -> None:
        """Send a batch, and give each of its calls what it is due."""
        self.batches += 1
        self.calls += len(calls)
        self.inputs += sum(len(call.inputs) for call in calls)
        started = self._clock()
        if len(calls) == 1:
            await self._carry_alone(calls[0])
        else:
            await self._carry_together(calls)
        took = self._clock() - started
        group.time_s += (took - group.time_s) * (_WEIGHT if group.time_s else 1.0)

    async def _carry_alone(self, call: _Waiting) -> None:
        try:
            answer = await self._send(call.letter, call.letter.body)
        except UpstreamError as error:
            call.fail(error)
        else:
            call.tell(answer)

    async def _carry_together(self, calls: list[_Waiting]) -> None:
        try:
            answers = await self._answers(calls)
        except UpstreamError as error:
            for call in calls:
                call.fail(error)
            return
        if answers is None:
            self.refused_batches += 1
            for call in calls:
                if not call.answer.done():  # nobody pays for who has gone meanwhile
                    await self._carry_alone(call)
            return
        for call, answer in zip(calls, answers, strict=True):
            call.tell(answer)

    async def _answers(self, calls: list[_Waiting]) -> list[WholeResponse] | None:
        """Return each call's answer, None where the upstream refuses what one of them asks."""
        letter = calls[0].letter
        lists = [call.inputs for call in calls]
        answer = await self._send(letter, whole_request(letter.fields, lists))
        if answer.status in _REFUSED:
            return None
        body = await answer.read()
        bodies = taken_apart(body, lists) if answer.status == 200 else [body] * len(calls)
        return [WholeResponse(answer.status, answer.headers, one, len(calls)) for one in bodies]

    async def _send(self, letter: Letter, body: bytes) -> WholeResponse:
        response = await self._client.request(
            "POST", letter.url, body, letter.headers, letter.timeouts, letter.is_repeatable
        )
        try:
            return WholeResponse(response.status, response.headers, await response.read(_ANSWER_BYTES))
        finally:
            response.close()

