"""The SQL of the logs' views: OTLP bodies to log records, and events that stand for a model call to priced requests.

Such an event is first written as the span that the agent did not send, so that one rule normalises and prices both.
"""
from __future__ import annotations

from collections.abc import Callable

from farthing import semconv
from farthing.agents import AGENT_CALLS, AgentCall
from farthing.warehouse.view import (
    _KV,  # pyright: ignore[reportPrivateUsage] - one way to read OTLP values
    _map,  # pyright: ignore[reportPrivateUsage]
    _time,  # pyright: ignore[reportPrivateUsage]
)
from farthing.warehouse.view_requests import normalise_requests

_RECORD = (
    "Tuple(time_unix_nano UInt64, observed_time_unix_nano UInt64, severity_number Int32, severity_text String, "
    f"body Tuple(string_value String), attributes {_KV}, flags UInt32, trace_id String, span_id String, "
    "event_name String)"
)
LOGS_STRUCTURE = (
    f"resource_logs Array(Tuple(resource Tuple(attributes {_KV}), schema_url String, "
    f"scope_logs Array(Tuple(scope Tuple(name String, version String, attributes {_KV}), schema_url String, "
    f"log_records Array({_RECORD}))))), farthing_tenant String, farthing_received_ms UInt64"
)


def _of(holder: str, *names: str) -> str:
    for name in names:
        holder = f"tupleElement({holder}, '{name}')"
    return holder


def explode_logs(source: str = "otlp_logs_in") -> str:
    """Return the SELECT that makes one `otel_logs` row of each log record in `source`."""
    fields = ("trace_id", "span_id", "flags", "severity_text", "severity_number", "event_name", "attributes")
    outer = "Tenant, ReceivedAt, ResourceAttributes, ResourceSchemaUrl"
    return f"""SELECT
    multiIf(timed != 0, {_time("timed")}, observed != 0, {_time("observed")}, ReceivedAt) AS Timestamp,
    toDateTime(Timestamp) AS TimestampTime,
    lower(hex(trace_id)) AS TraceId,
    lower(hex(span_id)) AS SpanId,
    toUInt8(bitAnd(flags, 255)) AS TraceFlags,
    severity_text AS SeverityText,
    toUInt8(greatest(0, least(severity_number, 255))) AS SeverityNumber,
    ResourceAttributes['service.name'] AS ServiceName,
    body AS Body,
    ResourceSchemaUrl, ResourceAttributes, ScopeSchemaUrl, ScopeName, ScopeVersion, ScopeAttributes,
    {_map("attributes")} AS LogAttributes,
    event_name AS EventName,
    Tenant, ReceivedAt
FROM (
    SELECT {outer}, ScopeSchemaUrl, ScopeName, ScopeVersion, ScopeAttributes,
        {", ".join(f"{_of('r', one)} AS {one}" for one in fields)},
        {_of("r", "time_unix_nano")} AS timed, {_of("r", "observed_time_unix_nano")} AS observed,
        {_of("r", "body", "string_value")} AS body
    FROM (
        SELECT {outer}, {_of("sl", "schema_url")} AS ScopeSchemaUrl, {_of("sl", "scope", "name")} AS ScopeName,
            {_of("sl", "scope", "version")} AS ScopeVersion, {_map("scope_kv")} AS ScopeAttributes,
            {_of("sl", "scope", "attributes")} AS scope_kv, arrayJoin({_of("sl", "log_records")}) AS r
        FROM (
            SELECT Tenant, ReceivedAt, {_map("resource_kv")} AS ResourceAttributes, ResourceSchemaUrl,
                arrayJoin(scope_logs) AS sl
            FROM (
                SELECT farthing_tenant AS Tenant, fromUnixTimestamp64Milli(toInt64(farthing_received_ms)) AS ReceivedAt,
                    arrayJoin(resource_logs) AS rl, {_of("rl", "resource", "attributes")} AS resource_kv,
                    {_of("rl", "schema_url")} AS ResourceSchemaUrl, {_of("rl", "scope_logs")} AS scope_logs
                FROM {source}
            )
        )
    )
)"""


