"""The SQL of the requests' view: spans that are model calls to normalised, priced rows.

It is generated from the alias table of `semconv`, so that a dialect is one line there and nothing here.

Planning it costs more than running it on ten thousand spans: some 45 µs a function and 35 µs a column of each step, in
every insert. What a step names is planned anew wherever the same step uses the name, so what is used more than once is
named a step before, or by `_let`; and a step hands on the span's attributes as they are instead of what is in them.
[91 ms an insert when each fact was a column from the first step on, 60 ms so, and 37 ms with the settings of `insert`]
"""
from __future__ import annotations

from farthing import semconv
from farthing.prices_public import PUBLIC_DOMAINS, names_of
from farthing.servers import AS_NAMED
from farthing.warehouse import dialects, price_rule
from farthing.warehouse.view import explode_spans


def _text(fact: str) -> str:
    """Return SQL for the first alias of `fact` that is set, or ''."""
    values = [f"a['{name}']" for name in semconv.ALIASES[fact]]
    return values[0] if len(values) == 1 else f"firstNonDefault({', '.join(values)})"


def _renamed(name: str, aliases: dict[str, str], default: str = "") -> str:
    """Return SQL of a name by which `aliases` knows it; of one that is not in it, `default`, or the name itself."""
    return f"transform({name}, {list(aliases)}, {list(aliases.values())}{default and ', ' + default})"


def _operation() -> str:
    """Return SQL for the canonical operation of a span's attributes `a`: one of a call's, `other` or `unknown`."""
    names = {name: name for name in semconv.INFERENCE_OPERATIONS} | semconv.OPERATION_ALIASES
    names |= dict.fromkeys(semconv.OTHER_OPERATIONS, "other")
    return _renamed(_text("operation"), names, f"'{semconv.UNKNOWN_OPERATION}'")


def _is_call(operation: str, has_usage: str, request_model: str, response_model: str) -> str:
    """Return SQL that tells whether a span is of one model call."""
    marks = ", ".join(f"a['{mark}']" for mark in semconv.OTHER_MARKS)
    return (
        f"{operation} != 'other' AND ({operation} != '{semconv.UNKNOWN_OPERATION}' OR ({has_usage} "
        f"AND concat({request_model}, {response_model}) != '' AND concat({marks}) = ''))"
    )


def _named_provider() -> str:
    return _renamed(f"lower({_text('provider')})", semconv.PROVIDER_ALIASES)


# The last two labels of a host name, which may stand in a URL
_LAST_LABELS = r"([a-zA-Z0-9-]+\\.[a-zA-Z0-9-]+)(?::[0-9]+)?(?:/|$)"


def _server(attribute: str) -> str:
    return f"dictGet('{{{{database}}}}.servers', '{attribute}', toUInt64(0))"


def _provider() -> str:
    """Return SQL for who bills a call: who the first rule that fits says (farthing.servers), else who the address says."""
    lines = "address, ServiceName, provider_told, request_model_told, response_model_told"
    fits = f"arrayFirstIndex(one -> match(concatWithSeparator('\\n', {lines}), one), {_server('patterns')})"
    return _let(
        f"multiIf(billed_by = '', {_by_address()}, billed_by = '{AS_NAMED}', provider_told, billed_by)",
        billed_by=f"arrayElement({_server('billed_by')}, {fits})",
    )


def _by_address() -> str:
    """Return SQL for who bills a call; a server at another address than the public provider's is somebody's own."""
    pairs = [(name, domain) for id, domains in PUBLIC_DOMAINS.items() for name in names_of(id) for domain in domains]
    domains = ", ".join(f"('{name}', '{domain}')" for name, domain in pairs)
    public = ", ".join(f"'{name}'" for name in dict(pairs))
    return (
        f"if(address = '' OR endsWith(address, concat('.', provider_told, '.com')) OR provider_told NOT IN ({public}) "
        f"OR (provider_told, extract(address, '{_LAST_LABELS}')) IN ({domains}), "
        f"provider_told, '{semconv.ELSEWHERE_PROVIDER}')"
    )


def _count(fact: str) -> str:
    return f"toUInt32OrNull({_text(fact)})"


def _part(fact: str) -> str:
    """Return SQL of a count that is a part of another one: none where the span does not say."""
    return f"toUInt32OrZero({_text(fact)})"


def _finite(key: str, kind: str = "Float64") -> str:
    """Return SQL of a number; NaN and infinities are NULL, because one of them would void every sum."""
    number = f"to{kind}OrNull({key})"
    return f"if(isFinite({number}), {number}, NULL)"


def _below(prefix: str, value: str) -> str:
    """Return SQL of the attributes whose names begin so, without that beginning."""
    return f"mapApply((k, v) -> (substring(k, {len(prefix) + 1}), {value}), mapExtractKeyLike(a, '{prefix}%'))"


