"""What a worker's parts tell of themselves on /metrics, one line each; a new part adds its own lines here."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from operator import attrgetter
from pathlib import Path

from proxy.apply import PolicyFeed
from proxy.batch_run import BatchRunner
from proxy.cache_counts import LevelCounts
from proxy.cache_tiers import TierCounts
from proxy.caches import Caches, SemanticReport
from proxy.counters import Counters
from proxy.dispatch import Deployments, Target
from proxy.metrics import Labelled, Metrics
from proxy.micro_batch import MicroBatches
from proxy.record import Recorder
from proxy.spend import Spend
from proxy.tokens import TokenControl
from proxy.window import Window

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
    metrics.read("coalesced_waiting", "gauge", "Calls that wait for an identical one.", lambda: caches.flights.waiting)
    metrics.read("coalesced_streaming", "gauge", "Calls that read a stream others may join.", lambda: caches.sharing)
    metrics.read("cache_unpriced_hits_total", "counter", "Hits whose saving nobody can tell.", level("unpriced_hits"))
    metrics.read(
        "prompt_cache_write_usd_total", "counter", "What writing to providers' prompt caches cost above input, USD.",
        lambda: [({"policy": name}, nusd / 1e9) for name, nusd in caches.prompt_surcharges().items()],
    )  # fmt: skip
    metrics.read(
        "cache_saved_usd_total", "counter", "What hits would have cost, USD.",
        lambda: [({"policy": one.policy, "level": one.level}, one.saved_nusd / 1e9) for one in caches.counts()],
    )  # fmt: skip


def read_tokens(metrics: Metrics, tokens: TokenControl) -> None:
    """Show what token policies cut."""

    def cut() -> Labelled:
        return [({"policy": policy, "kind": kind}, count) for (policy, kind), count in tokens.cut.items()]

    metrics.read("tokens_cut_total", "counter", "Estimated input tokens that a policy cut.", cut)


def read_cache_tiers(metrics: Metrics, caches: Caches) -> None:
    """Show what lies behind the memory, and how the semantic caches judge themselves."""

    def tier(field: str) -> Callable[[], Labelled]:
        value: Callable[[TierCounts], float] = attrgetter(field)
        return lambda: [({"tier": name}, float(value(counts))) for name, counts in caches.tiers.counts().items()]

    def semantic(field: str) -> Callable[[], Labelled]:
        value: Callable[[SemanticReport], float] = attrgetter(f"seen.{field}")
        return lambda: [({"policy": name}, value(report)) for name, report in caches.semantic_counts().items()]

    metrics.read("cache_tier_hits_total", "counter", "Entries found behind the memory.", tier("hits"))
    metrics.read("cache_tier_misses_total", "counter", "Look-ups behind the memory that found nothing.", tier("misses"))
    metrics.read("cache_tier_dropped_total", "counter", "Entries that could not be kept there.", tier("dropped"))
    metrics.read("cache_tier_damaged_total", "counter", "Entries that were not what was kept.", tier("damaged"))
    metrics.read("cache_tier_away", "gauge", "1 while a tier cannot be reached.", tier("is_away"))
    metrics.read("semantic_would_be_hits_total", "counter", "Hits in shadow mode.", semantic("shadow_hits"))
    metrics.read("semantic_would_be_wrong_total", "counter", "Of these, wrong ones.", semantic("shadow_wrong"))
    metrics.read("semantic_verified_total", "counter", "Hits that went upstream to be compared.", semantic("verified"))
    metrics.read("semantic_verified_wrong_total", "counter", "Of these, wrong ones.", semantic("verified_wrong"))
    metrics.read("semantic_alarms_total", "counter", "Answers that served too many requests.", semantic("alarms"))


def read_deployments(metrics: Metrics, deployments: Deployments) -> None:
    """Show how busy and how well each deployment is, and who waits for a place."""

    def each(value: Callable[[Target], float | None]) -> Callable[[], Labelled]:
        def labelled() -> Iterator[tuple[dict[str, str], float]]:
            for target in deployments.targets:
                if (known := value(target)) is not None:
                    yield {"model": target.deployment.model, "deployment": target.name}, known

        return labelled

    def in_window(value: Callable[[Window], float]) -> Callable[[], Labelled]:
        return each(lambda target: None if target.window is None else value(target.window))

    def queues() -> Labelled:
        depths = {one.deployment.model: one.queue.waiting for one in deployments.targets if one.queue is not None}
        return [({"model": model}, depth) for model, depth in depths.items()]

    metrics.read("in_flight", "gauge", "Calls that a deployment is answering.", each(attrgetter("health.in_flight")))
    metrics.read("failures_in_row", "gauge", "Failures in a row of a deployment.", each(attrgetter("health.failures")))
    metrics.read("latency_seconds", "gauge", "Moving average of the time to an answer's head.",
                 each(attrgetter("health.latency_s")))  # fmt: skip
    metrics.read("left_alone_seconds", "gauge", "For how long a failing deployment is not asked.",
                 each(lambda target: target.health.wait_s(time.monotonic())))  # fmt: skip
    metrics.read("window", "gauge", "Calls that a limited deployment gets at once.", in_window(attrgetter("limit")))
    metrics.read("window_taken", "gauge", "Of those, the ones taken.", in_window(attrgetter("places.own")))
    metrics.read("queue_depth", "gauge", "Calls that wait for a place at a model's deployments.", queues)
    what = [field.name for field in fields(Counters)]
    metrics.read("flow_total", "counter", "What routing and overload control did.",
                 lambda: [({"what": name}, getattr(deployments.counters, name)) for name in what])  # fmt: skip


def read_micro_batches(metrics: Metrics, batches: MicroBatches) -> None:
    """Show what of several callers left as one request."""
    counts = {"batches": "Requests sent for several calls.", "calls": "Calls in them.", "inputs": "Inputs in them.",
              "refused_batches": "Those that an upstream refused."}  # fmt: skip
    for name, what in counts.items():
        metrics.read(f"micro_{name}_total", "counter", what, lambda name=name: getattr(batches, name))
    metrics.read("micro_batches_under_way", "gauge", "Requests that are not answered yet.", lambda: batches.under_way)


def read_batches(metrics: Metrics, runner: BatchRunner) -> None:
    """Show what the offline class does here."""
    metrics.read("batches_running", "gauge", "Batches that this worker runs.", lambda: runner.running)
    metrics.read("batch_lines_in_flight", "gauge", "Lines of batches that are being answered.", lambda: runner.lines)


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
