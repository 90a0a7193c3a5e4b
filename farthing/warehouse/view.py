"""The SQL of the two materialized views: OTLP bodies to spans, spans to priced requests.

The second is generated from the alias table of `semconv`, so that a dialect is one line there and nothing here.
"""
from __future__ import annotations

import re

from farthing import semconv

_ANY = (
    "Tuple(string_value Nullable(String), bool_value Nullable(Bool), int_value Nullable(Int64), "
    "double_value Nullable(Float64), array_value Tuple(values Array(Tuple(string_value Nullable(String)))))"
)
_KV = f"Array(Tuple(key String, value {_ANY}))"
_EVENTS = f"Array(Tuple(time_unix_nano UInt64, name String, attributes {_KV}))"
_LINKS = f"Array(Tuple(trace_id String, span_id String, trace_state String, attributes {_KV}))"
_SPAN = (
    "Tuple(trace_id String, span_id String, trace_state String, parent_span_id String, name String, kind Int32, "
    f"start_time_unix_nano UInt64, end_time_unix_nano UInt64, attributes {_KV}, events {_EVENTS}, links {_LINKS}, "
    "status Tuple(message String, code Int32))"
)

OTLP_STRUCTURE = (
    f"resource_spans Array(Tuple(resource Tuple(attributes {_KV}), "
    f"scope_spans Array(Tuple(scope Tuple(name String, version String), spans Array({_SPAN}))))), "
    "farthing_tenant String, farthing_received_ms UInt64"
)


def _without_content(attributes: str) -> str:
    """Return SQL that drops the attributes whose keys say that they hold content."""
    pattern = "|".join(re.escape(prefix) for prefix in semconv.CONTENT_PREFIXES).replace("\\", "\\\\")
    return f"arrayFilter(kv -> NOT match(kv.key, '^(?:{pattern})'), {attributes})"


def _map(attributes: str) -> str:
    """Return SQL that turns a KeyValue array into a Map of texts."""

    def leaf(name: str) -> str:
        return f"tupleElement(tupleElement({attributes}, 'value'), '{name}')"

    arrays = f"tupleElement(tupleElement({leaf('array_value')}, 'values'), 'string_value')"
    return (
        f"CAST((tupleElement({attributes}, 'key'), arrayMap((s, i, d, b, a) -> multiIf("
        "isNotNull(s), assumeNotNull(s), isNotNull(i), toString(assumeNotNull(i)), "
        "isNotNull(d), toString(assumeNotNull(d)), isNotNull(b), if(assumeNotNull(b), 'true', 'false'), "
        f"toJSONString(a)), {leaf('string_value')}, {leaf('int_value')}, {leaf('double_value')}, "
        f"{leaf('bool_value')}, {arrays})), 'Map(LowCardinality(String), String)')"
    )


def explode_spans(source: str = "otlp_in") -> str:
    """Return the SELECT that makes one `otel_traces` row of each span in `source`."""
    return f"""SELECT
    fromUnixTimestamp64Nano(toInt64(s.start_time_unix_nano)) AS Timestamp,
    lower(hex(s.trace_id)) AS TraceId,
    lower(hex(s.span_id)) AS SpanId,
    lower(hex(s.parent_span_id)) AS ParentSpanId,
    s.trace_state AS TraceState,
    s.name AS SpanName,
    transform(s.kind, [1, 2, 3, 4, 5], ['Internal', 'Server', 'Client', 'Producer', 'Consumer'], 'Unspecified') AS SpanKind,
    ResourceAttributes['service.name'] AS ServiceName,
    ResourceAttributes,
    scope_name AS ScopeName,
    scope_version AS ScopeVersion,
    {_map("attributes")} AS SpanAttributes,
    greatest(s.end_time_unix_nano, s.start_time_unix_nano) - s.start_time_unix_nano AS Duration,
    transform(s.status.code, [1, 2], ['Ok', 'Error'], 'Unset') AS StatusCode,
    s.status.message AS StatusMessage,
    arrayMap(e -> fromUnixTimestamp64Nano(toInt64(e.time_unix_nano)), s.events) AS `Events.Timestamp`,
    tupleElement(s.events, 'name') AS `Events.Name`,
    arrayMap(e -> {_map(_without_content("e.attributes"))}, s.events) AS `Events.Attributes`,
    arrayMap(l -> lower(hex(l.trace_id)), s.links) AS `Links.TraceId`,
    arrayMap(l -> lower(hex(l.span_id)), s.links) AS `Links.SpanId`,
    tupleElement(s.links, 'trace_state') AS `Links.TraceState`,
    arrayMap(l -> {_map("l.attributes")}, s.links) AS `Links.Attributes`,
    tenant AS Tenant,
    fromUnixTimestamp64Milli(toInt64(received_ms)) AS ReceivedAt
FROM (
    SELECT tenant, received_ms, ResourceAttributes, ss.scope.name AS scope_name, ss.scope.version AS scope_version,
        arrayJoin(ss.spans) AS s, {_without_content("s.attributes")} AS attributes
    FROM (
        SELECT tenant, received_ms, {_map("rs.resource.attributes")} AS ResourceAttributes, arrayJoin(rs.scope_spans) AS ss
        FROM (
            SELECT farthing_tenant AS tenant, farthing_received_ms AS received_ms, arrayJoin(resource_spans) AS rs
            FROM {source}
        )
    )
)"""