def _let(body: str, **values: str) -> str:
    """Return `body` with names for values in it; an alias in their place would be planned wherever it is used."""
    arrays = ", ".join(f"[{value}]" for value in values.values())
    return f"arrayMap(({', '.join(values)}) -> {body}, {arrays})[1]"


# Spans of coding agents beside the log events that are billed (farthing/agents.py)
_OTHERS = "'claude_code.llm_request'"


def _told(source: str) -> str:
    """Return the SELECT of what each span says about what it means, under one name in any dialect."""
    return f"""SELECT
    SpanAttributes AS a, Timestamp AS started_at, ScopeName AS scope,
    Tenant, ServiceName, Duration, TraceId, SpanId, ParentSpanId, ReceivedAt,
    {dialects.kind()} AS kind,
    {_operation()} AS operation_told,
    {_named_provider()} AS provider_told, {_text("server_address")} AS address,
    {_text("request_model")} AS request_model_told, {_text("response_model")} AS response_model_told,
    {_count("input_tokens")} AS in_told, {_count("output_tokens")} AS out_told, {_count("total_tokens")} AS total_told,
    {_count("reasoning_tokens")} AS reasoning_told,
    {_part("cache_read_tokens")} AS cached_told, {_part("cache_write_tokens")} AS written_told,
    {_part("cache_write_1h_tokens")} AS written_1h_told, {_part("input_audio_tokens")} AS audio_told,
    {_part("cached_audio_tokens")} AS cached_audio_told,
    {dialects.zero_count()} AS zero_count, a['{semconv.USAGE_SOURCE}'] AS source_told,
    a['{semconv.OUTCOME}'] AS outcome_told, StatusCode = 'Error' AS failed, StatusCode = 'Unset' AS is_open,
    {_text("stream")} IN ('true', 'True') AS stream,
    trim(BOTH '[]"' FROM {_text("finish_reason")}) AS finish_reason,
    firstNonDefault({_text("error_type")}, `Events.Attributes`[indexOf(`Events.Name`, 'exception')]['exception.type']) AS error_told
FROM {source}
WHERE SpanName NOT IN ({_OTHERS})"""


_MEANT = (  # of what was told, that is not asked for again
    "kind, operation_told, provider_told, address, request_model_told, response_model_told, in_told, out_told, "
    "total_told, reasoning_told, zero_count, source_told, outcome_told, failed, is_open, error_told"
)


def _meant(told: str) -> str:
    """Return the SELECT of what those spans mean that are model calls, by who emitted them."""
    return f"""WITH
    cached_told + written_told AS parts_told, total_told - in_told - out_told AS surplus,
    {dialects.is_aborted()} AS is_aborted
SELECT * EXCEPT ({_MEANT}),
    {_provider()} AS provider,
    {dialects.model("request_model_told")} AS request_model, {dialects.model("response_model_told")} AS response_model,
    {dialects.operation("operation_told")} AS operation,
    {dialects.input_tokens()} AS input_tokens, {dialects.output_tokens()} AS output_tokens,
    {dialects.reasoning_tokens()} AS reasoning_tokens,
    {dialects.error_type()} AS error_type,
    multiIf(outcome_told != '', outcome_told, is_aborted, 'aborted', failed OR finish_reason = 'error', 'error', 'ok') AS outcome,
    multiIf(source_told != '' OR ifNull(in_told, 0) + ifNull(out_told, 0) = 0, source_told, {dialects.is_estimate()}, 'estimate', '') AS source_meant
FROM (
{told}
)
WHERE {_is_call("operation_told", "isNotNull(coalesce(in_told, out_told))", "request_model_told", "response_model_told")}"""


# The kinds of input of `farthing.tariff.Reported.usage`, which are disjoint and sum to it
_INPUT_KINDS = {
    "input_uncached": "room - used - fresh_heard",
    "cache_read_tokens": "cached - cached_heard",
    "cache_write_tokens": "used - cached - written_1h",
    "cache_write_1h_tokens": "written_1h",
    "input_audio_tokens": "fresh_heard",
    "cache_audio_tokens": "cached_heard",
}


def _input_kinds() -> str:
    """Return SQL of an array of those kinds; it has none, and with it each kind is NULL, where the input is not known."""
    room = "toInt64(assumeNotNull(input_tokens))"
    kinds = f"[toNullable({'), toNullable('.join(_INPUT_KINDS.values())})]"
    kinds = _let(
        kinds,
        fresh_heard="least(heard - cached_heard, room - used)",
        written_1h="least(written_1h_told, used - cached)",
    )
    kinds = _let(kinds, cached_heard="least(greatest(cached_audio_told, heard - (room - used)), cached, heard)")
    kinds = _let(kinds, used="least(cached + greatest(written_told, written_1h_told), room)")
    kinds = _let(kinds, room=room, cached=f"least(cached_told, {room})", heard=f"least(audio_told, {room})")
    return f"if(isNull(input_tokens), [], {kinds})"


