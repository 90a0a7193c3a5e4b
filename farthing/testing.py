"""Fills a warehouse with model calls for tests and demonstrations, through the path that real spans take.

Each `SeedRequest` becomes an OTLP span in a segment file like the collector's, is exploded, normalised and priced by
the warehouse's own views, and can then be asked for. Nothing is written into `requests` directly, so a test that seeds
here also tests the views. Seeding the same requests twice counts them once.

    warehouse = Warehouse("chdb:///tmp/demo")
    warehouse.migrate()
    now = datetime.now(timezone.utc)
    seed_requests(warehouse, realistic_requests(1_000, now - timedelta(days=7), now), tenant="demo")
    warehouse.ask("totals", tenant="demo", part="test", since=..., until=..., teams=[], models=[])
"""
from __future__ import annotations

import hashlib
import math
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from farthing import otlp, semconv
from farthing.prices import PriceBook
from farthing.settings import DEFAULT_PRICES
from farthing.warehouse import Warehouse, rollup, segment

__all__ = ["SeedRequest", "realistic_requests", "seed_requests", "write_segment"]

SERVICE = "farthing.testing"
SPANS_PER_BODY = 500


@dataclass(frozen=True)
class SeedRequest:
    """One model call as an application's span tells it; what is None or empty is left out of the span."""

    started_at: datetime  # aware
    model: str
    provider: str = "openai"
    team: str = ""
    input_tokens: int | None = 100  # total, cached ones included
    output_tokens: int | None = 20
    cache_read_tokens: int | None = None
    duration_s: float = 1.0
    ttft_s: float | None = None
    outcome: str = "ok"  # ok | error | aborted | refused
    error_type: str = ""
    cache_hit: str = ""  # exact = served from Farthing's response cache
    feature: str = ""
    user: str = ""
    request_hash: str = ""
    temperature: float | None = None
    is_billed: bool = True  # False = another span of the same call carries the money


def seed_requests(
    warehouse: Warehouse,
    requests: Sequence[SeedRequest],
    tenant: str,
    book: PriceBook | None = None,
    received_at: datetime | None = None,
) -> None:
    """Store `requests` for `tenant`, priced from `book` (default: the prices that Farthing ships with).

    Args:
        warehouse: an open warehouse; `migrate` must have run.
        requests: the calls, at most 100 different days of them at once.
        tenant: whose rows they are; another tenant never sees them.
        book: where prices come from; a model that it does not know stays unpriced.
        received_at: when the collector is said to have received them; default: as each body's last call ended.

    Raises:
        WarehouseError: the store refused a statement.
    """
    if not requests:
        return
    prices = book or PriceBook(DEFAULT_PRICES)
    with tempfile.TemporaryDirectory(prefix="farthing-seed-") as folder:
        path = write_segment(Path(folder) / "seed.otlp", requests, tenant, received_at)
        token = hashlib.sha256(path.read_bytes()).hexdigest()
        models = warehouse.unseen_models(path)
        warehouse.put_prices([price for provider, model in models for price in prices.every(provider, model)])
        warehouse.insert_otlp(path, token)
    moments = [one.started_at for one in requests]
    rollup.refresh(warehouse, min(moments), max(moments) + rollup.HOUR)


def write_segment(
    path: Path, requests: Sequence[SeedRequest], tenant: str, received_at: datetime | None = None
) -> Path:
    """Write `requests` as a segment file, stamped and length-delimited as the collector does, and return `path`."""
    ordered = sorted(requests, key=lambda request: request.started_at)
    with path.open("wb") as out:
        for start in range(0, len(ordered), SPANS_PER_BODY):
            batch = ordered[start : start + SPANS_PER_BODY]
            spans = [_span(request, f"{tenant}/{start + i}") for i, request in enumerate(batch)]
            body = otlp.traces([("service.name", SERVICE)], SERVICE, "1", spans)
            received = received_at or max(one.started_at + timedelta(seconds=one.duration_s) for one in batch)
            received_ms = round(received.timestamp() * 1000)
            out.write(segment.frame(tenant, body, received_ms, segment.digest(tenant, body)))
    return path


def _span(request: SeedRequest, identity: str) -> bytes:
    digest = hashlib.sha256(f"{identity}/{request!r}".encode()).digest()
    start_ns = round(request.started_at.timestamp() * 1_000_000) * 1000
    return otlp.span(
        trace_id=digest[:16],
        span_id=digest[16:24],
        parent_span_id=b"",
        name=f"chat {request.model}",
        window_ns=(start_ns, start_ns + round(request.duration_s * 1e9)),
        encoded_attributes=otlp.attributes(_attributes(request)),
        kind=otlp.KIND_CLIENT,
        error=request.error_type or "failed" if request.outcome == "error" else "",
    )


