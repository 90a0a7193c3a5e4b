"""Which deployments may serve a model: those configured under its name, the least busy first."""
from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timezone
from operator import attrgetter

from farthing.deployments import named
from farthing.errors import ServeError, SettingsError
from farthing.policy.decide import concurrency_of
from farthing.policy.flow import ConcurrencyAction
from farthing.policy.index import CompiledDocument
from farthing.settings import Deployment, Settings, secret
from proxy.api_error import ApiError
from proxy.call import Call
from proxy.counters import Counters
from proxy.health import Health
from proxy.place_table import PlaceTable
from proxy.queue import Queue
from proxy.upstream import Timeouts
from proxy.vitals import Vitals
from proxy.window import Bounds, Window

log = logging.getLogger(__name__)

_FORMATS = {"openai": "openai", "azure": "openai", "anthropic": "anthropic"}  # how it is spoken to -> what is said
_ROUTES = {"openai": "OpenAI's API (/v1/chat/completions and others)", "anthropic": "Anthropic's API (/v1/messages)"}
_KEY_HEADERS = {"openai": ("authorization", "Bearer "), "azure": ("api-key", ""), "anthropic": ("x-api-key", "")}
_WITH_BATCHES = ("openai", "anthropic")  # whose own batches lines can be handed over in
_busyness = attrgetter("health.in_flight")


@dataclass(eq=False, slots=True)
class Target:
    """One deployment as this worker reaches it."""

    deployment: Deployment
    api: str  # openai | anthropic: what is said to it
    headers: tuple[tuple[str, str], ...]  # with its own key
    timeouts: Timeouts
    health: Health
    queue: Queue | None = None  # of its model, shared by the model's targets
    window: Window | None = None  # None: nothing limits how many requests it gets at once

    @property
    def name(self) -> str:
        return self.deployment.name

    @property
    def in_flight(self) -> int:
        """Return how many calls it answers, over all workers."""
        return self.health.vitals.in_flight if self.window is None else self.window.places.occupied

    def failed(self, now: float) -> None:
        """It could not be reached, broke off or took too long."""
        self.health.failed(now)
        self.overloaded(now)

    def overloaded(self, now: float) -> None:
        """It has too much to do: its window, where it has one, gets smaller."""
        if self.window is not None and self.window.overloaded(now) and self.queue is not None:
            self.queue.counters.shrunk += 1

    def gave_up(self, now: float, since: float, is_stream: bool) -> None:
        """Nobody waited longer for it; where that took more than is tolerable it has too much to do."""
        if self.window is not None and now - since > self.window.bounds.tolerance * self.window.quickest_s(is_stream):
            self.overloaded(now)

    def answered(self, now: float, latency_s: float, call: Call) -> None:
        """It answered, the head after so long: its window learns."""
        if self.window is None or self.queue is None:
            return
        tokens = call.usage.output_total if call.usage is not None else 0
        if (call.is_stream or tokens) and self.window.answered(now, latency_s, call.is_stream, tokens):
            self.queue.counters.shrunk += 1


_USUAL_QUEUE = ConcurrencyAction()  # what a limit of the settings alone goes by, beside its number