_KINDS = {name: f"input_kinds[{n}]" for n, name in enumerate(_INPUT_KINDS, 1)} | {
    "output_audio_tokens": f"if(isNull(output_tokens), NULL, least({_part('output_audio_tokens')}, output_tokens))"
}


def normalise_requests(source: str = "otel_traces") -> str:
    """Return the SELECT that makes one `requests` row of each span in `source` that is a model call.

    A call is priced as the model that answered, else, where that has no price, as the model that was asked for.
    """
    priced = ", ".join(f"{expression} AS {name}" for name, expression in price_rule.COLUMNS.items())
    return f"""SELECT
    started_at, Tenant AS tenant,
    {_text("team")} AS team, {_text("user")} AS user, {_text("feature")} AS feature, {_text("session")} AS session,
    a['{semconv.KEY}'] AS api_key,
    {_below(semconv.TAG_PREFIX, "v")} AS tags, {_below(semconv.TOKENS_PREFIX, "toUInt32OrZero(v)")} AS tokens_cut,
    ServiceName AS service, scope, operation, provider, request_model, response_model,
    a['{semconv.ROUTED_FROM}'] AS routed_from, a['{semconv.DEPLOYMENT}'] AS deployment, service_tier,
    input_tokens, {", ".join(_KINDS)}, output_tokens, reasoning_tokens,
    multiIf(source_meant != '', source_meant, is_unknown, 'missing',
        scope = '{semconv.PROXY_SCOPE}' AND isNotNull(input_tokens), 'proxy', 'provider') AS usage_source,
    {priced},
    {price_rule.usd(f"toInt64OrNull(a['{semconv.SETTLED_NUSD}'])")} AS settled_usd,
    a['{semconv.BILLED}'] != 'false' AS billed, a['{semconv.UNBILLED_REASON}'] AS unbilled_reason,
    Duration / 1e9 AS duration_s, {_finite(_text("ttft_s"), "Float32")} AS ttft_s,
    {_finite(f"a['{semconv.ENGINE_SECONDS}']")} AS engine_s,
    {_finite(f"a['{semconv.ENGINE_QUEUE_SECONDS}']")} AS engine_queue_s,
    stream, {_finite("a['gen_ai.request.temperature']", "Float32")} AS temperature,
    cache_hit, toUInt32OrZero(a['{semconv.CACHE_SAVED_INPUT_TOKENS}']) AS saved_input_tokens, outcome, error_type, finish_reason,
    JSONExtract(a['{semconv.POLICIES}'], 'Array(LowCardinality(String))') AS policies,
    toUInt32OrZero(a['{semconv.POLICY_VERSION}']) AS policy_version,
    a['{semconv.REQUEST_ID}'] AS request_id, a['{semconv.REQUEST_HASH}'] AS request_hash,
    JSONExtract(a['{semconv.PREFIX_HASHES}'], 'Array(String)') AS prefix_hashes, {_text("response_id")} AS response_id,
    TraceId AS trace_id, SpanId AS span_id, ParentSpanId AS parent_span_id, ReceivedAt AS received_at
FROM (
    SELECT *,
        {price_rule.named(_KINDS)},
        {price_rule.named(price_rule.WORK_OUT)}
    FROM (
        SELECT *, a['{semconv.CACHE_HIT}'] AS cache_hit,
            {price_rule.service_tier(_text("service_tier"))} AS service_tier,
            {_input_kinds()} AS input_kinds,
            {price_rule.named(price_rule.LOOK_UP)}
        FROM (
{_meant(_told(source))}
        )
    )
)"""


def names(source: str) -> str:
    """Return the SELECT of the distinct (provider, model, whether it is a model call's) of the OTLP bodies of `source`.

    The provider is the one that is named, wherever the call went: the next one of that name may go to the provider.
    """
    models = ", ".join(dialects.model(_text(fact)) for fact in ("response_model", "request_model"))
    has_usage = f"concat({_text('input_tokens')}, {_text('output_tokens')}) != ''"
    is_call = _is_call(_operation(), has_usage, _text("request_model"), _text("response_model"))
    return f"""SELECT DISTINCT {_named_provider()} AS provider, arrayJoin([{models}]) AS model, {is_call} AS is_call
FROM (SELECT SpanAttributes AS a, ScopeName AS scope FROM ({explode_spans(source)}))"""
