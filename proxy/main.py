"""One proxy worker: its routes, its state and its life.

Every route that costs money goes through `Admission`; several workers share a port (SO_REUSEPORT) and what lies in
their `data_dir`: limits, places at deployments, files, the disk behind the caches.
"""
from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from urllib.parse import unquote

import msgspec

from farthing.fingerprint import load_key
from farthing.prometheus import CONTENT_TYPE
from farthing.serving import bind, keep_what_is_there, stop_signal
from farthing.settings import Settings
from proxy import anthropic_batch, readings
from proxy.admit import Admission
from proxy.anthropic_batch import AnthropicBatches
from proxy.api_error import ApiError
from proxy.apply import PolicyFeed
from proxy.batch import Batches
from proxy.batch_api import BatchApi
from proxy.batch_run import BatchRunner
from proxy.budget_watch import BudgetWatch
from proxy.cache_tiers import tiers_of
from proxy.caches import Caches
from proxy.count_tokens import CountTokens
from proxy.dispatch import Deployments, Target
from proxy.embedder import Embedder
from proxy.exchange import Exchange, Worker
from proxy.file_api import FileApi
from proxy.files import Files
from proxy.formats import FORMATS
from proxy.gains import Gains
from proxy.gather import Gather
from proxy.grades import Grades
from proxy.hedge import Hedges
from proxy.http import JSON
from proxy.http_request import Request
from proxy.keys import Caller, Keys
from proxy.metrics import Metrics
from proxy.micro_batch import MicroBatches
from proxy.offline import Limits
from proxy.openai_batch import OpenAIBatches
from proxy.operators import Operators
from proxy.own_prices import PriceFeed
from proxy.place_table import PlaceTable
from proxy.provider_batch import Asking, ProviderBatches
from proxy.record import Recorder
from proxy.routes import Routes
from proxy.server import Server
from proxy.spare import Spare
from proxy.spend import Spend
from proxy.tokens.summary import Summaries
from proxy.upstream import Client, Timeouts
from proxy.warm import Warmth

_NEW_OBJECTS = 10_000  # after which the youngest are looked at
_DRAIN_S = 5.0  # seconds that settlements and spans get at the end
_LAST_LINES_S = 30.0  # seconds that lines of batches get to end; what is cut off is asked again
_MORE_S = 1.0  # beside the time that a call has itself


