"""The proxy's own spans: hand-encoded OTLP, batched to the collector, never in a request's way.

When the collector is away a bounded number is kept and what does not fit is counted, not waited for.
"""
from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from functools import lru_cache

from farthing import otlp, semconv
from farthing.errors import UpstreamError
from farthing.policy.decide import Decision
from farthing.prices import Usage
from farthing.settings import Deployment
from proxy.call import Call
from proxy.tokens.cut import cut_attributes
from proxy.upstream import Client, Timeouts

log = logging.getLogger(__name__)

_BATCH = 512  # spans in one body
_TOGETHER = 64  # calls encoded one after the other: their code and its data are then in the CPU's caches [25 µs, so 12]
_KEPT = 50_000  # spans kept while the collector is away
_INTERVAL_S = 0.25
_HEADERS = (("content-type", "application/x-protobuf"),)
_TIMEOUTS = Timeouts(connect=2.0, headers=10.0, between=10.0)


Attribute = tuple[str, otlp.Value]
Values = tuple[otlp.Value | None, ...]


def encode_span(call: Call) -> bytes:
    """Return the span of a finished call."""
    error = call.error_type if call.outcome in ("error", "refused") else ""
    is_routed = call.chosen is not None or call.priority is not None or call.attempt_of or call.discarded
    more = _more(call) + (_routed(call) if is_routed else [])
    encoded = _own(call) + _encoded(_shared(call)) + (otlp.attributes(more) if more else b"")
    return otlp.span(
        call.trace_id, call.span_id, call.parent_span_id, f"{call.operation} {_model(call)}",
        (call.started_ns, call.ended_ns), encoded, otlp.KIND_SERVER, error,
    )  # fmt: skip


@lru_cache(maxsize=2048)
def _encoded(values: Values) -> bytes:
    """Encode attributes that many spans share; looking them up costs a tenth of encoding them."""
    return otlp.attributes([(name, value) for name, value in zip(_SHARED, values, strict=True) if value is not None])


def _model(call: Call) -> str:
    return call.deployment.model if call.deployment else call.asked_model


# What tells most calls from others
_layout = otlp.Layout(
    (semconv.REQUEST_ID, str), (semconv.PROXY_SECONDS, float), (semconv.USER, str), (semconv.SESSION, str),
    (semconv.REQUEST_HASH, str), (semconv.RESPONSE_ID, str), (semconv.USAGE_INPUT_TOKENS, int),
    (semconv.USAGE_OUTPUT_TOKENS, int), (semconv.HELD_NUSD, int), (semconv.SETTLED_NUSD, int),
    (semconv.RESPONSE_TTFC, float),
)  # fmt: skip


def _own(call: Call) -> bytes:
    """Return what tells this call from others, as far as most calls have it."""
    facts, used, settled, first_ns = call.facts, call.usage, call.settled_nusd, call.first_byte_ns
    return _layout(
        call.request_id.encode(),
        otlp.double(max(0, call.ended_ns - call.started_ns - call.upstream_ns) / 1e9),
        facts.user.encode("utf-8", "replace"),
        facts.session.encode("utf-8", "replace"),
        call.request_hash.encode(),
        call.response_id.encode("utf-8", "replace"),
        b"" if used is None else otlp.varint(used.input),
        b"" if used is None else otlp.varint(used.output_total),
        b"" if settled is None else otlp.varint(call.held_nusd),
        b"" if settled is None else otlp.varint(settled),
        otlp.double((first_ns - call.started_ns) / 1e9) if first_ns else b"",
    )


# What a call has in common with many, in the order of `_shared`
_SHARED = (
    semconv.OPERATION_NAME, semconv.PROVIDER_NAME, semconv.REQUEST_MODEL, semconv.OUTCOME, semconv.HTTP_STATUS_CODE,
    semconv.TEAM, semconv.FEATURE, semconv.KEY, semconv.USAGE_SOURCE, semconv.SERVICE_TIER,
    semconv.RESPONSE_FINISH_REASONS, semconv.ERROR_TYPE, semconv.REQUEST_STREAM, semconv.REQUEST_MAX_TOKENS,
    semconv.ATTEMPTS, semconv.CACHE_HIT, semconv.MICRO_BATCH_CALLS, "gen_ai.request.temperature", semconv.DEPLOYMENT,
    semconv.DEPLOYMENT_NAME, semconv.ROUTED_FROM, semconv.POLICY_VERSION, semconv.POLICIES, semconv.POLICIES_SHADOWED,
    semconv.POLICY_ARMS, semconv.LEASES,
)  # fmt: skip
_NOWHERE = (None, None, None)
_UNDECIDED = (None, None, None, None)