def _attributes(request: SeedRequest) -> Iterator[tuple[str, otlp.Value]]:
    facts: list[tuple[str, otlp.Value | None]] = [
        (semconv.OPERATION_NAME, "chat"),
        (semconv.PROVIDER_NAME, request.provider),
        (semconv.REQUEST_MODEL, request.model),
        (semconv.RESPONSE_MODEL, request.model),
        (semconv.USAGE_INPUT_TOKENS, request.input_tokens),
        (semconv.USAGE_OUTPUT_TOKENS, request.output_tokens),
        (semconv.USAGE_CACHE_READ_TOKENS, request.cache_read_tokens),
        (semconv.RESPONSE_TTFC, request.ttft_s),
        (semconv.TEAM, request.team),
        (semconv.FEATURE, request.feature),
        (semconv.USER, request.user),
        (semconv.REQUEST_HASH, request.request_hash),
        ("gen_ai.request.temperature", request.temperature),
        (semconv.CACHE_HIT, request.cache_hit),
        (semconv.OUTCOME, request.outcome if request.outcome != "ok" else ""),
        (semconv.ERROR_TYPE, request.error_type),
        (semconv.BILLED, None if request.is_billed else False),
    ]
    for key, value in facts:
        if value is not None and value != "":
            yield key, value


@dataclass(frozen=True)
class _Profile:
    """How one kind of traffic looks; the figures are made up, in proportions that are common."""

    provider: str
    model: str
    weight: float  # share of the calls
    input_tokens: int  # median
    output_tokens: int  # median
    seconds: float  # median duration


_PROFILES = (
    _Profile("openai", "gpt-4.1", 0.16, 1400, 320, 2.6),
    _Profile("openai", "gpt-4.1-mini", 0.34, 1100, 210, 1.3),
    _Profile("anthropic", "claude-sonnet-4-5", 0.12, 1800, 380, 3.4),
    _Profile("openai", "gpt-4o-mini", 0.22, 700, 160, 1.1),
    _Profile("farthing", "smollm2-135m", 0.15, 300, 90, 0.8),
    _Profile("internal", "house-rag-7b", 0.01, 900, 120, 1.5),  # nobody has a price for it
)
_TEAMS = (("search", 0.34), ("support", 0.27), ("growth", 0.18), ("platform", 0.13), ("research", 0.08))


def realistic_requests(count: int, since: datetime, until: datetime, seed: int = 1) -> list[SeedRequest]:
    """Make `count` calls over [since, until): five teams, six models, a daily rhythm, slow growth, a few failures.

    The same arguments make the same calls. About 1 % are of a model without a price, 1 % lack usage, 6 % are served
    from the response cache, and 10 % repeat one of a team's few popular requests.
    """
    rng = random.Random(seed)
    span_s = (until - since).total_seconds()
    calls: list[SeedRequest] = []
    while len(calls) < count:
        at = rng.random()
        started = since + timedelta(seconds=at * span_s)
        if rng.random() < _load(started, at):
            calls.append(_call(rng, started))
    return sorted(calls, key=lambda call: call.started_at)


def _load(at: datetime, progress: float) -> float:
    """Return the share of the peak load at a moment: quieter at night, a third more at the end than at the start."""
    hour = at.hour + at.minute / 60
    return (0.72 + 0.28 * math.sin((hour - 8) / 24 * 2 * math.pi)) * (0.75 + 0.25 * progress)


def _call(rng: random.Random, started_at: datetime) -> SeedRequest:
    profile = rng.choices(_PROFILES, [one.weight for one in _PROFILES])[0]
    team = rng.choices([name for name, _ in _TEAMS], [weight for _, weight in _TEAMS])[0]
    tokens_in = max(8, round(profile.input_tokens * rng.lognormvariate(0, 0.6)))
    duration = max(0.05, profile.seconds * rng.lognormvariate(0, 0.45))
    chance = rng.random()
    failed, silent, cached = chance < 0.01, 0.01 <= chance < 0.02, 0.02 <= chance < 0.08
    popular = rng.randrange(12) if rng.random() < 0.1 else None
    return SeedRequest(
        started_at=started_at,
        model=profile.model,
        provider=profile.provider,
        team=team,
        input_tokens=None if failed or silent else tokens_in,
        output_tokens=None if failed or silent else max(1, round(profile.output_tokens * rng.lognormvariate(0, 0.5))),
        cache_read_tokens=tokens_in // 2 if rng.random() < 0.2 and not (failed or silent) else None,
        duration_s=0.004 if cached else round(duration, 4),
        ttft_s=round(duration * 0.2, 4),
        outcome="error" if failed else "ok",
        error_type="rate_limit" if failed else "",
        cache_hit="exact" if cached else "",
        feature=rng.choice(("answers", "triage", "drafts")),
        user=f"user-{rng.randrange(40)}",
        request_hash=f"{rng.randrange(16**12):012x}" if popular is None else f"{team}-{profile.model}-{popular}",
        temperature=None if popular is None else 0.0,
    )
