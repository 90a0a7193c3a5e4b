"""The SQL of the two materialized views: OTLP bodies to spans, spans to priced requests.

The second is generated from the alias table of `semconv`, so that a dialect is one line there and nothing here.
"""
from __future__ import annotations

from farthing import semconv
from farthing.prices_public import PUBLIC_DOMAINS, names_of
from farthing.warehouse import dialects, price_rule

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


def _time(nanoseconds: str) -> str:
    """Return SQL of a time; a claim past what the type can hold (year 2262) becomes its end."""
    return f"fromUnixTimestamp64Nano(toInt64(least({nanoseconds}, 9223372036854775807)))"


def explode_spans(source: str = "otlp_in") -> str:
    """Return the SELECT that makes one `otel_traces` row of each span in `source`.

    A span that names no start is booked when it was received. Every step hands plain columns to the next, because
    planning with the nested type of a whole span costs more than the work itself. [25 ms -> 15 ms an insert]
    """
    fields = ("trace_id", "span_id", "parent_span_id", "trace_state", "name", "kind", "events", "links", "status")
    columns = ", ".join(f"tupleElement(s, '{name}') AS {name}" for name in fields)
    return f"""SELECT
    if(started = 0, ReceivedAt, {_time("started")}) AS Timestamp,
    lower(hex(trace_id)) AS TraceId,
    lower(hex(span_id)) AS SpanId,
    lower(hex(parent_span_id)) AS ParentSpanId,
    trace_state AS TraceState,
    name AS SpanName,
    transform(kind, [1, 2, 3, 4, 5], ['Internal', 'Server', 'Client', 'Producer', 'Consumer'], 'Unspecified') AS SpanKind,
    ResourceAttributes['service.name'] AS ServiceName,
    ResourceAttributes,
    scope_name AS ScopeName,
    scope_version AS ScopeVersion,
    {_map("attributes")} AS SpanAttributes,
    if(started = 0, 0, greatest(ended, started) - started) AS Duration,
    transform(tupleElement(status, 'code'), [1, 2], ['Ok', 'Error'], 'Unset') AS StatusCode,
    tupleElement(status, 'message') AS StatusMessage,
    arrayMap(t -> {_time("t")}, tupleElement(events, 'time_unix_nano')) AS `Events.Timestamp`,
    tupleElement(events, 'name') AS `Events.Name`,
    arrayMap(attributes -> {_map("attributes")}, tupleElement(events, 'attributes')) AS `Events.Attributes`,
    arrayMap(id -> lower(hex(id)), tupleElement(links, 'trace_id')) AS `Links.TraceId`,
    arrayMap(id -> lower(hex(id)), tupleElement(links, 'span_id')) AS `Links.SpanId`,
    tupleElement(links, 'trace_state') AS `Links.TraceState`,
    arrayMap(attributes -> {_map("attributes")}, tupleElement(links, 'attributes')) AS `Links.Attributes`,
    tenant AS Tenant,
    ReceivedAt
FROM (
    SELECT tenant, ReceivedAt, ResourceAttributes, scope_name, scope_version, {columns},
        tupleElement(s, 'start_time_unix_nano') AS started, tupleElement(s, 'end_time_unix_nano') AS ended,
        tupleElement(s, 'attributes') AS attributes
    FROM (
        SELECT tenant, ReceivedAt, ResourceAttributes, tupleElement(tupleElement(ss, 'scope'), 'name') AS scope_name,
            tupleElement(tupleElement(ss, 'scope'), 'version') AS scope_version, arrayJoin(tupleElement(ss, 'spans')) AS s
        FROM (
            SELECT tenant, ReceivedAt, {_map("attributes")} AS ResourceAttributes, arrayJoin(scope_spans) AS ss
            FROM (
                SELECT tenant, ReceivedAt, tupleElement(rs, 'scope_spans') AS scope_spans,
                    tupleElement(tupleElement(rs, 'resource'), 'attributes') AS attributes
                FROM (
                    SELECT farthing_tenant AS tenant, arrayJoin(resource_spans) AS rs,
                        fromUnixTimestamp64Milli(toInt64(farthing_received_ms)) AS ReceivedAt
                    FROM {source}
                )
            )
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


def _renamed(name: str, aliases: dict[str, str], default: str = "") -> str:
    """Return SQL of a name by which `aliases` knows it; of one that is not in it, `default`, or the name itself."""
    return f"transform({name}, {list(aliases)}, {list(aliases.values())}{default and ', ' + default})"


def operation() -> str:
    """Return SQL for the canonical operation of a span's attributes `a`: one of a call's, `other` or `unknown`."""
    names = {name: name for name in semconv.INFERENCE_OPERATIONS} | semconv.OPERATION_ALIASES
    names |= dict.fromkeys(semconv.OTHER_OPERATIONS, "other")
    return _renamed(_text("operation"), names, f"'{semconv.UNKNOWN_OPERATION}'")


def is_call() -> str:
    """Return SQL that tells whether a span's attributes `a` are of one model call."""
    has_usage = f"concat({_text('input_tokens')}, {_text('output_tokens')}) != ''"
    return _is_call(operation(), has_usage, _text("request_model"), _text("response_model"))


