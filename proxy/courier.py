"""Takes the consignments of one batch to their providers and brings the answers back.

A batch is asked for once: what was asked for and not heard of is looked for among the provider's batches, and asked for
again only after a time in which it would have turned up. A line's cost is in the ledger before its answer is in the
journal, and telling the ledger twice changes nothing, so that a kill between the two costs nobody anything.
"""
from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import msgspec

from farthing import semconv
from farthing.errors import UpstreamError
from farthing.prices import Usage
from proxy.batch import Answered, Journal
from proxy.batch_answer import answer_record, failed_record
from proxy.batch_lines import Line
from proxy.consignment import Consignment, State, Stored
from proxy.dispatch import Target
from proxy.exchange import Exchange
from proxy.gatherer import GRACE_S, Gatherer
from proxy.http import JSON
from proxy.inner import InnerRequest
from proxy.parked import Parked
from proxy.provider_batch import NotNowError, Outcome, ProviderBatches, RefusedError, Seen
from proxy.upstream import NotSentError
from proxy.whole_response import WholeResponse

log = logging.getLogger(__name__)

_TICK_S = 0.2  # seconds between looks at what is due
_FIRST_WAIT_S, _MAX_WAIT_S = 0.2, 60.0  # between looks at one batch
_SLOWER = 1.5
_TURNS_UP_S = 300.0  # in which a batch that was asked for is in the provider's list, if it was made
_AT_ONCE = 50  # lines that are settled together

_HOW = {  # what the ends of a provider's batch are called, and what a call's outcome and status then are
    "batch_expired": ("error", 504), "batch_cancelled": ("aborted", 499), "not_sent": ("refused", 503),
}  # fmt: skip


@dataclass(frozen=True)
class Post:
    """What a courier needs of its worker."""

    target: Callable[[str], Target | None]  # by its deployment's name
    batches: Callable[[Target], ProviderBatches]
    exchange: Callable[[str], Exchange | None]  # by the path of its route
    is_stopping: Callable[[], bool]