def _shared(call: Call) -> Values:
    """Return the values of `_SHARED`; None = the call has none."""
    facts, deployment, decision = call.facts, call.deployment, call.decision
    return (
        call.operation,
        deployment.provider if deployment else "",
        _model(call),
        call.outcome,
        call.status,
        facts.team or None,
        facts.feature or None,
        facts.key or None,
        call.usage_source or None,
        call.service_tier or None,
        call.finish_reason or None,
        call.error_type or None,
        call.is_stream or None,
        call.max_tokens or None,
        call.attempts if call.attempts > 1 else None,
        call.cache_hit or None,
        call.batch_calls if call.batch_calls > 1 else None,
        call.temperature,
        *(_place(call, deployment) if deployment else _NOWHERE),
        *(_decided(decision) if decision else _UNDECIDED),
        call.hold.leases or None if call.hold else None,
    )


def _place(call: Call, deployment: Deployment) -> Values:
    return deployment.url, deployment.name, call.asked_model if deployment.model != call.asked_model else None


def _decided(decision: Decision) -> Values:
    arms = tuple(map(str, decision.arms)) if decision.arms else None
    return decision.version, decision.acted or None, decision.shadowed or None, arms


def _routed(call: Call) -> list[Attribute]:
    """Return what routing decided and what it saw, and how long the call waited for a place."""
    values: list[Attribute] = []
    if call.priority is not None:
        values += [(semconv.PRIORITY, call.priority), (semconv.WAITED_SECONDS, call.waited_s)]
    if call.attempt_of:
        values.append((semconv.ATTEMPT_OF, call.attempt_of))
    if call.discarded:
        values.append((semconv.DISCARDED, call.discarded))
    if call.quality is not None:
        values.append((semconv.ANSWER_QUALITY, round(call.quality, 4)))
    if (chosen := call.chosen) is not None:
        values += [(semconv.ROUTE_STRATEGY, chosen.strategy), (semconv.ROUTE_REASON, chosen.reason)]
        if chosen.saw:
            values.append((semconv.ROUTE_CANDIDATES, chosen.saw))
        if (predicted := chosen.predicted) is not None:
            if predicted.gain is not None:
                values += [(semconv.ROUTE_GAIN, predicted.gain), (semconv.ROUTE_GAIN_VERSION, predicted.version)]
            if chosen.drawn is not None and chosen.drawn[0] == _model(call):  # and no fallback answered
                values += [(semconv.ROUTE_PROPENSITY, chosen.drawn[1]), (semconv.ROUTE_FEATURES, predicted.stored())]
                if predicted.tenant:
                    values.append((semconv.ROUTE_TENANT, predicted.tenant))
        if (judged := chosen.judgement) is not None:
            values += [
                (semconv.TASK, judged.task), (semconv.TASK_CONFIDENCE, round(judged.confidence, 4)),
                (semconv.TASK_COMPLEXITY, round(judged.complexity, 4)),
            ]  # fmt: skip
    return values


def _more(call: Call) -> list[Attribute]:
    """Return what only some calls have."""
    used, facts = call.usage, call.facts
    values: list[Attribute] = []
    if call.prefix_hashes:
        values.append((semconv.PREFIX_HASHES, call.prefix_hashes))
    if facts.tags:
        values += [(semconv.TAG_PREFIX + name, value) for name, value in facts.tags.items()]
    if used is not None and sum(used) > used.input_uncached + used.output:
        values += _parts(used)
    if call.semantic is not None:
        kind, reason, similarity = call.semantic
        values += [(semconv.CACHE_SEMANTIC, kind), (semconv.CACHE_SEMANTIC_SIMILARITY, similarity)]
        values += [(semconv.CACHE_SEMANTIC_REASON, reason)] if reason else []
    if call.saved_input_tokens:
        values.append((semconv.CACHE_SAVED_INPUT_TOKENS, call.saved_input_tokens))
    if call.reasoning_tokens:
        values.append((semconv.USAGE_REASONING_TOKENS, call.reasoning_tokens))
    if call.cut is not None or call.cut_shadow is not None:
        values += cut_attributes(call.cut) + cut_attributes(call.cut_shadow, is_shadow=True)
    if call.engine_s is not None:
        values.append((semconv.ENGINE_SECONDS, call.engine_s))
    if call.engine_queue_s is not None:
        values.append((semconv.ENGINE_QUEUE_SECONDS, call.engine_queue_s))
    return values


