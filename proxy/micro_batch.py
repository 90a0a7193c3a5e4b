"""Gathers the embeddings calls of a moment: each caller gets its own vectors, its share of the usage, its own error.

A batch leaves when it is full, when its oldest call has waited for the window or when a deadline would pass otherwise.
Calls meet only where tenant, deployment, parameters and headers are the same. A batch that the upstream refuses is sent
call by call, so that one caller's bad input is nobody else's error. Batches are gathered by each worker, and under way
no more of them are at once than the policy says, over all workers of a host.
"""
from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic

from farthing.errors import UpstreamError
from farthing.policy.index import CompiledDocument
from farthing.policy.micro_batch import MicroBatchAction
from proxy.embedding_batch import inputs_of, shared_fields, size_of, taken_apart, whole_request
from proxy.lane import Lane
from proxy.letter import Batch, Letter, Waiting
from proxy.lookout import Lookout
from proxy.place_table import PlaceTable, key_of
from proxy.upstream import Client
from proxy.whole_response import WholeResponse

log = logging.getLogger(__name__)

_REFUSED = (400, 413, 422)  # answers that one call's input may be the reason for
_ANSWER_BYTES = 256 * 1024 * 1024
_GROUPS = 256  # kept while idle, for what is known of their time
_WEIGHT = 0.2  # of the newest batch in the moving average of their time

class _Group:
    """Calls that may be sent together."""

    def __init__(self, lane: Lane[Batch]) -> None:
        self.open = Batch()
        self.lane = lane  # of the batches that are full
        self.time_s = 0.0  # moving average of a batch's time; 0 = none seen yet

    @property
    def is_idle(self) -> bool:
        return not (self.open.calls or self.lane.ready or self.lane.under_way)


class MicroBatches:
    """The batches of one worker; what it counts only grows."""

    def __init__(
        self, client: Client, opened: Callable[[], PlaceTable], clock: Callable[[], float] = monotonic
    ) -> None:
        """`opened` returns the table of this host's places, which is opened at the first need."""
        self._client = client
        self._opened = opened
        self._clock = clock
        self._groups: dict[object, _Group] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lookout: Lookout | None = None
        self.batches = self.calls = self.inputs = 0
        self.refused_batches = 0  # sent again call by call

    def follow(self, compiled: CompiledDocument) -> None:
        """Open the table for a document that has batches: one that cannot be counted is refused, and no call of it."""
        if compiled.micro_batches is not None:
            self._opened()

    async def close(self) -> None:
        """Let nothing be under way any more."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def waiting(self) -> int:
        """Calls that have not been sent yet."""
        found = [batch for group in self._groups.values() for batch in (group.open, *group.lane.ready)]
        return sum(len(batch.live()) for batch in found)

    @property
    def under_way(self) -> int:
        """Batches that have been sent and not answered yet."""
        return len(self._tasks)

    async def post(self, rule: MicroBatchAction, letter: Letter) -> WholeResponse:
        """Send a call together with others; `rule` may change from call to call.

        Raises:
            UpstreamError: no answer came, or none that could be taken apart; NotSentError where nothing was sent.
        """
        key = (letter.tenant, letter.url, tuple(letter.headers), letter.timeouts, shared_fields(letter.fields))
        group = self._group(key)
        inputs = inputs_of(letter.fields)
        call = Waiting(letter, inputs, size_of(inputs), asyncio.get_running_loop().create_future())
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
            lane: Lane[Batch] = Lane(self._opened(), key_of(repr(key)), lambda batch: self._begin(made, batch))
            made = group = self._groups[key] = _Group(lane)
        return group

    def _add(self, group: _Group, rule: MicroBatchAction, call: Waiting) -> Batch:
        batch = group.open
        group.lane.most = rule.concurrent
        if batch.calls and not batch.fits(call, rule):
            self._close(group)
            batch = group.open
        batch.add(call)
        enough = rule.min_inputs if rule.min_inputs is not None and not group.lane.under_way else rule.max_inputs
        now = self._clock()
        left_s = call.letter.until - now
        leaves_at = now + min(rule.window_ms / 1000, left_s / 2, left_s - 2 * group.time_s)
        if batch.has_enough(enough, rule) or leaves_at <= now:
            self._close(group)
        elif batch.timer is None or leaves_at < batch.leaves_at:
            self._arm(group, leaves_at - now)
        return batch

    def _arm(self, group: _Group, wait_s: float) -> None:
        batch = group.open
        if batch.timer is not None:
            batch.timer.cancel()
        batch.leaves_at = self._clock() + wait_s
        loop = asyncio.get_running_loop()
        batch.timer = loop.call_later(wait_s, self._close, group)

    def _close(self, group: _Group) -> None:
        """Let the open batch leave, now or after one that is under way."""
        batch, group.open = group.open, Batch()
        if batch.timer is not None:
            batch.timer.cancel()
        group.lane.put(batch)
        if group.lane.waits:
            self._lookout = self._lookout or Lookout(self._opened(), self._heed, lambda: any(self._waiting()))
            self._lookout.watch()

    def _begin(self, group: _Group, batch: Batch) -> bool:
        """Send a batch, unless nobody waits for it any more."""
        calls = batch.live()
        if not calls:
            return False
        task = batch.under_way = asyncio.create_task(self._carry(group, calls))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._carried(task, group, calls))
        return True

    def _carried(self, task: asyncio.Task[None], group: _Group, calls: list[Waiting]) -> None:
        self._tasks.discard(task)
        group.lane.leave()
        if not task.cancelled() and (error := task.exception()) is not None:  # a defect; else they waited for ever
            log.error("a batch of embeddings could not be sent", exc_info=error)
            for call in calls:
                call.fail(UpstreamError(f"its batch could not be sent: {error!r}"))

    def _waiting(self) -> list[Lane[Batch]]:
        return [group.lane for group in self._groups.values() if group.lane.waits]

    def _heed(self) -> None:
        """Take the places that other workers gave."""
        for lane in self._waiting():
            lane.go()

    def _left(self, batch: Batch) -> None:
        """Stop a batch that nobody waits for any more."""
        if batch.under_way is not None and not batch.live():
            batch.under_way.cancel()

    async def _carry(self, group: _Group, calls: list[Waiting]) -> None:
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

    async def _carry_alone(self, call: Waiting) -> None:
        try:
            answer = await self._send(call.letter, call.letter.body)
        except UpstreamError as error:
            call.fail(error)
        else:
            call.tell(answer)

    async def _carry_together(self, calls: list[Waiting]) -> None:
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

    async def _answers(self, calls: list[Waiting]) -> list[WholeResponse] | None:
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

