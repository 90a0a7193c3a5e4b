"""The collector: OTLP over HTTP and gRPC in front, the spool and the flusher behind, as one ASGI application."""
from __future__ import annotations

import asyncio
import json
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from collector import grpc_server
from collector.admin import NEEDS, Asked, Door
from collector.answers import JSON, PROTOBUF, RETRY_S, SIGNALS, Outcome, Signal, failure, is_retryable, success
from collector.backup import backup_target, header_map
from collector.commit import GroupCommit
from collector.flush import Flusher
from collector.intake import Delivery, Intake
from collector.price_api import PATHS, PriceApi
from collector.pricing import Pricing
from collector.retention import Retention, keep_days
from collector.spool import Spool
from collector.upkeep import Upkeep
from farthing.access import AccessError
from farthing.backup import write_backup
from farthing.errors import (
    FarthingError,
    IngestError,
    SchemaError,
    ServeError,
    SpoolFullError,
    StalledError,
    WarehouseError,
)
from farthing.prices import PriceBook
from farthing.servers import rules
from farthing.serving import Asgi, Receive, Scope, Send, Site, answer, run
from farthing.settings import Settings
from farthing.warehouse import Warehouse, rollup
from farthing.warehouse.lane import LANES, TRACES, Lane

if TYPE_CHECKING:
    import grpc.aio

log = logging.getLogger(__name__)

_KEPT_BYTES = 4 * 1024 * 1024  # more than one body takes; every thread may keep twice as much
_SIGNALS = {f"/v1/{signal.name}": signal for signal in SIGNALS}
_METHODS = dict.fromkeys(_SIGNALS, "POST") | {path: method for method, path in NEEDS}  # nothing else is answered