def _parts(used: Usage) -> list[Attribute]:
    """Return which of the tokens have a price of their own."""
    parts: tuple[Attribute, ...] = (
        (semconv.USAGE_CACHE_READ_TOKENS, used.cache_read + used.cache_audio),
        (semconv.USAGE_CACHE_WRITE_TOKENS, used.cache_write + used.cache_write_1h),
        (semconv.CACHE_WRITE_1H_TOKENS, used.cache_write_1h),
        (semconv.AUDIO_INPUT_TOKENS, used.input_audio + used.cache_audio),
        (semconv.CACHED_AUDIO_TOKENS, used.cache_audio),
        (semconv.AUDIO_OUTPUT_TOKENS, used.output_audio),
    )
    return [part for part in parts if part[1]]


class Recorder:
    """Sends spans to the collector in the background."""

    def __init__(
        self, client: Client, collector_url: str, service: str, ingest_key: str = "", instance: str = ""
    ) -> None:
        self._client = client
        self._headers = (*_HEADERS, (semconv.HEADER_TENANT_KEY, ingest_key)) if ingest_key else _HEADERS
        self._url = f"{collector_url}/v1/traces"
        self._resource = (("service.name", service), (semconv.INSTANCE, instance))
        self._ended: list[Call] = []  # not encoded yet
        self._spans: deque[bytes] = deque()
        self._batch: list[bytes] = []  # under way; sent again unchanged, so that the collector knows a repeat
        self._is_stopping = False
        self._task: asyncio.Task[None] | None = None
        self.sent = self.dropped = 0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def put(self, call: Call) -> None:
        """Take a finished call; returns at once."""
        self._ended.append(call)
        if len(self._ended) >= _TOGETHER:
            self._encode()

    def add(self, span: bytes) -> None:
        """Take a span that is encoded already; returns at once."""
        if len(self._spans) < _KEPT:
            self._spans.append(span)
        else:
            self.dropped += 1

    def _encode(self) -> None:
        ended, self._ended = self._ended, []
        free = max(0, _KEPT - len(self._spans))
        self.dropped += len(ended[free:])
        self._spans.extend([encode_span(call) for call in ended[:free]])

    @property
    def waiting(self) -> int:
        return len(self._ended) + len(self._spans) + len(self._batch)

    async def stop(self, seconds: float) -> None:
        """Send what is held, at most for `seconds`; the rest is counted as dropped."""
        self._is_stopping = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if self._task is not None:
                    await self._task
                while self.waiting and await self._send():
                    pass
        self.dropped += self.waiting

    async def _run(self) -> None:
        while not self._is_stopping:
            await asyncio.sleep(_INTERVAL_S)
            while self.waiting and await self._send():
                pass

    async def _send(self) -> bool:
        """Send one batch; False = the collector is away, try later with the same spans."""
        self._encode()
        if not self._batch:
            self._batch = [self._spans.popleft() for _ in range(min(_BATCH, len(self._spans)))]
        body = otlp.traces(self._resource, semconv.PROXY_SCOPE, "1", self._batch)
        try:
            response = await self._client.request("POST", self._url, body, self._headers, _TIMEOUTS)
            answer = await response.read()
        except UpstreamError as error:
            log.debug("collector: %s", error)
            await asyncio.sleep(1.0)
            return False
        if response.status in (429, 502, 503, 504):
            await asyncio.sleep(1.0)
            return False
        batch, self._batch = self._batch, []
        if response.status == 200:
            self.sent += len(batch)
        else:
            self.dropped += len(batch)
            log.error("the collector refused %d spans: %d %s", len(batch), response.status, answer[:200])
        return True
