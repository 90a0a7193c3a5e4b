"""Runs batches: each line is a call like any other, admitted, held, charged and recorded, in what capacity is left.

A batch takes only what interactive calls to its model leave of its policy's `lines_in_flight`, on the whole host. Of
several workers of a host one runs a batch, and all together run no more than the policy's `concurrent`.
"""
from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from farthing import semconv
from farthing.policy.kinds.batch import Batch
from farthing.serving import Headers
from proxy import anthropic_batch
from proxy.api_error import ApiError
from proxy.batch import FINAL, Answered, Batches, BatchRecord, Journal, Lock
from proxy.batch_answer import LineRequest, answer_record, expired_record
from proxy.batch_lines import Line, lines_of, model_of, problems_of
from proxy.courier import Courier, Post
from proxy.dispatch import Deployments, Target
from proxy.exchange import Exchange
from proxy.files import Files
from proxy.gatherer import Gatherer, Parking
from proxy.keys import Caller, Keys
from proxy.offline import Limits
from proxy.provider_batch import ProviderBatches
from proxy.spare import Spare

log = logging.getLogger(__name__)

_LOOK_S = 1.0  # seconds between looks for a batch to run
_ROOM_S = 0.05  # seconds between looks for spare capacity
_SAVE_S = 0.5  # seconds between saved counts
_SWEEP_S = 3600.0
_TRIES = 5  # of a line that was refused for now
_FIRST_WAIT_S = 1.0
_MAX_WAIT_S = 60.0
_PAUSE_S = 60.0  # until a batch that broke off is taken up again

Exchanges = Callable[[str], Exchange | None]
Release = Callable[[str], asyncio.Future[None]]


@dataclass
class _Run:
    """A batch under way in this worker."""

    record: BatchRecord
    journal: Journal
    caller: Caller
    limits: Batch
    locks: tuple[Lock, Lock]
    gatherer: Gatherer
    courier: Courier
    tasks: set[asyncio.Task[None]]
    saved_at: float = 0.0
    failure: OSError | None = None  # the disk did not take an answer

    @property
    def is_taken_up(self) -> bool:
        """Every line has its answer or waits for it at a provider."""
        return len(self.journal.lines.keys() | self.gatherer.lines) >= self.record.total

    @property
    def end(self) -> str:
        """How it ends where lines came back from their provider without an answer; '' = as it would otherwise."""
        return self.courier.end if self.gatherer.lines - self.journal.lines.keys() else ""