def agent_calls(source: str = "otel_logs") -> str:
    """Return the SELECT that writes each event of `source` that stands for a model call as a row of `otel_traces`.

    An event carries the ids of the span that was under way, if any, which are not its own: the calls of one turn share
    them. So its own is made of all that it says, and is the same when it is sent again.
    """
    texts = {
        semconv.OPERATION_NAME: "'chat'",
        semconv.PROVIDER_NAME: _by_event(lambda call: f"'{call.provider}'"),
        semconv.RESPONSE_MODEL: "l['model']",
        semconv.USAGE_INPUT_TOKENS: _by_event(lambda call: _total(call.input)),
        semconv.USAGE_OUTPUT_TOKENS: _by_event(lambda call: _total(call.output)),
        semconv.USAGE_CACHE_READ_TOKENS: _by_event(lambda call: _count(call.cache_read)),
        semconv.USAGE_CACHE_WRITE_TOKENS: _by_event(lambda call: _count(call.cache_write)),
        semconv.USAGE_REASONING_TOKENS: _by_event(lambda call: _count(call.reasoning)),
        semconv.RESPONSE_TTFC: _by_event(lambda call: _seconds(call.ttft_ms)),
        semconv.USER: _by_event(lambda call: _first(*call.users)),
        semconv.SESSION: _by_event(lambda call: _first(*call.session)),
        semconv.REQUEST_ID: _by_event(lambda call: _first(call.request_id) if call.request_id else "''"),
    }
    pairs = ", ".join(f"'{key}', {text}" for key, text in texts.items())
    said = "EventName, ended, TraceId, SpanId, toString(ResourceAttributes), toString(LogAttributes)"
    duration_ns = "toUInt64(1e6 * least(ifNull(greatest(toFloat64OrNull(l['duration_ms']), 0), 0), 1e9))"
    return f"""SELECT
    fromUnixTimestamp64Nano(greatest(toUnixTimestamp64Nano(ended) - toInt64(duration_ns), 0)) AS Timestamp,
    TraceId, own_id AS SpanId, logs_span AS ParentSpanId, '' AS TraceState, EventName AS SpanName, 'Client' AS SpanKind,
    ServiceName, ResourceAttributes, ScopeName, ScopeVersion, duration_ns AS Duration,
    'Unset' AS StatusCode, '' AS StatusMessage,
    CAST([], 'Array(DateTime64(9))') AS `Events.Timestamp`, CAST([], 'Array(String)') AS `Events.Name`,
    CAST([], 'Array(Map(String, String))') AS `Events.Attributes`,
    mapUpdate(
        mapFilter((k, v) -> startsWith(k, 'farthing.'), mapUpdate(attributes_of_resource, l)),
        mapFilter((k, v) -> v != '', map({pairs}))
    ) AS SpanAttributes,
    Tenant, ReceivedAt
FROM (
    SELECT * EXCEPT (SpanId), SpanId AS logs_span, lower(leftPad(hex(cityHash64({said})), 16, '0')) AS own_id,
        CAST(LogAttributes, 'Map(String, String)') AS l,
        CAST(ResourceAttributes, 'Map(String, String)') AS attributes_of_resource,
        toDateTime64(logs.Timestamp, 9) AS ended, {duration_ns} AS duration_ns
    FROM {source} AS logs
    WHERE {_condition()}
)"""


def normalise_agent_calls(source: str = "otel_logs") -> str:
    """Return the SELECT that makes one `requests` row of each event in `source` that stands for a model call."""
    return normalise_requests(f"({agent_calls(source)})")


def names_of_agents(source: str) -> str:
    """Return the SELECT of the distinct (provider, model, 1) that such events name in the OTLP bodies of `source`."""
    provider = _by_event(lambda call: f"'{call.provider}'")
    return f"""SELECT DISTINCT {provider} AS provider, LogAttributes['model'] AS model, 1 AS is_call
FROM ({explode_logs(source)})
WHERE {_condition("LogAttributes")}"""


def _condition(attributes: str = "LogAttributes") -> str:
    """Return SQL that tells the events that stand for a model call."""
    return "(" + " OR ".join(_is_call(call, attributes) for call in AGENT_CALLS) + ")"


def _is_call(call: AgentCall, attributes: str) -> str:
    only = f" AND {attributes}['{call.only[0]}'] = '{call.only[1]}'" if call.only else ""
    return f"(EventName = '{call.event}'{only})"


def _by_event(sql: Callable[[AgentCall], str]) -> str:
    """Return SQL that differs by event."""
    cases = "".join(f"EventName = '{call.event}', {sql(call)}, " for call in AGENT_CALLS)
    return f"multiIf({cases}'')"


def _count(key: str) -> str:
    return f"ifNull(toString({_number(key)}), '')" if key else "''"


def _total(keys: tuple[str, ...]) -> str:
    """Return SQL of the sum of counts, as a text; '' where the first is missing, because then nobody reported usage."""
    parts = [_number(keys[0]), *(f"ifNull({_number(key)}, 0)" for key in keys[1:])]
    return f"ifNull(toString({' + '.join(parts)}), '')"


def _number(key: str) -> str:
    return f"toUInt32OrNull(l['{key}'])"


def _seconds(key: str) -> str:
    return f"ifNull(toString(toFloat64OrNull(l['{key}']) / 1000), '')" if key else "''"


def _first(*keys: str) -> str:
    return "multiIf(" + "".join(f"l['{key}'] != '', l['{key}'], " for key in keys) + "'')"