def _is_call(operation: str, has_usage: str, request_model: str, response_model: str) -> str:
    marks = ", ".join(f"a['{mark}']" for mark in semconv.OTHER_MARKS)
    return (
        f"{operation} != 'other' AND ({operation} != '{semconv.UNKNOWN_OPERATION}' OR ({has_usage} "
        f"AND concat({request_model}, {response_model}) != '' AND concat({marks}) = ''))"
    )


def _named_provider() -> str:
    return _renamed(f"lower({_text('provider')})", semconv.PROVIDER_ALIASES)


# The last two labels of a host name, which may stand in a URL
_LAST_LABELS = r"([a-zA-Z0-9-]+\\.[a-zA-Z0-9-]+)(?::[0-9]+)?(?:/|$)"


def provider() -> str:
    """Return SQL for who bills a call; a server at another address than the public provider's is somebody's own."""
    pairs = [(name, domain) for id, domains in PUBLIC_DOMAINS.items() for name in names_of(id) for domain in domains]
    domains = ", ".join(f"('{name}', '{domain}')" for name, domain in pairs)
    public = ", ".join(f"'{name}'" for name in dict(pairs))
    return (
        f"if(({_text('server_address')} AS address) = '' "
        f"OR endsWith(address, concat('.', {_named_provider()} AS told, '.com')) OR told NOT IN ({public}) "
        f"OR (told, extract(address, '{_LAST_LABELS}')) IN ({domains}), told, '{semconv.ELSEWHERE_PROVIDER}')"
    )


def _count(fact: str) -> str:
    return f"toUInt32OrNull({_text(fact)})"


def _finite(key: str, kind: str = "Float64") -> str:
    """Return SQL of a number; NaN and infinities are NULL, because one of them would void every sum."""
    number = f"to{kind}OrNull({key})"
    return f"if(isFinite({number}), {number}, NULL)"


def _facts(source: str) -> str:
    """Return the SELECT of what a model call's span means, in any dialect.

    What the span says stands in a step of its own, because what is used twice in the step that names it is planned twice.
    """
    return f"""SELECT * EXCEPT ({_GIVEN}),
    total_given - in_given - out_given AS surplus, cached_given + written_given AS parts_given,
    {dialects.model("request_model_given")} AS request_model, {dialects.model("response_model_given")} AS response_model,
    {dialects.operation("operation_given")} AS operation,
    {dialects.is_beside()} AS is_beside, {dialects.input_tokens()} AS total_in,
    {dialects.reasoning_tokens()} AS reasoning, {dialects.output_tokens()} AS total_out,
    {dialects.error_type()} AS error_type, {dialects.is_aborted()} AS is_aborted,
    multiIf(outcome_said != '', outcome_said, is_aborted, 'aborted', failed OR finish_reason = 'error', 'error', 'ok') AS outcome,
    multiIf(source_said != '' OR ifNull(in_given, 0) + ifNull(out_given, 0) = 0, source_said, {dialects.is_estimate()},
        'estimate', '') AS source_given
FROM (
{_given(source)}
)
WHERE {_is_call("operation_given", "isNotNull(coalesce(in_given, out_given))", "request_model_given", "response_model_given")}"""