class Deployments:
    """The deployments of this proxy; upstreams come from the configuration only, never from a request."""

    def __init__(self, settings: Settings) -> None:
        """Read each deployment's secret once.

        Raises:
            SettingsError: a deployment names an environment variable that is not set, or an unknown API, or two
                deployments have one name.
        """
        self._folder = settings.data_dir / "proxy" / "places"
        self._table: PlaceTable | None = None  # opened at the first limit
        self._windows: dict[Target, Window] = {}
        self._queues: dict[str, Queue] = {}
        self._pools: dict[str, list[Target]] = {}
        self.counters = Counters()
        for deployment in named(settings.served()):
            self._pools.setdefault(deployment.model, []).append(_target(deployment, settings))
        for pool in self._pools.values():
            self._limit(pool, None)

    def share(self) -> PlaceTable | None:
        """Let how deployments fare be one for all workers of this host; None = there is no room for that."""
        try:
            table = self.table()
        except (ServeError, OSError) as error:
            log.warning("how deployments fare, and what batches take, is each worker's own: %s", error)
            return None
        for target in self.targets:
            target.health.vitals = table.vitals(f"{target.name} {target.deployment.url}")
        return table

    def close(self) -> None:
        for target in self.targets:
            target.health.vitals = Vitals()  # a call that ends yet must find something to count in
        if self._table is not None:
            self._table.close()

    @property
    def models(self) -> list[str]:
        return list(self._pools)

    @property
    def targets(self) -> list[Target]:
        return [target for pool in self._pools.values() for target in pool]

    def busy(self, model: str) -> int:
        """Return how many calls a model's deployments answer or are to answer, over all workers."""
        waiting = self._queues[model].waiting_anywhere if model in self._queues else 0
        return waiting + sum([target.in_flight for target in self._pools.get(model, ())])

    def hands_over(self, model: str) -> bool:
        """Tell whether lines may go to a provider's own batches, which take nothing of its other capacity."""
        return any(target.deployment.provider_batches for target in self._pools.get(model, ()))

    def target(self, name: str) -> Target | None:
        """Return a deployment by its name."""
        return next((target for target in self.targets if target.name == name), None)

    def candidates(self, model: str, api: str = "openai") -> list[Target]:
        """Return the deployments of `model` that speak an API, the least busy first.

        Raises:
            ApiError: 404, there is none, or 400, none of them speaks it.
        """
        pool = self._pools.get(model)
        if pool is None:
            message = f"the model {model!r} is not served here; served: {', '.join(self._pools) or 'none'}"
            raise ApiError(404, "model_not_found", message, param="model")
        if any(target.api != api for target in pool):
            pool = [target for target in pool if target.api == api]
            if not pool:
                message = f"the model {model!r} is not served over {_ROUTES[api]}; ask for it over the other one"
                raise ApiError(400, "wrong_api", message, param="model")
        return pool if len(pool) == 1 else sorted(pool, key=_busyness)

    def follow(self, compiled: CompiledDocument) -> None:
        """Give every deployment the window that a policy wants it to have now; what windows have learned stays."""
        if self._table is not None:
            self._table.reap()  # what a dead worker had must not be counted for long
        today = datetime.now(timezone.utc).date()
        for model, pool in self._pools.items():
            self._limit(pool, concurrency_of(compiled, model, today))

    def _limit(self, pool: list[Target], rule: ConcurrencyAction | None) -> None:
        """Give the deployments of one model their windows; what those have learned stays."""
        for target in pool:
            bounds = _bounds(target.deployment.max_in_flight, rule)
            target.window = None if bounds is None else self._window(target, bounds)
            if target.window is not None:
                target.queue = self._queue(target)
                target.queue.hand_out(target.window)

    def _window(self, target: Target, bounds: Bounds) -> Window:
        if target not in self._windows:
            self._windows[target] = Window(bounds, self.table().places(target.name))
        self._windows[target].bounds = bounds
        return self._windows[target]

    def _queue(self, target: Target) -> Queue:
        model = target.deployment.model
        if model not in self._queues:
            self._queues[model] = Queue(model, self.counters, self.table())
        return self._queues[model]

    def table(self) -> PlaceTable:
        """Return the places of this host's workers.

        Raises:
            ServeError: too many workers have it open already.
        """
        self._table = self._table or PlaceTable(self._folder)
        return self._table

    def known(self, model: str, api: str) -> list[Target]:
        """Return what `candidates` does, and nothing where it would raise."""
        return sorted([target for target in self._pools.get(model, ()) if target.api == api], key=_busyness)


def _bounds(at_most: int, rule: ConcurrencyAction | None) -> Bounds | None:
    """Return what the settings and a policy allow together; None = anything."""
    if rule is None and not at_most:
        return None
    queue = rule or _USUAL_QUEUE
    most = min(at_most or queue.max, queue.max) if rule else at_most
    least = min(rule.min, most) if rule else most
    return Bounds(least, most, queue.tolerance, queue.queue, queue.max_wait_ms / 1000)


def _target(deployment: Deployment, settings: Settings) -> Target:
    spoken = _spoken(deployment)
    if spoken not in _FORMATS:
        allowed = ", ".join(_FORMATS)
        raise SettingsError(f"deployment {deployment.model}: api = {deployment.api!r}; allowed are {allowed}")
    if deployment.api_version and spoken != "azure":
        where = f"deployment {deployment.model}: api_version = {deployment.api_version!r}"
        raise SettingsError(f"{where}; only api = 'azure' has versions, and this one speaks {spoken}")
    if deployment.provider_batches and not (spoken in _WITH_BATCHES and deployment.metered):
        where = f"deployment {deployment.model}: provider_batches = true; it needs metered = true, and as its api"
        raise SettingsError(f"{where} {' or '.join(_WITH_BATCHES)}: this one speaks {spoken}")
    headers: tuple[tuple[str, str], ...] = ()
    if deployment.api_key_env:
        name, scheme = _KEY_HEADERS[spoken]
        headers = ((name, scheme + secret(deployment.api_key_env)),)
    timeouts = Timeouts(
        deployment.connect_timeout_s,
        deployment.first_byte_timeout_s or settings.request_timeout_s,
        deployment.between_timeout_s or settings.request_timeout_s,
    )
    return Target(deployment, _FORMATS[spoken], headers, timeouts, Health(settings.breaker_failures))


def _spoken(deployment: Deployment) -> str:
    """Return the API that an upstream speaks: openai, anthropic or azure."""
    if deployment.api:
        return deployment.api
    if deployment.provider.startswith("azure"):
        return "azure"
    return "anthropic" if deployment.provider == "anthropic" else "openai"
