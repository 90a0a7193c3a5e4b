"""The collector: OTLP over HTTP and gRPC in front, the spool and the flusher behind, as one ASGI application."""
from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

from collector import grpc_server
from collector.answers import JSON, PROTOBUF, RETRY_S, SIGNALS, Outcome, Signal, failure, is_retryable, success
from collector.commit import GroupCommit
from collector.flush import Flusher
from collector.intake import Delivery, Intake
from collector.pricing import Pricing
from collector.spool import Spool
from collector.upkeep import Upkeep
from farthing.errors import IngestError, ServeError, SpoolFullError
from farthing.prices import PriceBook
from farthing.serving import Asgi, Receive, Scope, Send, Site, answer, run
from farthing.settings import Settings
from farthing.warehouse import Warehouse

if TYPE_CHECKING:
    import grpc.aio

log = logging.getLogger(__name__)

_SIGNALS = {f"/v1/{signal.name}": signal for signal in SIGNALS}
_METHODS = {**dict.fromkeys(_SIGNALS, "POST"), "/v1/flush": "POST", "/v1/status": "GET", "/healthz": "GET"}


class Collector:
    """The open collector of one process; the ASGI application is the object itself."""

    def __init__(self, settings: Settings, warehouse: Warehouse) -> None:
        """Read the rules.

        Raises:
            SettingsError: the address is open to others and no keys are set, or a rule cannot be used.
        """
        self._settings = settings
        self._warehouse = warehouse
        self._intake = Intake(settings)
        self._grpc: grpc.aio.Server | None = None
        self._grpc_error = ""  # why OTLP/gRPC is not served although it should be

    def open(self) -> None:
        """Bring the schema up to date, take up what the last run left in the spool, and start to flush."""
        settings = self._settings
        self._warehouse.migrate()
        self._pricing = Pricing(self._warehouse, PriceBook(settings.prices))
        self._pricing.start()
        self._spool = Spool(settings.data_dir / "spool", settings.spool_max_bytes)
        if self._spool.corrupt_bytes:
            log.error("the spool held %d corrupt bytes; all whole records were kept", self._spool.corrupt_bytes)
        self._flusher = Flusher(self._spool, self._warehouse, self._pricing, settings.flush_interval_s)
        self._flusher.start()
        self._upkeep = Upkeep(self._warehouse, self._flusher.fresh, settings.upkeep_interval_s)
        self._upkeep.start()

    def close(self) -> None:
        self._upkeep.stop()
        self._flusher.stop()
        self._spool.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.to_thread(self.open)
        self._commit = GroupCommit(self._spool)
        self._intake.start(self._commit)
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
        if _METHODS.get(path, method) != method:
            text = f"{method} {path} is not supported; use {_METHODS[path]}"
            await _answer(send, 405, failure(405, text, is_json=True), JSON, (b"allow", _METHODS[path].encode()))
        elif path in _SIGNALS:
            await self._export(_SIGNALS[path], scope, receive, send)
        elif path == "/healthz":
            await _answer(send, 200, b'{"status":"ok"}', JSON)
        elif path in _METHODS:
            if path == "/v1/flush":
                await asyncio.to_thread(self._flush)
            await _answer(send, 200, json.dumps(self.status()).encode(), JSON)
        else:
            known = ", ".join(f"{method} {path}" for path, method in _METHODS.items())
            await _answer(send, 404, failure(404, f"no route {method} {path}; known: {known}", is_json=True), JSON)

    def _flush(self) -> None:
        self._flusher.flush()
        self._upkeep.settle()

    def status(self) -> dict[str, object]:
        """Return the collector's counters."""
        counts = self._intake.counts
        return {
            "accepted_bodies": counts.bodies,
            "accepted_spans": counts.spans,
            "duplicate_bodies": self._commit.duplicates,
            "refused_bodies": {str(status): n for status, n in counts.refused.items()},
            "rejected": {reason: n for reason, n in counts.rejected.items() if n},
            "cut": {reason: n for reason, n in counts.cuts.items() if n},
            "grpc_error": self._grpc_error,
            "spool_bytes": self._spool.held_bytes,
            "waiting_segments": len(self._spool.closed()),
            "dead_letters": self._flusher.dead_letters,
            "flush_failures": self._flusher.failures,
            "last_error": self._flusher.last_error or self._upkeep.last_error,
            "corrected_rows": self._upkeep.corrected,
            "upkeep_failures": self._upkeep.failures,
            "unpriced_models": sorted(f"{provider}/{model}" for provider, model in self._pricing.unpriced),
            "recovered_from": str(self._warehouse.recovered_from or ""),
        }

    async def _export(self, signal: Signal, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        content_type = headers.get("content-type", "").split(";")[0].strip().lower()
        is_json = content_type == JSON
        form = JSON if is_json else PROTOBUF
        try:
            if content_type not in (PROTOBUF, JSON):
                raise IngestError(415, f"content-type {content_type!r} is not supported; send {PROTOBUF} or {JSON}")
            outcome = await self._take(signal, headers, receive, is_json)
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
        except BaseException:  # a cancelled request gives its bytes back too
            self._intake.in_flight -= size
            raise

    async def _refuse(self, send: Send, status: int, message: str, form: str) -> None:
        """Answer with a google.rpc.Status; 503 asks for a retry in 1 s, which every OTLP SDK honours."""
        self._intake.refused(status)
        retry = ((b"retry-after", str(RETRY_S).encode()),) if is_retryable(status) else ()
        await _answer(send, status, failure(status, message, form == JSON), form, *retry)


async def _answer(send: Send, status: int, body: bytes, content_type: str, *more: tuple[bytes, bytes]) -> None:
    await answer(send, status, body, content_type.encode(), more)


def app(settings: Settings, warehouse: Warehouse) -> Asgi:
    """Return the collector as an ASGI application; its lifespan opens and closes it."""
    return Collector(settings, warehouse)


def main(settings: Settings) -> None:
    """Run the collector alone, until it is told to stop."""
    warehouse = Warehouse(settings.warehouse_dsn)
    try:
        asyncio.run(run([Site("collector", app(settings, warehouse), settings.host, settings.collector_port)]))
    finally:
        warehouse.close()