_GIVEN = (
    "a, kind, operation_given, request_model_given, response_model_given, in_given, out_given, total_given, "
    "reasoning_given, zero_count, outcome_said, source_said, failed, is_open, error_given, error_any"
)


# Spans of coding agents beside the log events that are billed (farthing/agents.py)
_OTHERS = "'claude_code.llm_request'"


def _given(source: str) -> str:
    """Return the SELECT of what each span says, under one name in any dialect."""
    prefix, cut = semconv.TAG_PREFIX, semconv.TOKENS_PREFIX
    return f"""SELECT
    SpanAttributes AS a,
    Timestamp AS started_at, Tenant AS tenant,
    {_text("team")} AS team, {_text("user")} AS user, {_text("feature")} AS feature, {_text("session")} AS session,
    mapApply((k, v) -> (substring(k, {len(prefix) + 1}), v), mapFilter((k, v) -> startsWith(k, '{prefix}'), a)) AS tags,
    mapApply((k, v) -> (substring(k, {len(cut) + 1}), toUInt32OrZero(v)), mapFilter((k, v) -> startsWith(k, '{cut}'), a)) AS tokens_cut,
    ServiceName AS service, ScopeName AS scope, {dialects.kind()} AS kind,
    {operation()} AS operation_given, {provider()} AS provider,
    {_text("request_model")} AS request_model_given, {_text("response_model")} AS response_model_given,
    a['{semconv.ROUTED_FROM}'] AS routed_from, a['{semconv.DEPLOYMENT}'] AS deployment,
    {_count("input_tokens")} AS in_given, {_count("output_tokens")} AS out_given, {_count("total_tokens")} AS total_given,
    toUInt32OrZero({_text("cache_read_tokens")}) AS cached_given, toUInt32OrZero({_text("cache_write_tokens")}) AS written_given,
    {_count("cache_write_1h_tokens")} AS write_1h_given, {_count("input_audio_tokens")} AS audio_given,
    {_count("cached_audio_tokens")} AS cached_audio_given, {_count("output_audio_tokens")} AS audio_out_given,
    {price_rule.service_tier(_text("service_tier"))} AS service_tier,
    {_count("reasoning_tokens")} AS reasoning_given, {dialects.zero_count()} AS zero_count,
    a['{semconv.USAGE_SOURCE}'] AS source_said,
    toInt64OrNull(a['{semconv.SETTLED_NUSD}']) AS settled,
    a['{semconv.BILLED}'] != 'false' AS billed, a['{semconv.UNBILLED_REASON}'] AS unbilled_reason,
    Duration / 1e9 AS duration_s, {_finite(_text("ttft_s"), "Float32")} AS ttft_s,
    {_finite(f"a['{semconv.ENGINE_SECONDS}']")} AS engine_s,
    {_finite(f"a['{semconv.ENGINE_QUEUE_SECONDS}']")} AS engine_queue_s,
    {_text("stream")} IN ('true', 'True') AS stream,
    {_finite("a['gen_ai.request.temperature']", "Float32")} AS temperature,
    a['{semconv.CACHE_HIT}'] AS cache_hit,
    toUInt32OrZero(a['{semconv.CACHE_SAVED_INPUT_TOKENS}']) AS saved_input_tokens,
    a['{semconv.OUTCOME}'] AS outcome_said, StatusCode = 'Error' AS failed, StatusCode = 'Unset' AS is_open,
    {_text("error_type")} AS error_given,
    if(error_given != '', error_given, `Events.Attributes`[indexOf(`Events.Name`, 'exception')]['exception.type']) AS error_any,
    trim(BOTH '[]"' FROM {_text("finish_reason")}) AS finish_reason,
    JSONExtract(a['{semconv.POLICIES}'], 'Array(LowCardinality(String))') AS policies,
    toUInt32OrZero(a['{semconv.POLICY_VERSION}']) AS policy_version,
    a['{semconv.REQUEST_ID}'] AS request_id, a['{semconv.REQUEST_HASH}'] AS request_hash,
    JSONExtract(a['{semconv.PREFIX_HASHES}'], 'Array(String)') AS prefix_hashes,
    {_text("response_id")} AS response_id,
    TraceId AS trace_id, SpanId AS span_id, ParentSpanId AS parent_span_id, ReceivedAt AS received_at
FROM {source}
WHERE SpanName NOT IN ({_OTHERS})"""