class BatchRunner:
    """The batches that this worker runs."""

    def __init__(
        self, batches: Batches, files: Files, limits: Limits, keys: Keys, deployments: Deployments,
        exchange_of: Exchanges, batches_of: Callable[[Target], ProviderBatches], release: Release, spare: Spare,
    ) -> None:  # fmt: skip
        self._batches = batches
        self._files = files
        self._limits = limits
        self._keys = keys
        self._deployments = deployments
        self._exchange_of = exchange_of
        self._post = Post(deployments.target, batches_of, exchange_of, lambda: self._is_stopping)
        self._release = release  # what was set aside for a call that never was sent
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._spare = spare
        self._is_stopping = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._swept_at = 0.0
        self._over: set[str] = set()  # batches that have ended
        self._paused: dict[str, float] = {}  # batches that broke off -> when they are taken up again, monotonic seconds

    @property
    def running(self) -> int:
        return len(self._runs)

    @property
    def lines(self) -> int:
        """Lines that are being answered."""
        return self._spare.lines

    def start(self) -> None:
        self._task = asyncio.create_task(self._look_often())

    def wake(self) -> None:
        """There may be something to run."""
        self._wake.set()

    async def stop(self, seconds: float) -> None:
        """Begin nothing more, and let the lines under way end; what is left waits for the next start."""
        self._is_stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        runs = set(self._runs.values())
        if runs:
            await asyncio.wait(runs, timeout=seconds)
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)

    async def _look_often(self) -> None:
        while True:
            try:
                await self._look()
            except (OSError, msgspec.DecodeError) as error:
                log.error("batches: %s", error)
            self._wake.clear()
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        now = time.monotonic()
        if now - self._swept_at > _SWEEP_S:
            self._swept_at = now
            await asyncio.to_thread(self._files.sweep)
            await asyncio.to_thread(self._batches.sweep)
        waiting = await asyncio.to_thread(self._waiting)
        for record in waiting:
            if record.id in self._runs or self._paused.get(record.id, 0.0) > now:
                continue
            try:
                run = self._claimed(record)
            except (OSError, msgspec.DecodeError) as error:  # the others must not wait for this one
                self._pause(record.id, error)
                continue
            if run is not None:
                task = self._runs[record.id] = asyncio.create_task(self._run(run))
                task.add_done_callback(lambda done, batch_id=record.id: self._ended(batch_id, done))

    def _waiting(self) -> list[BatchRecord]:
        """Return the batches that have not ended, the oldest first; one that has is never read again."""
        found = list(self._batches.all(self._over))
        self._over |= {record.id for record in found if record.status in FINAL}
        return sorted((one for one in found if one.status not in FINAL), key=lambda record: record.created_at)

    def _claimed(self, record: BatchRecord) -> _Run | None:
        """Take a batch on, where no other worker has it and there is room."""
        limits = self._limits.of(Caller(record.tenant, record.team, record.user, record.key))
        with ExitStack() as undo:
            if (slot := self._batches.claim_slot(limits.concurrent)) is None:
                return None
            undo.callback(slot.release)
            if (lock := self._batches.claim(record.id)) is None:
                return None
            undo.callback(lock.release)
            current = self._batches.read(record.id)
            if current is None or current.status in FINAL:  # another one has ended it meanwhile
                return None
            caller = Caller(current.tenant, current.team, current.user, current.key)
            folder = self._batches.folder(record.id)
            journal = Journal(folder / "answers.jsonl")
            undo.callback(journal.close)
            gatherer = Gatherer(folder, lambda: self._limits.of(caller), current.expires_at)
            courier = Courier(self._post, gatherer, journal, record.id, lambda: self._batches.is_cancelled(record.id))
            undo.pop_all()
            return _Run(current, journal, caller, limits, (slot, lock), gatherer, courier, set())

    def _ended(self, batch_id: str, task: asyncio.Task[None]) -> None:
        del self._runs[batch_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._pause(batch_id, error)

    def _pause(self, batch_id: str, error: BaseException) -> None:
        """Leave a batch alone for a while: what broke it off, such as a full disk, may cost an answer each time."""
        self._paused[batch_id] = time.monotonic() + _PAUSE_S
        log.error("%s broke off and is taken up again in %g s", batch_id, _PAUSE_S, exc_info=error)

    async def _run(self, run: _Run) -> None:
        try:
            if run.record.status == "validating" and not await self._validate(run):
                return
            for request_id in run.gatherer.orphans():
                self._release(request_id)
            delivery = asyncio.create_task(run.courier.deliver())
            run.tasks.add(delivery)
            end = await self._ask_all(run, delivery)
            run.locks[0].release()  # what waits for a provider takes nothing of this host
            run.courier.is_fed = True
            await self._delivered(run, delivery)
            if end and run.gatherer.is_over:
                # once more: what a worker that was killed had asked for may have come behind the first time
                await asyncio.gather(*[self._release(request_id) for request_id in run.gatherer.orphans()])
                await self._finish(run, run.end or end)
        finally:
            for task in run.tasks:
                task.cancel()
            await asyncio.gather(*run.tasks, return_exceptions=True)
            run.journal.close()
            run.gatherer.close()
            for lock in run.locks:
                lock.release()
            self.wake()

    async def _validate(self, run: _Run) -> bool:
        record = run.record
        source = self._batches.folder(record.id) / "input"
        found = await asyncio.to_thread(problems_of, source, record.endpoint, run.limits.max_lines)
        record.total, record.errors = found
        now = int(time.time())
        if record.errors:
            record.status, record.ended_at = "failed", now
        else:
            record.status, record.in_progress_at = "in_progress", now
        await asyncio.to_thread(self._batches.write, record)
        return not record.errors

    async def _delivered(self, run: _Run, delivery: asyncio.Task[None]) -> None:
        saved = -1
        while not delivery.done():
            await asyncio.wait((delivery,), timeout=_SAVE_S)
            if saved != (saved := len(run.journal.lines)):  # it may take a day
                await self._save(run)
        delivery.result()

    async def _ask_all(self, run: _Run, delivery: asyncio.Task[None]) -> str:
        """Ask every line that has no answer yet; return how the batch ends, '' where this worker stops before.

        Raises:
            OSError: the disk takes no answers.
        """
        end = "completed"
        await asyncio.to_thread(self._batches.write, run.record)  # before any line is paid for
        for number, line in self._open_lines(run):
            model = model_of(line)
            end = await self._room(run, model)
            if end != "room":
                break
            end = "completed"
            task = asyncio.create_task(self._ask(run, number, line))
            run.tasks.add(task)
            task.add_done_callback(run.tasks.discard)
            task.add_done_callback(lambda _, model=model: self._spare.leave(model))
            await self._save(run)
        while asked := run.tasks - {delivery}:
            await asyncio.wait(asked, timeout=_SAVE_S)
            await self._save(run)
        _refuse_lost(run)
        return "" if self._is_stopping and end == "completed" and not run.is_taken_up else end

    def _open_lines(self, run: _Run, or_parked: bool = False) -> Iterator[tuple[int, Line]]:
        for number, line in lines_of(self._batches.folder(run.record.id) / "input"):
            if number not in run.journal.lines and (or_parked or number not in run.gatherer.lines):
                yield number, line

    async def _room(self, run: _Run, model: str) -> str:
        """Wait until interactive calls leave room for a line, and take it; return 'room', or how the batch ends."""
        while True:
            _refuse_lost(run)
            if self._is_stopping:
                return ""
            if self._batches.is_cancelled(run.record.id):
                return "cancelled"
            if time.time() >= run.record.expires_at:
                return "expired"
            run.limits = self._limits.of(run.caller)
            most = run.limits.lines_in_flight
            busy = 0 if self._deployments.hands_over(model) else self._deployments.busy(model)
            if busy < most and self._spare.take(model, most):
                return "room"
            await self._save(run)
            await asyncio.sleep(_ROOM_S)

    async def _save(self, run: _Run) -> None:
        now = time.monotonic()
        if now - run.saved_at < _SAVE_S:
            await asyncio.sleep(0)  # calls that people wait for go first
            return
        run.saved_at = now
        _count(run)
        await asyncio.to_thread(run.journal.sync)
        await asyncio.to_thread(self._batches.write, run.record)

    async def _ask(self, run: _Run, number: int, line: Line) -> None:
        """Have one line answered; what is refused for now is asked again later."""
        for attempt in range(1, _TRIES + 1):
            if self._is_stopping:
                return
            wait_s = await self._answered(run, number, line, attempt < _TRIES)
            if not wait_s:
                return
            await asyncio.sleep(max(_FIRST_WAIT_S * 2 ** (attempt - 1), min(wait_s, _MAX_WAIT_S)))

    async def _answered(self, run: _Run, number: int, line: Line, may_wait: bool) -> int:
        """Have a line answered; return after how many seconds it is to be asked again, 0 = never."""

        def keep(status: int, body: bytes, headers: Headers) -> None:
            answered = Answered(number, status == 200, msgspec.Raw(answer_record(line, status, body, headers)))
            try:
                run.journal.add(answered)
            except OSError as error:
                run.failure = error

        record = run.record
        try:
            caller = self._keys.named(record.key, run.caller)
            exchange = self._exchange_of(record.endpoint)
            if exchange is None or exchange.name not in caller.routes:
                raise ApiError(403, "route_not_allowed", f"the key {record.key!r} may not use {record.endpoint}")
        except ApiError as error:
            keep(error.status, error.body(), ())
            return 0
        headers = {semconv.HEADER_PRIORITY.encode(): b"0"}
        if exchange.form.api == "anthropic":
            headers |= {name.encode(): value.encode() for name, value in anthropic_batch.HEADERS}
        if record.tags:
            headers[semconv.HEADER_TAGS.encode()] = record.tags.encode("latin-1", "replace")
        request = LineRequest(record.endpoint, headers, bytes(line.body), keep, may_wait,
                              Parking(run.gatherer, number, line.custom_id))  # fmt: skip
        try:
            await exchange(request, caller)
        except Exception as error:  # a defect that one line meets must not keep the others from their answers
            log.exception("%s, line %d", record.id, number)
            if not request.is_ended:
                failed = ApiError(500, "internal_error", f"the proxy failed: {error!r}; please report this")
                keep(failed.status, failed.body(), ())
        return request.wait_s

    async def _finish(self, run: _Run, end: str) -> None:
        """Write the files and the last state."""
        record, folder = run.record, self._batches.folder(run.record.id)
        record.status, record.finalizing_at = "finalizing", int(time.time())
        await asyncio.to_thread(self._batches.write, record)
        if end == "expired":
            for number, line in self._open_lines(run, or_parked=True):
                run.journal.add(Answered(number, False, msgspec.Raw(expired_record(line))))
        await asyncio.to_thread(self._write_files, run, folder)
        _count(run)
        record.status, record.ended_at = end, int(time.time())
        await asyncio.to_thread(self._batches.write, record)

    def _write_files(self, run: _Run, folder: Path) -> None:
        run.journal.sync()
        record = run.record
        for is_good, kind in ((True, "output"), (False, "error")):
            path = folder / kind
            with path.open("wb") as file:
                for answered in run.journal.read():
                    if answered.is_good == is_good:
                        file.write(bytes(answered.record) + b"\n")
            if path.stat().st_size:
                made = self._files.adopt(record.owner, f"{record.id}_{kind}.jsonl", path, record.keep_days)
                if is_good:
                    record.output_file_id = made.id
                else:
                    record.error_file_id = made.id
            path.unlink()


def _refuse_lost(run: _Run) -> None:
    if run.failure is not None:
        raise run.failure


def _count(run: _Run) -> None:
    run.record.completed = sum(run.journal.lines.values())
    run.record.failed = len(run.journal.lines) - run.record.completed