class Courier:
    """Delivers for one of our batches."""

    def __init__(
        self, post: Post, gatherer: Gatherer, journal: Journal, batch_id: str, is_cancelled: Callable[[], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._post = post
        self._gatherer = gatherer
        self._journal = journal
        self._batch_id = batch_id
        self._is_cancelled = is_cancelled
        self._clock = clock
        self._waits: dict[int, tuple[float, float]] = {}  # consignment -> not before (monotonic), seconds waited last
        self._given_up: set[int] = set()  # consignments whose provider was asked to stop
        self.is_fed = False  # no further lines come

    async def deliver(self) -> None:
        """Go on until every consignment has its answers and no more come, or the worker stops."""
        while not self._post.is_stopping():
            self._gatherer.close_due(self.is_fed)
            for stored in self._gatherer.stored:
                if stored.consignment.state not in ("open", "ended") and self._is_due(stored.consignment.number):
                    await self._step(stored)
            if self.is_fed and self._gatherer.is_over:
                return
            await asyncio.sleep(_TICK_S)

    @property
    def end(self) -> str:
        """How our batch ends where it wants no more answers: cancelled or expired; '' = it does."""
        if self._is_cancelled():
            return "cancelled"
        return "expired" if self._clock() >= self._gatherer.expires_at else ""

    def _is_due(self, number: int) -> bool:
        return time.monotonic() >= self._waits.get(number, (0.0, 0.0))[0]

    def _wait(self, number: int) -> None:
        """Leave a consignment alone for a while, each time for longer."""
        before = self._waits.get(number, (0.0, 0.0))[1]
        seconds = min(_MAX_WAIT_S, before * _SLOWER or _FIRST_WAIT_S)
        self._waits[number] = time.monotonic() + seconds, seconds

    async def _step(self, stored: Stored) -> None:
        """Take one consignment one step further."""
        consignment = stored.consignment
        state = consignment.state
        try:
            target = self._post.target(consignment.deployment)
            if self._clock() >= self._gatherer.expires_at + GRACE_S or (target is None and state == "closed"):
                await self._lose(stored, target)
            elif target is None:
                log.error("%s: the deployment %r is gone; its batch %s cannot be asked for", self._batch_id,
                          consignment.deployment, consignment.batch_id)  # fmt: skip
            else:
                await self._go_on(stored, target, self._post.batches(target))
        except UpstreamError as error:
            log.warning("%s, provider batch %d: %s", self._batch_id, consignment.number, error)
        if consignment.state == state:
            self._wait(consignment.number)
        elif consignment.state != "closed":  # what has to be asked for again waits longer each time
            self._waits.pop(consignment.number, None)

    async def _go_on(self, stored: Stored, target: Target, api: ProviderBatches) -> None:
        consignment = stored.consignment
        if consignment.refused is not None:
            await self._refuse(stored, target)
        elif consignment.state == "closed" and self.end:
            await self._conclude(stored, target, (), f"batch_{self.end}", "it was not begun")
        elif consignment.state == "closed":
            await self._hand_over(stored, target, api)
        elif consignment.state == "creating":
            await self._look_for(stored, api)
        else:
            await self._look_at(stored, target, api)

    async def _hand_over(self, stored: Stored, target: Target, api: ProviderBatches) -> None:
        consignment = stored.consignment
        try:
            lines = await asyncio.to_thread(_input_of, stored, api)
            if not consignment.input_id:
                consignment.input_id = await api.prepare(f"{self._batch_id}-{consignment.number}", lines)
            consignment.tries += 1
            consignment.asked_at = self._clock()
            await self._put(stored, "creating")
            consignment.batch_id = await api.create(consignment, self._mark(consignment), lines)
            await self._put(stored, "made")
        except RefusedError as error:
            consignment.refused = error.status, error.body.decode("utf-8", "replace")
            await self._put(stored, "closed")
            await self._refuse(stored, target)
        except (NotSentError, NotNowError):
            await self._put(stored, "closed")
            raise

    async def _look_for(self, stored: Stored, api: ProviderBatches) -> None:
        """Find out whether a batch was made that was not heard of."""
        consignment = stored.consignment
        found = await api.find(consignment, self._mark(consignment), stored.rows, len(stored.rows))
        if found:
            consignment.batch_id = found
            await self._put(stored, "made")
        elif self._clock() - consignment.asked_at > _TURNS_UP_S:
            await self._put(stored, "closed")

    async def _look_at(self, stored: Stored, target: Target, api: ProviderBatches) -> None:
        consignment = stored.consignment
        seen = await api.look(consignment.batch_id)
        if not seen.is_ended:
            if self.end and consignment.number not in self._given_up:
                await api.cancel(consignment.batch_id)
                self._given_up.add(consignment.number)
                self._waits.pop(consignment.number, None)
        elif seen.is_worth_another and not self.end:
            await self._put(stored, "closed")
            self._wait(consignment.number)
        else:
            outcomes = await api.results(seen, stored.results_path)
            await self._conclude(stored, target, outcomes, *_why(seen, self.end))

    async def _refuse(self, stored: Stored, target: Target) -> None:
        """Give each line the provider's refusal of all of them."""
        status, body = stored.consignment.refused or (502, "")
        outcomes = [Outcome(request_id, status, body.encode()) for request_id in stored.rows]
        await self._conclude(stored, target, outcomes, "batch_failed", "")

    async def _lose(self, stored: Stored, target: Target | None) -> None:
        """End lines of which nothing is to be heard any more: what was asked for may have been billed."""
        consignment = stored.consignment
        code = "batch_lost" if consignment.state != "closed" else "not_sent"
        where = f"the deployment {consignment.deployment!r}"
        message = f"{where} is gone" if code == "not_sent" else f"batch {consignment.batch_id!r} of {where} is lost"
        await self._conclude(stored, target, (), code, message)

    async def _conclude(
        self, stored: Stored, target: Target | None, outcomes: Iterable[Outcome], code: str, message: str
    ) -> None:
        """Give every line its answer: its outcome, and where it has none `code`."""
        rest = set(stored.rows)
        for some in _blocks(_awaited(outcomes, rest)):
            await self._settle(stored, target, some)
        for some in _blocks(Outcome(request_id, 0, b"", code, message) for request_id in rest):
            await self._settle(stored, target, some)
        await self._put(stored, "ended")
        for path in stored.results_path.parent.glob(f"{stored.results_path.stem}.[0-9]*"):
            path.unlink()

    async def _settle(self, stored: Stored, target: Target | None, outcomes: list[Outcome]) -> None:
        """End some lines: the ledger has the cost of each before the journal has its answer."""
        told: list[asyncio.Future[None]] = []
        answered: list[Answered] = []
        for outcome in outcomes:
            if stored.rows[outcome.custom_id][0] in self._journal.lines:
                continue
            parked = stored.row(outcome.custom_id)
            answered += await self._ended(stored.consignment, target, parked, outcome, told)
            await asyncio.sleep(0)  # calls that people wait for go first
        await asyncio.gather(*told)
        for one in answered:
            self._journal.add(one)
        await asyncio.to_thread(self._journal.sync)

    async def _ended(
        self, consignment: Consignment, target: Target | None, parked: Parked, outcome: Outcome,
        told: list[asyncio.Future[None]],
    ) -> list[Answered]:  # fmt: skip
        """Settle and record a call; return its answer, none where our batch was cancelled before it had one."""
        exchange = self._post.exchange(f"/v1/{consignment.path}")
        assert exchange is not None  # it was admitted over it
        call = parked.call(target.deployment if target is not None else None)
        if call.hold is not None:
            taken = asyncio.get_running_loop().create_future()
            call.hold.told = lambda _: None if taken.done() else taken.set_result(None)
            told.append(taken)
        line = Line(parked.custom_id, "POST", f"/v1/{consignment.path}", parked.body)
        if outcome.status:
            request = InnerRequest(line.url, {}, bytes(parked.body))
            answer = WholeResponse(outcome.status, {b"content-type": JSON}, outcome.body)
            await exchange.conclude(call, answer, request)
            headers = ((semconv.HEADER_REQUEST_ID.encode(), call.request_id.encode()),)
            record = answer_record(line, request.status, request.answered, headers)
            return [Answered(parked.line, request.status == 200, msgspec.Raw(record))]
        how, status = _HOW.get(outcome.code, ("error", 502))
        call.fail(how, outcome.code, status)
        if outcome.code != "batch_lost":
            call.usage, call.usage_source = Usage(), "provider"
        exchange.finish(call)
        if outcome.code == f"batch_{self.end}":  # our batch's own end says it, and tells of its lines
            return []
        return [Answered(parked.line, False, msgspec.Raw(failed_record(line, outcome.code, outcome.message)))]

    def _mark(self, consignment: Consignment) -> str:
        return f"{self._batch_id}-{consignment.number}-{consignment.tries}"

    async def _put(self, stored: Stored, state: State) -> None:
        stored.consignment.state = state
        await asyncio.to_thread(stored.sync)


def _input_of(stored: Stored, api: ProviderBatches) -> bytes:
    path = stored.consignment.path
    return b"".join([api.line(parked.request_id, path, bytes(parked.body)) for parked in stored.parked()])


def _why(seen: Seen, end: str) -> tuple[str, str]:
    """Return code and message of a line that a provider's batch has no result of; `end` is how our batch ends."""
    if seen.status == "failed":
        return seen.code or "batch_failed", seen.message or "the provider refused the batch"
    if seen.status == "expired":
        return "batch_expired", "This request could not be executed before the provider's window closed."
    if seen.status == "cancelled" and end:
        return f"batch_{end}", "The provider's batch was given up with ours."
    if seen.status == "cancelled":
        return "batch_cancelled", "The batch was cancelled at the provider before this request was executed."
    return "batch_lost", "the provider ended the batch without a word of this request"


def _awaited(outcomes: Iterable[Outcome], rest: set[str]) -> Iterator[Outcome]:
    """Yield the outcomes that are waited for, each once, and take them off."""
    for outcome in outcomes:
        if outcome.custom_id in rest:
            rest.discard(outcome.custom_id)
            yield outcome


def _blocks(outcomes: Iterable[Outcome]) -> Iterator[list[Outcome]]:
    left = iter(outcomes)
    while some := list(islice(left, _AT_ONCE)):
        yield some
