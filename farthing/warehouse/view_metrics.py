"""The SQL of the metrics' view: OTLP bodies to one row per data point, whatever the kind of its metric.

A point's `series` is a hash of all that tells it from another stream of the same name; increases are taken along it.
"""
from __future__ import annotations

from farthing import semconv
from farthing.warehouse.view import _KV, _map, _time  # pyright: ignore[reportPrivateUsage] - one way to read OTLP values

_TIMES = f"attributes {_KV}, start_time_unix_nano UInt64, time_unix_nano UInt64, flags UInt32"
_SUMS = "count UInt64, sum Nullable(Float64), min Nullable(Float64), max Nullable(Float64)"
_NUMBER = f"Tuple({_TIMES}, as_double Nullable(Float64), as_int Nullable(Int64))"
_HISTOGRAM = f"Tuple({_TIMES}, {_SUMS}, bucket_counts Array(UInt64), explicit_bounds Array(Float64))"
_BUCKETS = "Tuple(offset Int32, bucket_counts Array(UInt64))"
_EXPONENTIAL = f"Tuple({_TIMES}, {_SUMS}, scale Int32, zero_count UInt64, positive {_BUCKETS}, negative {_BUCKETS})"
_SUMMARY = f"Tuple({_TIMES}, count UInt64, sum Float64, quantile_values Array(Tuple(quantile Float64, value Float64)))"

METRICS_STRUCTURE = (
    f"resource_metrics Array(Tuple(resource Tuple(attributes {_KV}), scope_metrics Array(Tuple(scope "
    "Tuple(name String, version String), metrics Array(Tuple(name String, unit String, "
    f"gauge Tuple(data_points Array({_NUMBER})), "
    f"sum Tuple(data_points Array({_NUMBER}), aggregation_temporality Int32, is_monotonic Bool), "
    f"histogram Tuple(data_points Array({_HISTOGRAM}), aggregation_temporality Int32), "
    f"exponential_histogram Tuple(data_points Array({_EXPONENTIAL}), aggregation_temporality Int32), "
    f"summary Tuple(data_points Array({_SUMMARY})))))))), "
    "farthing_tenant String, farthing_received_ms UInt64"
)

# What every kind of point becomes, in this order; the kinds must agree in every type to stand in one array.
_POINT = {
    "kind": "String", "temporality": "Int32", "monotonic": "Bool", "attributes": _KV, "started": "UInt64",
    "timed": "UInt64", "value": "Nullable(Float64)", "count": "Nullable(UInt64)", "sum": "Nullable(Float64)",
    "min": "Nullable(Float64)", "max": "Nullable(Float64)",
    "bounds": "Array(Float64)", "bucket_counts": "Array(UInt64)",
    "scale": "Int32", "zero_count": "UInt64", "positive_offset": "Int32", "negative_offset": "Int32",
    "negative_counts": "Array(UInt64)", "quantile_values": "Array(Float64)",
}  # fmt: skip
_POINT_TYPE = "Tuple(" + ", ".join(f"{name} {kind}" for name, kind in _POINT.items()) + ")"
_EMPTY = {
    "temporality": "0", "monotonic": "false", "value": "NULL", "count": "NULL", "sum": "NULL", "min": "NULL",
    "max": "NULL", "bounds": "[]", "bucket_counts": "[]", "scale": "0", "zero_count": "0", "positive_offset": "0",
    "negative_offset": "0", "negative_counts": "[]", "quantile_values": "[]",
}  # fmt: skip


def _points(kind: str, field: str, **facts: str) -> str:
    """Return SQL of a metric's points of one kind, as an array of the common tuple; `p` is a point, `d` the data."""
    common = {
        "kind": f"'{kind}'", "attributes": _of("p", "attributes"), "started": _of("p", "start_time_unix_nano"),
        "timed": _of("p", "time_unix_nano"),
    }  # fmt: skip
    said = {**_EMPTY, **common, **facts}
    row = ", ".join(said[name] for name in _POINT)
    made = f"arrayMap(p -> CAST(tuple({row}), '{_POINT_TYPE}'), {_of(field, 'data_points')})"
    return made.replace("{data}", field)


def _of(holder: str, *names: str) -> str:
    for name in names:
        holder = f"tupleElement({holder}, '{name}')"
    return holder


def _recorded(value: str, is_finite: bool = True) -> str:
    """Return SQL of a value; NULL where it is no number or the sender flags the point as one without a value."""
    condition = f"bitAnd({_of('p', 'flags')}, 1) = 1" + (f" OR NOT isFinite({value})" if is_finite else "")
    return f"if({condition}, NULL, {value})"


