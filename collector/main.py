"""The collector: OTLP/HTTP in front, the spool and the flusher behind, as one ASGI application."""
from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass, field
from hmac import compare_digest

from collector.commit import GroupCommit
from collector.flush import Flusher
from collector.pricing import Pricing
from collector.receive import PROTOBUF, checked_span_count, decompressed
from collector.spool import Spool
from farthing.errors import IngestError, SpoolFullError
from farthing.otlp import field as encode_field
from farthing.otlp import varint
from farthing.prices import PriceBook
from farthing.semconv import HEADER_TENANT_KEY
from farthing.serving import Asgi, Receive, Scope, Send, Site, run
from farthing.settings import Settings
from farthing.warehouse import Warehouse

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 256 * 1024 * 1024  # bytes of bodies being received at once; more get 503
_INLINE_BYTES = 64 * 1024  # a larger body is inflated and parsed off the event loop
_GRPC_CODES = {400: 3, 401: 16, 404: 5, 405: 12, 413: 8, 415: 3, 429: 8, 503: 14}  # google.rpc.Code


@dataclass
class Counts:
    """What happened since the start; sent = accepted + refused, always."""

    bodies: int = 0
    spans: int = 0
    refused: dict[int, int] = field(default_factory=dict)  # HTTP status -> bodies


class Collector:
    """The open collector of one process; the ASGI application is the object itself."""

    def __init__(self, settings: Settings, warehouse: Warehouse) -> None:
        self._settings = settings
        self._warehouse = warehouse
        self._in_flight = 0
        self.counts = Counts()

    def open(self) -> None:
        """Bring the schema up to date, take up what the last run left in the spool, and start to flush."""
        settings = self._settings
        self._warehouse.migrate()
        self._pricing = Pricing(self._warehouse, PriceBook(settings.prices))
        self._pricing.start()
        self._spool = Spool(settings.data_dir / "spool", settings.spool_max_bytes)
        if self._spool.corrupt_bytes:
            log.error("the spool held %d corrupt bytes; the whole records around them were kept", self._spool.corrupt_bytes)
        self._flusher = Flusher(self._spool, self._warehouse, self._pricing, settings.flush_interval_s)
        self._flusher.start()

    def close(self) -> None:
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
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.to_thread(self.close)
        await send({"type": "lifespan.shutdown.complete"})

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = (scope["method"], scope["path"])
        if route == ("POST", "/v1/traces"):
            await self._traces(scope, receive, send)
        elif route == ("GET", "/healthz"):
            await _answer(send, 200, b'{"status":"ok"}', "application/json")
        elif route == ("GET", "/v1/status"):
            await _answer(send, 200, json.dumps(self.status()).encode(), "application/json")
        elif route == ("POST", "/v1/flush"):
            await asyncio.to_thread(self._flusher.flush)
            await _answer(send, 200, json.dumps(self.status()).encode(), "application/json")
        else:
            known = "POST /v1/traces, GET /v1/status, GET /healthz"
            await _refuse(send, 404, f"no route {scope['method']} {scope['path']}; known: {known}")

    def status(self) -> dict[str, object]:
        """Return the collector's counters."""
        return {
            "accepted_bodies": self.counts.bodies,
            "accepted_spans": self.counts.spans,
            "duplicate_bodies": self._commit.duplicates,
            "refused_bodies": {str(status): n for status, n in self.counts.refused.items()},
            "spool_bytes": self._spool.held_bytes,
            "waiting_segments": len(self._spool.closed()),
            "dead_letters": self._flusher.dead_letters,
            "flush_failures": self._flusher.failures,
            "last_error": self._flusher.last_error,
            "unpriced_models": sorted(f"{provider}/{model}" for provider, model in self._pricing.unpriced),
            "recovered_from": str(self._warehouse.recovered_from or ""),
        }

    async def _traces(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        try:
            tenant = self._tenant(headers)
            spans = await self._accept(tenant, headers, receive)
        except IngestError as error:
            await self._refused(send, error.status, str(error))
        except SpoolFullError as error:
            await self._refused(send, 503, str(error))
        else:
            self.counts.bodies += 1
            self.counts.spans += spans
            await _answer(send, 200, b"", PROTOBUF)

    async def _refused(self, send: Send, status: int, message: str) -> None:
        self.counts.refused[status] = self.counts.refused.get(status, 0) + 1
        await _refuse(send, status, message)

    async def _accept(self, tenant: str, headers: dict[str, str], receive: Receive) -> int:
        content_type = headers.get("content-type", "").split(";")[0].strip()
        if content_type != PROTOBUF:
            raise IngestError(415, f"content-type {content_type!r} is not supported; send {PROTOBUF}")
        if self._in_flight > MAX_IN_FLIGHT:
            raise SpoolFullError(f"{self._in_flight} bytes are being received; try again")
        raw = await self._read(receive)
        try:
            body, spans = await self._check(raw, headers.get("content-encoding", "").lower())
            if spans:
                await self._commit.put(tenant, body)
        finally:
            self._in_flight -= len(raw)
        return spans

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
                self._in_flight += len(chunk)
                if size > limit:
                    raise IngestError(413, f"the body is larger than {limit} bytes; send smaller batches")
                chunks.append(chunk)
                if not message.get("more_body"):
                    return b"".join(chunks)
        except IngestError:
            self._in_flight -= size
            raise

    async def _check(self, raw: bytes, encoding: str) -> tuple[bytes, int]:
        if len(raw) <= _INLINE_BYTES and not encoding:
            return raw, checked_span_count(raw, self._settings.max_request_spans)
        return await asyncio.to_thread(self._check_slowly, raw, encoding)

    def _check_slowly(self, raw: bytes, encoding: str) -> tuple[bytes, int]:
        body = decompressed(raw, encoding, self._settings.max_body_bytes)
        return body, checked_span_count(body, self._settings.max_request_spans)

    def _tenant(self, headers: dict[str, str]) -> str:
        """The tenant comes from the key alone, never from what a span says."""
        given = headers.get(HEADER_TENANT_KEY, "") or headers.get("authorization", "").removeprefix("Bearer ")
        for known in self._settings.ingest_keys:
            if compare_digest(known.key.encode(), given.encode()):
                return known.tenant
        if given and self._settings.ingest_keys:
            raise IngestError(401, f"the key in {HEADER_TENANT_KEY} is unknown; see `ingest_keys` in farthing.toml")
        if self._settings.require_ingest_key:
            raise IngestError(401, f"send a key in the header {HEADER_TENANT_KEY}")
        return self._settings.tenant


async def _answer(send: Send, status: int, body: bytes, content_type: str, retry: bool = False) -> None:
    headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    if retry:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse(send: Send, status: int, message: str) -> None:
    """Answer with a google.rpc.Status; 503 asks for a retry in 1 s, which every OTLP SDK honours."""
    body = b"\x08" + varint(_GRPC_CODES[status]) + encode_field(0x12, message.encode())
    await _answer(send, status, body, PROTOBUF, retry=status in (429, 503))


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
