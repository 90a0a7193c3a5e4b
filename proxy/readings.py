"""What a worker's parts tell of themselves on /metrics, one line each; a new part adds its own lines here."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path

from proxy.apply import PolicyFeed
from proxy.cache_counts import LevelCounts
from proxy.caches import Caches
from proxy.counters import Counters
from proxy.dispatch import Deployments
from proxy.metrics import Labelled, Metrics
from proxy.record import Recorder
from proxy.spend import Spend

_PAGE_BYTES = 4096


def read_policies(metrics: Metrics, feed: PolicyFeed) -> None:
    """Show which policies run, and since when they are known to be the newest."""
    metrics.read("policy_version", "gauge", "Version of the policy document in force.", lambda: feed.document.version)
    metrics.read(
        "policy_age_seconds", "gauge", "Since the control plane last answered; absent = never.",
        lambda: [({}, time.time() - feed.fetched_at)] if feed.fetched_at else [],
    )  # fmt: skip
    metrics.read("keys", "gauge", "Virtual keys known, ended ones too.", lambda: len(feed.document.keys))


def read_caches(metrics: Metrics, caches: Caches) -> None:
    """Show each level of each cache policy."""

    def level(field: str) -> Callable[[], Labelled]:
        value: Callable[[LevelCounts], float] = attrgetter(field)
        return lambda: [({"policy": one.policy, "level": one.level}, value(one)) for one in caches.counts()]

    metrics.read("cache_hits_total", "counter", "Answers served from a cache.", level("hits"))
    metrics.read("cache_misses_total", "counter", "Look-ups that found nothing.", level("misses"))
    metrics.read("cache_evictions_total", "counter", "Entries dropped for want of room.", level("evictions"))
    metrics.read("cache_entries", "gauge", "Entries kept.", level("entries"))
    metrics.read("cache_bytes", "gauge", "Bytes kept.", level("bytes"))
    metrics.read(
        "cache_saved_usd_total", "counter", "What hits would have cost, USD.",
        lambda: [({"policy": one.policy, "level": one.level}, one.saved_nusd / 1e9) for one in caches.counts()],
    )  # fmt: skip


def read_deployments(metrics: Metrics, deployments: Deployments) -> None:
    """Show how busy and how well each deployment is, numbered within its model."""

    def each(value: Callable[..., float]) -> Callable[[], Labelled]:
        def labelled() -> Iterator[tuple[dict[str, str], float]]:
            counts: dict[str, int] = {}
            for target in deployments.targets:
                model = target.deployment.model
                number = counts[model] = counts.get(model, -1) + 1
                yield {"model": model, "deployment": str(number)}, value(target.health)

        return labelled

    metrics.read("in_flight", "gauge", "Calls that a deployment is answering.", each(attrgetter("in_flight")))
    metrics.read("failures_in_row", "gauge", "Failures in a row of a deployment.", each(attrgetter("failures")))
    metrics.read("latency_seconds", "gauge", "Moving average of the time to an answer's head.",
                 each(attrgetter("latency_s")))  # fmt: skip
    metrics.read("left_alone_seconds", "gauge", "For how long a failing deployment is not asked.",
                 each(lambda health: health.wait_s(time.monotonic())))  # fmt: skip


def read_routing(metrics: Metrics, counters: Counters) -> None:
    """Show what routing and overload control did, by what it was."""
    metrics.read(
        "routing_total", "counter", "Requests that routing and overload control did something with.",
        lambda: [({"what": name}, count) for name, count in asdict(counters).items()],
    )  # fmt: skip


def read_senders(metrics: Metrics, spend: Spend, recorder: Recorder) -> None:
    """Show what waits for the ledger and the collector, and what was lost."""
    metrics.read("ledger_waiting", "gauge", "Operations that the ledger has not answered.", lambda: spend.waiting)
    metrics.read("spans_sent_total", "counter", "Spans that the collector took.", lambda: recorder.sent)
    metrics.read("spans_dropped_total", "counter", "Spans that were lost.", lambda: recorder.dropped)
    metrics.read("spans_waiting", "gauge", "Spans that wait for the collector.", lambda: recorder.waiting)


def read_process(metrics: Metrics) -> None:
    """Show what the worker itself takes."""
    metrics.read("process_cpu_seconds_total", "counter", "CPU of the worker, user and system.", time.process_time)
    metrics.read("process_resident_bytes", "gauge", "Memory of the worker.", _resident_bytes)


def _resident_bytes() -> Labelled:
    try:
        return [({}, int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES)]
    except (OSError, ValueError):  # a system without /proc
        return []