def _all_points() -> str:
    value = _recorded(f"ifNull({_of('p', 'as_double')}, toFloat64({_of('p', 'as_int')}))")
    temporality = "tupleElement({data}, 'aggregation_temporality')"
    sums = {name: _recorded(_of("p", name), name != "count") for name in ("count", "sum", "min", "max")}
    quantiles = _of("p", "quantile_values")
    return "arrayConcat(" + ", ".join((
        _points("gauge", "gauge", value=value),
        _points("sum", "sum", value=value, temporality=temporality, monotonic="tupleElement({data}, 'is_monotonic')"),
        _points(
            "histogram", "histogram", **sums, temporality=temporality, bounds=_of("p", "explicit_bounds"),
            bucket_counts=_of("p", "bucket_counts"),
        ),
        _points(
            "exponential_histogram", "exponential_histogram", **sums, temporality=temporality, scale=_of("p", "scale"),
            zero_count=_of("p", "zero_count"), positive_offset=_of("p", "positive", "offset"),
            bucket_counts=_of("p", "positive", "bucket_counts"), negative_offset=_of("p", "negative", "offset"),
            negative_counts=_of("p", "negative", "bucket_counts"),
        ),
        _points(
            "summary", "summary", count=sums["count"], sum=sums["sum"], temporality="2",
            bounds=f"arrayMap(q -> tupleElement(q, 'quantile'), {quantiles})",
            quantile_values=f"arrayMap(q -> tupleElement(q, 'value'), {quantiles})",
        ),
    )) + ")"  # fmt: skip


def _fact(name: str) -> str:
    """Return SQL of the first attribute of a point, else of its resource, that carries a fact; '' for none."""
    names = semconv.METRIC_ALIASES[name]
    found = [f"{holder}['{alias}']" for holder in ("attributes", "resource_attributes") for alias in names]
    return "multiIf(" + "".join(f"{one} != '', {one}, " for one in found) + "'')"


def explode_metrics(source: str = "otlp_metrics_in") -> str:
    """Return the SELECT that makes one `otel_metrics` row of each data point in `source`."""
    plain = ("kind", "monotonic", "value", "count", "sum", "min", "max", "bounds", "bucket_counts", "scale",
             "zero_count", "positive_offset", "negative_offset", "negative_counts", "quantile_values")  # fmt: skip
    return f"""SELECT
    tenant, received_at,
    if(timed = 0, received_at, {_time("timed")}) AS time,
    {_time("started")} AS start_time,
    resource_attributes['service.name'] AS service, scope, name, unit, kind,
    transform(temporality_number, [1, 2], ['delta', 'cumulative'], '') AS temporality, monotonic,
    cityHash64(toString(mapSort(resource_attributes)), scope, name, unit, kind, temporality,
        toString(mapSort(attributes))) AS series,
    value, count, sum, min, max, bounds, bucket_counts, scale, zero_count, positive_offset, negative_offset,
    negative_counts, quantile_values,
    {_fact("operation")} AS operation, lower({_fact("provider")}) AS provider, {_fact("model")} AS model,
    multiIf({_fact("token_type")} != '', {_fact("token_type")}, endsWith(name, '.token.usage'), attributes['type'], '')
        AS token_type,
    {_fact("gpu_uuid")} AS gpu_uuid, {_fact("gpu_index")} AS gpu_index,
    resource_attributes, attributes
FROM (
    SELECT tenant, received_at, resource_attributes, scope, name, unit, {_map("point_attributes")} AS attributes,
        temporality_number, started, timed, {", ".join(plain)}
    FROM (
        SELECT tenant, received_at, resource_attributes, scope, name, unit,
            {_of("p", "attributes")} AS point_attributes, {_of("p", "temporality")} AS temporality_number,
            {_of("p", "started")} AS started,
            {_of("p", "timed")} AS timed, {", ".join(f"{_of('p', one)} AS {one}" for one in plain)}
        FROM (
            SELECT tenant, received_at, resource_attributes, scope, {_of("m", "name")} AS name,
                {_of("m", "unit")} AS unit, {_of("m", "gauge")} AS gauge, {_of("m", "sum")} AS sum,
                {_of("m", "histogram")} AS histogram, {_of("m", "exponential_histogram")} AS exponential_histogram,
                {_of("m", "summary")} AS summary, arrayJoin({_all_points()}) AS p
            FROM (
                SELECT tenant, received_at, {_map("resource_kv")} AS resource_attributes,
                    {_of("sm", "scope", "name")} AS scope, arrayJoin({_of("sm", "metrics")}) AS m
                FROM (
                    SELECT farthing_tenant AS tenant,
                        fromUnixTimestamp64Milli(toInt64(farthing_received_ms)) AS received_at,
                        arrayJoin(resource_metrics) AS rm, {_of("rm", "resource", "attributes")} AS resource_kv,
                        arrayJoin({_of("rm", "scope_metrics")}) AS sm
                    FROM {source}
                )
            )
        )
    )
)"""