def _text(fact: str) -> str:
    """Return SQL for the first alias of `fact` that is set, or ''."""
    names = semconv.ALIASES[fact]
    if len(names) == 1:
        return f"a['{names[0]}']"
    pairs = "".join(f"a['{name}'] != '', a['{name}'], " for name in names[:-1])
    return f"multiIf({pairs}a['{names[-1]}'])"


def operation() -> str:
    """Return SQL for the canonical operation name of a span's attributes `a`."""
    olds = ", ".join(f"'{name}'" for name in semconv.OPERATION_ALIASES)
    news = ", ".join(f"'{name}'" for name in semconv.OPERATION_ALIASES.values())
    return f"transform({_text('operation')}, [{olds}], [{news}], {_text('operation')})"


def provider() -> str:
    return f"lower({_text('provider')})"


def _count(fact: str) -> str:
    return f"toUInt32OrNull({_text(fact)})"


def _price(kind: str) -> str:
    plain, tier = f"price.{kind}", f"price.tier_{kind}"
    return f"toInt128(if(price.tier_over > 0 AND total_in > price.tier_over, {tier}, {plain}))"


def normalise_requests(source: str = "otel_traces") -> str:
    """Return the SELECT that makes one `requests` row of each span in `source` that is a model call.

    A call is priced as the model that answered, else, where that has no price, as the model that was asked for.
    Prices by the rule of `farthing.money.cost_nusd`: exact sum of token products, rounded half up once.
    """
    operations = ", ".join(f"'{name}'" for name in semconv.INFERENCE_OPERATIONS)
    kinds = "'input', 'cache_read', 'cache_write', 'output', 'tier_over', " \
        "'tier_input', 'tier_cache_read', 'tier_cache_write', 'tier_output', 'version'"
    prefix = semconv.TAG_PREFIX

    def lookup(model: str) -> str:
        return (
            f"dictGetOrDefault('{{{{database}}}}.prices', ({kinds}), (provider, {model}), toDate32(started_at, 'UTC'), "
            "tuple(0, 0, 0, 0, 0, 0, 0, 0, 0, ''))"
        )

    return f"""SELECT
    started_at, tenant, team, user, feature, session, tags, service, scope, operation, provider,
    model, request_model, response_model, routed_from, deployment,
    total_in AS input_tokens, uncached AS input_uncached,
    if(isNull(total_in), NULL, cache_read) AS cache_read_tokens,
    if(isNull(total_in), NULL, cache_write) AS cache_write_tokens,
    total_out AS output_tokens, reasoning AS reasoning_tokens,
    multiIf(source_given != '', source_given, isNull(total_in) AND isNull(total_out), 'missing', 'provider') AS usage_source,
    multiIf(cache_hit != '' OR outcome = 'refused', toDecimal64(0, 9), isNull(nusd), NULL, toDecimal64(toDecimal128(nusd, 9) / 1000000000, 9))
        AS cost_usd,
    if(cache_hit != '' AND isNotNull(nusd), toDecimal64(toDecimal128(nusd, 9) / 1000000000, 9), NULL) AS saved_usd,
    multiIf(cache_hit != '', 'cached', outcome = 'refused', 'refused', isNull(total_in) AND isNull(total_out), 'no_usage', price.version = '', 'unpriced',
        'priced') AS price_state,
    price.version AS price_version,
    if(settled = '', NULL, toDecimal64(toDecimal128(settled, 9) / 1000000000, 9)) AS settled_usd,
    billed, unbilled_reason, duration_s, ttft_s, engine_s, engine_queue_s, stream, temperature, cache_hit, outcome,
    error_type, finish_reason, policies, policy_version, request_id, request_hash, prefix_hashes, response_id,
    trace_id, span_id, parent_span_id, received_at
FROM (
    SELECT *,
        if(isNull(total_in), NULL, greatest(toInt64(total_in) - cache_read - cache_write, 0)) AS uncached,
        {lookup("response_model")} AS answered_price,
        if(answered_price.version = '', {lookup("request_model")}, answered_price) AS price,
        if(answered_price.version != '' OR (price.version = '' AND response_model != ''), response_model, request_model)
            AS model,
        if(price.version = '' OR (isNull(total_in) AND isNull(total_out)), NULL, intDiv(
            toInt128(ifNull(uncached, 0)) * {_price("input")} + toInt128(cache_read) * {_price("cache_read")}
            + toInt128(cache_write) * {_price("cache_write")} + toInt128(ifNull(total_out, 0)) * {_price("output")}
            + 500000, 1000000)) AS nusd
    FROM (
        SELECT
            SpanAttributes AS a,
            Timestamp AS started_at, Tenant AS tenant,
            {_text("team")} AS team, {_text("user")} AS user, {_text("feature")} AS feature, {_text("session")} AS session,
            mapApply((k, v) -> (substring(k, {len(prefix) + 1}), v), mapFilter((k, v) -> startsWith(k, '{prefix}'), a)) AS tags,
            ServiceName AS service, ScopeName AS scope,
            {operation()} AS operation, {provider()} AS provider,
            {_text("request_model")} AS request_model, {_text("response_model")} AS response_model,
            a['{semconv.ROUTED_FROM}'] AS routed_from, a['{semconv.DEPLOYMENT}'] AS deployment,
            {_count("input_tokens")} AS total_in, {_count("output_tokens")} AS total_out,
            least(ifNull({_count("cache_read_tokens")}, 0), ifNull(total_in, 0)) AS cache_read,
            least(ifNull({_count("cache_write_tokens")}, 0), ifNull(total_in, 0) - cache_read) AS cache_write,
            {_count("reasoning_tokens")} AS reasoning,
            if(scope = '{semconv.PROXY_SCOPE}' AND a['{semconv.USAGE_SOURCE}'] = '' AND isNotNull(total_in), 'proxy',
                a['{semconv.USAGE_SOURCE}']) AS source_given,
            a['{semconv.SETTLED_NUSD}'] AS settled,
            a['{semconv.BILLED}'] != 'false' AS billed, a['{semconv.UNBILLED_REASON}'] AS unbilled_reason,
            Duration / 1e9 AS duration_s, toFloat32OrNull({_text("ttft_s")}) AS ttft_s,
            toFloat64OrNull(a['{semconv.ENGINE_SECONDS}']) AS engine_s,
            toFloat64OrNull(a['{semconv.ENGINE_QUEUE_SECONDS}']) AS engine_queue_s,
            {_text("stream")} = 'true' AS stream,
            toFloat32OrNull(a['gen_ai.request.temperature']) AS temperature,
            a['{semconv.CACHE_HIT}'] AS cache_hit,
            if(a['{semconv.OUTCOME}'] != '', a['{semconv.OUTCOME}'], if(StatusCode = 'Error', 'error', 'ok')) AS outcome,
            {_text("error_type")} AS error_type,
            trim(BOTH '[]"' FROM {_text("finish_reason")}) AS finish_reason,
            JSONExtract(a['{semconv.POLICIES}'], 'Array(LowCardinality(String))') AS policies,
            toUInt32OrZero(a['{semconv.POLICY_VERSION}']) AS policy_version,
            a['{semconv.REQUEST_ID}'] AS request_id, a['{semconv.REQUEST_HASH}'] AS request_hash,
            JSONExtract(a['{semconv.PREFIX_HASHES}'], 'Array(String)') AS prefix_hashes,
            {_text("response_id")} AS response_id,
            TraceId AS trace_id, SpanId AS span_id, ParentSpanId AS parent_span_id, ReceivedAt AS received_at
        FROM {source}
        WHERE operation IN ({operations})
    )
)"""


def unseen_models(source: str) -> str:
    """Return the SELECT of the distinct (provider, model) that the model calls name in the OTLP bodies of `source`."""
    operations = ", ".join(f"'{name}'" for name in semconv.INFERENCE_OPERATIONS)
    return f"""SELECT DISTINCT {provider()} AS provider, arrayJoin([{_text("response_model")}, {_text("request_model")}]) AS model
FROM (SELECT SpanAttributes AS a FROM ({explode_spans(source)}))
WHERE {operation()} IN ({operations}) AND model != ''"""