class Collector:
    """The open collector of one process; the ASGI application is the object itself."""

    def __init__(self, settings: Settings, warehouse: Warehouse) -> None:
        """Read the rules.

        Raises:
            SettingsError: the address is open to others and no keys are set, or a rule cannot be used.
        """
        self._settings = settings
        self._warehouse = warehouse
        self._servers = rules(settings.servers)
        self._intake = Intake(settings)
        self._door = Door(settings, self._intake)
        self._grpc: grpc.aio.Server | None = None
        self._grpc_error = ""  # why OTLP/gRPC is not served although it should be

    def open(self) -> None:
        """Bring the schema up to date, take up what the last run left in the spool, and start to flush.

        Raises:
            WarehouseError: the embedded store does not take the schema, or a store is not one for this version.
        """
        settings = self._settings
        _keep_freed_memory()
        is_migrated = self._migrated()
        summed_anew = partial(rollup.mark_stale, self._warehouse)
        self._pricing = Pricing(self._warehouse, PriceBook(settings.prices), summed_anew, self._servers)
        self._pricing.start()
        self._prices = PriceApi(settings, self._warehouse, self._pricing)
        self._spools = [Spool(settings.data_dir / lane.folder, _room(lane, settings)) for lane in LANES]
        for spool in self._spools:
            if spool.corrupt_bytes:
                log.error("%s held %d corrupt bytes; all whole records were kept", spool.folder, spool.corrupt_bytes)
        self._retention = Retention(self._warehouse, keep_days(settings))
        flushed = (self._warehouse, self._pricing, settings.flush_interval_s)
        also = [Flusher(spool, *flushed, lane=lane) for spool, lane in zip(self._spools[1:], LANES[1:], strict=True)]
        self._flusher = Flusher(
            self._spools[0], *flushed, retention=self._retention, is_migrated=is_migrated, also=also
        )
        self._flushers = [self._flusher, *also]
        self._flusher.start()
        self._upkeep = Upkeep(self._warehouse, self._flusher.fresh, settings.upkeep_interval_s)
        self._upkeep.start()

    def _migrated(self) -> bool:
        """Bring the schema up to date; a server that is away is no reason not to take what senders bring."""
        try:
            self._warehouse.migrate()
        except SchemaError:
            raise
        except WarehouseError as error:
            if self._warehouse.path is not None:
                raise
            log.error("%s; senders are served from the spool until it answers", error)
            return False
        return True

    def close(self) -> None:
        self._upkeep.stop()
        self._flusher.stop()
        for spool in self._spools:
            spool.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.to_thread(self.open)
        self._commits = [GroupCommit(spool) for spool in self._spools]
        self._intake.start(*self._commits)
        await self._start_grpc()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self._grpc is not None:
            await grpc_server.stop(self._grpc)
        await asyncio.to_thread(self.close)
        await send({"type": "lifespan.shutdown.complete"})

    async def _start_grpc(self) -> None:
        """Open the second door; that its port is in use is no reason to close the first."""
        if self._settings.collector_grpc_port == 0:
            return
        try:
            self._grpc = await grpc_server.start(self._settings, self._intake)
        except ServeError as error:
            self._grpc_error = str(error)
            log.error("%s", error)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if (method, path) in NEEDS:
            await self._answer_asked((method, path), scope, receive, send)
        elif _METHODS.get(path, method) != method:
            text = f"{method} {path} is not supported; use {_METHODS[path]}"
            await _answer(send, 405, failure(405, text, is_json=True), JSON, (b"allow", _METHODS[path].encode()))
        elif path in _SIGNALS:
            await self._export(_SIGNALS[path], scope, receive, send)
        else:
            known = ", ".join(f"{method} {path}" for path, method in _METHODS.items())
            await _answer(send, 404, failure(404, f"no route {method} {path}; known: {known}", is_json=True), JSON)

    async def _answer_asked(self, asked: Asked, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is no delivery, to those who may have it."""
        path, headers, client = asked[1], header_map(scope), (scope.get("client") or ("",))[0]
        if path == "/healthz":
            await _answer(send, 200, b'{"status":"ok"}', JSON)
            return
        try:
            tenant = await asyncio.to_thread(self._door.admit, asked, headers, client)
        except (AccessError, IngestError) as error:
            await _answer(send, error.status, json.dumps({"error": {"message": str(error)}}).encode(), JSON)
            return
        if path in PATHS:
            await self._answer_prices(path, scope, receive, send, tenant)
        elif path == "/v1/backup":
            await self._backup(scope, receive, send)
        else:
            if path == "/v1/flush":
                await asyncio.to_thread(self._flush)
            await _answer(send, 200, json.dumps(self.status()).encode(), JSON)

    async def _answer_prices(self, path: str, scope: Scope, receive: Receive, send: Send, tenant: str) -> None:
        try:
            headers = header_map(scope)
            if scope["method"] == "GET":
                asked = dict(parse_qsl(scope["query_string"].decode("latin-1")))
                told = await asyncio.to_thread(self._prices.read, path, asked, tenant)
            else:
                body = await self._read(receive)
                self._intake.in_flight -= len(body)
                told = await asyncio.to_thread(self._prices.write, path, body, headers, tenant)
        except IngestError as error:
            await _answer(send, error.status, json.dumps({"error": {"message": str(error)}}).encode(), JSON)
        except WarehouseError as error:
            await _answer(send, 503, json.dumps({"error": {"message": str(error)}}).encode(), JSON)
        else:
            await _answer(send, 200, json.dumps(told).encode(), JSON)

    def _flush(self) -> None:
        self._flusher.flush()
        self._upkeep.settle()

    def status(self) -> dict[str, object]:
        """Return the collector's counters."""
        counts = self._intake.counts
        return {
            "accepted_bodies": counts.bodies,
            "accepted_spans": counts.stored[TRACES.name],
            "stored": {lane.name: counts.stored[lane.name] for lane in LANES},
            "duplicate_bodies": sum(commit.duplicates for commit in self._commits),
            "stalled_bodies": counts.stalled,
            "refused_bodies": {str(status): n for status, n in counts.refused.items()},
            "rejected": {reason: n for reason, n in counts.rejected.items() if n},
            "cut": {reason: n for reason, n in counts.cuts.items() if n},
            "grpc_error": self._grpc_error,
            "metric_series": len(self._intake.signals.metrics.series),
            "spool_bytes": sum(spool.held_bytes for spool in self._spools),
            "waiting_segments": sum(len(spool.closed()) for spool in self._spools),
            "dead_letters": sum(one.dead_letters for one in self._flushers),
            "flush_failures": sum(one.failures for one in self._flushers),
            "last_error": self._last_error(),
            "corrected_rows": self._upkeep.corrected,
            "upkeep_failures": self._upkeep.failures,
            "unpriced_models": sorted(f"{provider}/{model}" for provider, model in self._pricing.unpriced),
            "retention": self._retention.status(),
            "recovered_from": str(self._warehouse.recovered_from or ""),
        }

    def _last_error(self) -> str:
        return next((one.last_error for one in (*self._flushers, self._upkeep) if one.last_error), "")

    async def _backup(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write a backup on this machine, for someone on this machine; senders are taken meanwhile."""
        try:
            target = backup_target(scope, await self._read_small(receive))
            document = await asyncio.to_thread(self._write_backup, target)
        except IngestError as error:
            await _answer(send, error.status, failure(error.status, str(error), is_json=True), JSON)
        except FarthingError as error:
            await _answer(send, 503, failure(503, str(error), is_json=True), JSON)
        else:
            await _answer(send, 200, json.dumps(document).encode(), JSON)

    def _write_backup(self, target: Path) -> dict[str, object]:
        with self._flusher.paused():
            return write_backup(self._settings, self._warehouse, target)

    async def _read_small(self, receive: Receive) -> bytes:
        body = await self._read(receive)
        self._intake.in_flight -= len(body)
        return body

    async def _export(self, signal: Signal, scope: Scope, receive: Receive, send: Send) -> None:
        headers = header_map(scope)
        content_type = headers.get("content-type", "").split(";")[0].strip().lower()
        is_json = content_type == JSON
        form = JSON if is_json else PROTOBUF
        try:
            if content_type not in (PROTOBUF, JSON):
                raise IngestError(415, f"content-type {content_type!r} is not supported; send {PROTOBUF} or {JSON}")
            outcome = await self._take(signal, headers, receive, is_json)
        except StalledError as error:  # the rest of the body may still come, so nothing else can on this connection
            await self._refuse(send, error.status, str(error), form, (b"connection", b"close"))
        except IngestError as error:
            await self._refuse(send, error.status, str(error), form)
        except SpoolFullError as error:
            await self._refuse(send, 503, str(error), form)
        else:
            await _answer(send, 200, success(signal, outcome, is_json), form)

    async def _take(self, signal: Signal, headers: dict[str, str], receive: Receive, is_json: bool) -> Outcome:
        intake = self._intake
        tenant = intake.tenant(headers)
        intake.admit()
        raw = await self._read(receive)
        try:
            encoding = headers.get("content-encoding", "").lower()
            return await intake.take(Delivery(signal, tenant, raw, encoding, is_json))
        finally:
            intake.in_flight -= len(raw)

    async def _read(self, receive: Receive) -> bytes:
        """Read a body; what was read counts as in flight until the caller takes it off."""
        limit, chunks, size = self._settings.max_body_bytes, [], 0
        try:
            async with self._intake.deadline():
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise IngestError(400, "the sender went away in the middle of the body")
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    self._intake.in_flight += len(chunk)
                    if size > limit:
                        raise IngestError(413, f"the body is larger than {limit} bytes; send smaller batches")
                    chunks.append(chunk)
                    if not message.get("more_body"):
                        return b"".join(chunks)
                    self._intake.admit()
        except BaseException:  # a cancelled request gives its bytes back too
            self._intake.in_flight -= size
            raise

    async def _refuse(self, send: Send, status: int, message: str, form: str, *more: tuple[bytes, bytes]) -> None:
        """Answer with a google.rpc.Status; 503 asks for a retry in 1 s, which every OTLP SDK honours."""
        self._intake.refused(status)
        retry = ((b"retry-after", str(RETRY_S).encode()),) if is_retryable(status) else ()
        await _answer(send, status, failure(status, message, form == JSON), form, *retry, *more)


def _room(lane: Lane, settings: Settings) -> int:
    """Return how many bytes a lane's spool may hold."""
    return settings.spool_max_bytes if lane is TRACES else settings.spool_max_bytes // 4


async def _answer(send: Send, status: int, body: bytes, content_type: str, *more: tuple[bytes, bytes]) -> None:
    await answer(send, status, body, content_type.encode(), more)


def _keep_freed_memory() -> None:
    """Have malloc keep what one body's parse frees for the next: glibc raises its threshold to the largest freed block.

    Without it each body faults its pages in anew. [3 µs of CPU a span; mallopt(3), M_MMAP_THRESHOLD]
    """
    bytes(_KEPT_BYTES)


def app(settings: Settings, warehouse: Warehouse) -> Asgi:
    """Return the collector as an ASGI application; its lifespan opens and closes it."""
    return Collector(settings, warehouse)


def main(settings: Settings) -> None:
    """Run the collector alone, until it is told to stop."""
    warehouse = Warehouse(settings.warehouse_dsn, cluster=settings.warehouse_cluster)
    try:
        asyncio.run(run([Site("collector", app(settings, warehouse), settings.host, settings.collector_port)]))
    finally:
        warehouse.close()