# The disjoint kinds of `farthing.tariff.Reported.usage`, from totals and parts as they were told
_KINDS = {
    "input_tokens": "total_in",
    "output_tokens": "total_out",
    "is_plain": "isNull(coalesce(write_1h_given, audio_given, cached_audio_given))",
    "room": "toInt64(ifNull(total_in, 0))",
    "cached": "least(ifNull(cached_given, 0), room)",
    "written": "least(greatest(ifNull(written_given, 0), ifNull(write_1h_given, 0)), room - cached)",
    "rest": "room - cached - written",
    "heard": "if(is_plain, 0, least(ifNull(audio_given, 0), room))",
    "cached_heard": "if(is_plain, 0, least(greatest(ifNull(cached_audio_given, 0), heard - rest), cached, heard))",
    "fresh_heard": "if(is_plain, 0, least(heard - cached_heard, rest))",
    "written_1h": "if(is_plain, 0, least(ifNull(write_1h_given, 0), written))",
    "input_uncached": "if(isNull(total_in), NULL, rest - fresh_heard)",
    "cache_read_tokens": "if(isNull(total_in), NULL, cached - cached_heard)",
    "cache_write_tokens": "if(isNull(total_in), NULL, written - written_1h)",
    "cache_write_1h_tokens": "if(isNull(total_in), NULL, written_1h)",
    "input_audio_tokens": "if(isNull(total_in), NULL, fresh_heard)",
    "cache_audio_tokens": "if(isNull(total_in), NULL, cached_heard)",
    "output_audio_tokens": "if(isNull(total_out), NULL, least(ifNull(audio_out_given, 0), total_out))",
}
_PRICED = ", ".join(f"{expression} AS {name}" for name, expression in price_rule.COLUMNS.items() if name != "model")


def normalise_requests(source: str = "otel_traces") -> str:
    """Return the SELECT that makes one `requests` row of each span in `source` that is a model call.

    A call is priced as the model that answered, else, where that has no price, as the model that was asked for.
    A step names what the next ones use more than once, because an expression is planned anew wherever it stands
    (50 µs a function), but each step costs 3 ms of planning itself: more of them made it slower.
    [57 ms with six, 30 ms with three an insert]
    """
    return f"""SELECT
    started_at, tenant, team, user, feature, session, tags, service, scope, operation, provider,
    priced_model AS model, request_model, response_model, routed_from, deployment, service_tier,
    input_tokens, input_uncached, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, input_audio_tokens,
    cache_audio_tokens, output_tokens, output_audio_tokens, tokens_cut, reasoning AS reasoning_tokens,
    multiIf(source_given != '', source_given, is_unknown, 'missing',
        scope = '{semconv.PROXY_SCOPE}' AND isNotNull(total_in), 'proxy', 'provider') AS usage_source,
    {_PRICED},
    {price_rule.usd("settled")} AS settled_usd,
    billed, unbilled_reason, duration_s, ttft_s, engine_s, engine_queue_s, stream, temperature, cache_hit, saved_input_tokens,
    outcome,
    error_type, finish_reason, policies, policy_version, request_id, request_hash, prefix_hashes, response_id,
    trace_id, span_id, parent_span_id, received_at
FROM (
    SELECT *,
        {price_rule.named(price_rule.WORK_OUT)}
    FROM (
        SELECT *,
        {price_rule.named(_KINDS)},
        {price_rule.named(price_rule.LOOK_UP)}
        FROM (
{_facts(source)}
        )
    )
)"""


def unseen_models(source: str) -> str:
    """Return the SELECT of the distinct (provider, model) that the model calls name in the OTLP bodies of `source`.

    The provider is the one that is named, wherever the call went: the next one of that name may go to the provider.
    """
    models = ", ".join(dialects.model(_text(fact)) for fact in ("response_model", "request_model"))
    return f"""SELECT DISTINCT {_named_provider()} AS provider, arrayJoin([{models}]) AS model
FROM (SELECT SpanAttributes AS a, ScopeName AS scope FROM ({explode_spans(source)}))
WHERE {is_call()} AND model != ''"""
