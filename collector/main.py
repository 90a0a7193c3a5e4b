"""The collector: OTLP over HTTP and gRPC in front, the spool and the flusher behind, as one ASGI application."""
from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from collector import grpc_server
from collector.admin import NEEDS, Door
from collector.admin_api import AdminApi, Parts
from collector.answers import JSON, PROTOBUF, SIGNALS, failure
from collector.backup import content_type, header_map
from collector.commit import GroupCommit
from collector.export import Export
from collector.flush import Flusher
from collector.intake import Intake
from collector.price_api import PriceApi
from collector.pricing import Pricing
from collector.retention import Retention, keep_days
from collector.spool import Spool
from collector.upkeep import Upkeep
from farthing.audit import Audit
from farthing.errors import SchemaError, ServeError, WarehouseError
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
        self._export = Export(self._intake)
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
        self._spools = [Spool(settings.data_dir / lane.folder, _room(lane, settings)) for lane in LANES]
        for spool in self._spools:
            if spool.corrupt_bytes:
                log.error("%s held %d corrupt bytes; all whole records were kept", spool.folder, spool.corrupt_bytes)
        audit = Audit(settings.data_dir, "collector")
        self._retention = Retention(self._warehouse, keep_days(settings), partial(audit.tell, "retention"))
        flushed = (self._warehouse, self._pricing, settings.flush_interval_s)
        also = [Flusher(spool, *flushed, lane=lane) for spool, lane in zip(self._spools[1:], LANES[1:], strict=True)]
        self._flusher = Flusher(
            self._spools[0], *flushed, retention=self._retention, is_migrated=is_migrated, also=also
        )
        self._flushers = [self._flusher, *also]
        self._flusher.start()
        self._upkeep = Upkeep(self._warehouse, self._flusher.fresh, settings.upkeep_interval_s)
        self._upkeep.start()
        prices = PriceApi(settings, self._warehouse, self._pricing)
        parts = Parts(self._warehouse, self._flusher, self._upkeep, prices, audit, self.status)
        self._admin = AdminApi(settings, self._intake, self._door, parts)

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
            await self._admin.answer((method, path), scope, receive, send)
        elif _METHODS.get(path, method) != method:
            text = f"{method} {path} is not supported; use {_METHODS[path]}"
            await _refuse(scope, send, 405, text, (b"allow", _METHODS[path].encode()))
        elif path in _SIGNALS:
            await self._export.take(_SIGNALS[path], scope, receive, send)
        else:
            known = ", ".join(f"{method} {path}" for path, method in _METHODS.items())
            await _refuse(scope, send, 404, f"no route {method} {path}; known: {known}")

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


async def _refuse(scope: Scope, send: Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    """Answer what goes to no route in the form that it came in; JSON to whom sent nothing."""
    is_json = content_type(header_map(scope)) != PROTOBUF
    await answer(send, status, failure(status, text, is_json), (JSON if is_json else PROTOBUF).encode(), headers)


def _room(lane: Lane, settings: Settings) -> int:
    """Return how many bytes a lane's spool may hold."""
    return settings.spool_max_bytes if lane is TRACES else settings.spool_max_bytes // 4


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