class Proxy:
    """The proxy of one process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._deployments = Deployments(settings)

    async def open(self, sock: socket.socket) -> None:
        """Serve on a listening socket from now on."""
        settings = self._settings
        table = self._deployments.share()
        self._started_at = time.time()
        # The upstream may think long before it answers; the whole call has a limit of its own.
        timeouts = Timeouts(headers=settings.request_timeout_s, between=settings.request_timeout_s)
        self._client = Client(timeouts, {settings.url("policies"): settings.control_token})
        self._feed = PolicyFeed(self._client, settings.url("policies"), settings.data_dir / "proxy" / "policies.json")
        key = load_key(settings.hash_key, settings.data_dir)
        self._caches = Caches(lambda: self._feed.document, tiers_of(settings, key))
        folder = settings.data_dir / "proxy"
        self._spend = Spend(self._client, settings.url("policies"), folder, settings.lease_s, settings.hold_ttl_s)
        own_key = next((known.key for known in settings.ingest_keys if known.tenant == settings.tenant), "")
        instance = self._spend.worker
        self._recorder = Recorder(self._client, settings.url("collector"), "farthing-proxy", own_key, instance)
        self._watch = BudgetWatch(self._client, settings.url("policies"))
        self._gains = Gains(self._client, settings.url("policies"), folder / "gains", key, settings.tenant)
        self._feed.tells, self._gains.report = self._gains.told, self._feed.report
        self._feed.on_change += [self._deployments.follow, self._watch.follow, self._gains.follow]
        admission = Admission(
            settings, key, self._deployments, self._feed, self._caches, self._spend, self._watch, self._gains
        )
        self._limiter = admission.limiter
        self._feed.on_change.append(self._limiter.follow)
        self._batches = MicroBatches(self._client, self._deployments.table)
        self._feed.on_change.append(self._batches.follow)
        self._metrics = self._read_parts()
        self._gather = Gather(self._metrics, settings.data_dir / "proxy" / "metrics", settings.proxy_workers)
        counters = self._deployments.counters
        self._warmth = Warmth(self._client, [one.deployment for one in self._deployments.targets], counters)
        self._hedges = Hedges(admission, self._spend, counters)
        worker = Worker(
            settings, self._client, admission, self._caches, self._batches, self._spend, self._recorder, self._metrics,
            self._hedges, counters,
        )  # fmt: skip
        keys = Keys(settings, lambda: self._feed.document)
        self.routes = Routes(keys, Operators(settings, keys), self._metrics.refused)
        for form in FORMATS:
            self.routes.priced(Exchange(worker, form))
        self.routes.free("GET", "/v1/models", "models", self._models)
        self.routes.free("GET", "/v1/models/{id}", "models", self._model)
        self.routes.operators("/v1/status", "status", self._status)
        self.routes.operators("/metrics", "metrics", self._page)
        Grades(self._recorder).register(self.routes)
        CountTokens(settings, self._client, self._deployments).register(self.routes)
        admission.tokens.summaries = Summaries(self.routes.handle)
        self._caches.embedder = Embedder(self.routes.handle)
        readings.read_tokens(self._metrics, admission.tokens)
        self._caches.tiers.start()
        files = self._open_files(keys, table)
        self._recorder.start()
        self._warmth.start()
        self._spend.start()
        self._gather.start()
        kept = settings.data_dir / "proxy" / "prices.json"
        self._prices = PriceFeed(self._client, settings.url("collector"), own_key, kept, admission.offers.use)
        await self._prices.start()
        await self._feed.start()
        self._offline.start()
        most = settings.max_request_bytes
        self._server = Server(self.routes.handle, most, max_body=files.max_body, spool=files.spool)
        await self._server.start(sock)

    async def close(self) -> None:
        """Let the calls under way end, none of which is cut off, hand over what they cost, and stop."""
        last_s = self._settings.request_timeout_s + _MORE_S
        await asyncio.gather(self._server.stop(last_s), self._offline.stop(_LAST_LINES_S))
        await self._hedges.stop(_DRAIN_S)
        await self._prices.stop()
        await self._feed.stop()
        await self._watch.stop()
        await self._gains.stop()
        await self._warmth.stop()
        await self._spend.drain(_DRAIN_S)
        await self._recorder.stop(_DRAIN_S)
        await self._gather.stop()
        self._limiter.close()
        await self._caches.close()
        await self._batches.close()
        self._deployments.close()
        self._client.close()

    def _open_files(self, keys: Keys, table: PlaceTable | None) -> FileApi:
        """Open files and batches."""
        folder, limits = self._settings.data_dir / "proxy", Limits(lambda: self._feed.document)
        files, batches = Files(folder / "files"), Batches(folder / "batches")
        self._offline = BatchRunner(batches, files, limits, keys, self._deployments, self.routes.exchange,
                                    self._provider_batches, self._spend.release, Spare(table))  # fmt: skip
        readings.read_batches(self._metrics, self._offline)
        api = FileApi(self._settings, files, limits, keys)
        api.register(self.routes)
        BatchApi(batches, files, limits, self._offline.wake).register(self.routes)
        return api

    def _provider_batches(self, target: Target) -> ProviderBatches:
        if target.api == "anthropic":
            return AnthropicBatches(Asking(self._client, target, anthropic_batch.HEADERS))
        return OpenAIBatches(Asking(self._client, target))

    def _read_parts(self) -> Metrics:
        metrics = Metrics()
        readings.read_policies(metrics, self._feed)
        readings.read_caches(metrics, self._caches)
        readings.read_cache_tiers(metrics, self._caches)
        readings.read_deployments(metrics, self._deployments)
        readings.read_micro_batches(metrics, self._batches)
        readings.read_senders(metrics, self._spend, self._recorder)
        readings.read_process(metrics)
        return metrics

    async def _page(self, request: Request, caller: Caller) -> None:
        request.answer(200, self._gather.page(), CONTENT_TYPE.encode())

    async def _models(self, request: Request, caller: Caller) -> None:
        models = [self._described(name) for name in self._deployments.models if caller.may_ask(name)]
        request.answer(200, msgspec.json.encode({"object": "list", "data": models}), JSON)

    async def _model(self, request: Request, caller: Caller) -> None:
        name = unquote(request.path.removeprefix("/v1/models/"))
        if name not in self._deployments.models or not caller.may_ask(name):
            raise ApiError(404, "model_not_found", f"there is no model {name!r} for you; see GET /v1/models")
        request.answer(200, msgspec.json.encode(self._described(name)), JSON)

    def _described(self, name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": int(self._started_at), "owned_by": "farthing"}

    async def _status(self, request: Request, caller: Caller) -> None:
        fetched_at = self._feed.fetched_at
        status = {
            "policy_version": self._feed.document.version,
            "policy_checksum": self._feed.document.checksum,
            "policy_age_s": round(time.time() - fetched_at, 3) if fetched_at else None,
            "policy_error": self._feed.last_error,
            "prices_error": self._prices.last_error,
            "caches": self._caches.counts(),
            "semantic": self._caches.semantic_counts(),
            "cache_tiers": self._caches.tiers.counts(),
            "calls_waiting_for_identical": self._caches.flights.waiting,
            "calls_sharing_a_stream": self._caches.sharing,
            "micro_batches": {
                "batches": self._batches.batches,
                "calls": self._batches.calls,
                "inputs": self._batches.inputs,
                "refused_batches": self._batches.refused_batches,
                "waiting": self._batches.waiting,
            },
            "settlements_waiting": self._spend.waiting,
            "leased_nusd": self._spend.leased,
            "held_nusd": self._spend.held,
            "spans_sent": self._recorder.sent,
            "spans_waiting": self._recorder.waiting,
            "spans_dropped": self._recorder.dropped,
            "gain_models": self._gains.status(),
            "routing": asdict(self._deployments.counters),
            "in_flight": sum(target.health.in_flight for target in self._deployments.targets),
        }
        request.answer(200, msgspec.json.encode(status), JSON)


async def serve(
    settings: Settings, sock: socket.socket, stop: asyncio.Event, on_ready: Callable[[], None] | None = None
) -> None:
    """Run one proxy worker on a listening socket until `stop` is set."""
    proxy = Proxy(settings)
    await proxy.open(sock)
    if on_ready is not None:
        on_ready()
    try:
        await stop.wait()
    finally:
        await proxy.close()


def main(settings: Settings) -> None:
    """Run one proxy worker until it is told to stop."""
    sock = bind("proxy", settings.host, settings.proxy_port, reuse_port=settings.proxy_workers > 1)
    # uvloop halves the cost of a request, and its sockets never wait for a full segment (TCP_NODELAY).
    with asyncio.Runner(loop_factory=_new_loop()) as runner:
        runner.run(_until_told(settings, sock))


async def _until_told(settings: Settings, sock: socket.socket) -> None:
    await serve(settings, sock, stop_signal(), _collect_rarely)


def _collect_rarely() -> None:
    """Look for garbage rarely: a call leaves hardly any cycles, and looking for them cost 5 % of each."""
    keep_what_is_there()
    gc.set_threshold(_NEW_OBJECTS, 20, 20)


def _new_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop where it is installed; Windows has none."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
