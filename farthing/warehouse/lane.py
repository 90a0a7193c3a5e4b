"""A lane of telemetry: the way of one signal from the spool into its tables.

A lane has a table that stores nothing, views behind it, and a SELECT of what each of these views makes of a body; so
what a segment should have become can be compared with what is stored, row by row.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from farthing.warehouse import view
from farthing.warehouse.view_logs import LOGS_STRUCTURE, explode_logs, names_of_agents, normalise_agent_calls
from farthing.warehouse.view_metrics import METRICS_STRUCTURE, explode_metrics
from farthing.warehouse.view_requests import names, normalise_requests


@dataclass(frozen=True)
class Target:
    """A table that a lane fills."""

    table: str
    rows: Callable[[str], str]  # SELECT of its rows from a source of OTLP bodies
    identity: str  # SQL that tells one row of it from another; none of it may be NULL
    received: str  # its column of the receive time, which is in the identity too


@dataclass(frozen=True)
class Lane:
    """The way of one signal."""

    name: str  # of the signal, as in /v1/<name>
    folder: str  # of the spool, in the data folder
    table: str  # where OTLP bodies are inserted
    message: str  # of otlp.proto
    structure: str
    targets: tuple[Target, ...]
    names: Callable[[str], str] | None = None  # SELECT of the (provider, model, whether a call's) in a source

    def token(self, stem: str) -> str:
        """Return the deduplication token of a segment; lanes may share a table."""
        return stem if self is TRACES else f"{self.name}-{stem}"


def _apart(rows: str) -> str:
    """Return a source whose rows are made before they are read: merged into one expression, two views take seconds."""
    return f"(SELECT * FROM ({rows}) LIMIT 1000000000000)"


TRACES = Lane(
    "traces", "spool", "otlp_in", "TracesData", view.OTLP_STRUCTURE,
    (
        Target("otel_traces", view.explode_spans, "Tenant, TraceId, SpanId, ReceivedAt", "ReceivedAt"),
        Target(
            "requests", lambda source: normalise_requests(_apart(view.explode_spans(source))),
            "tenant, trace_id, span_id, received_at", "received_at",
        ),
    ),
    names,
)  # fmt: skip
METRICS = Lane(
    "metrics", "spool-metrics", "otlp_metrics_in", "MetricsData", METRICS_STRUCTURE,
    (Target("otel_metrics", explode_metrics, "tenant, name, series, start_time, time, received_at", "received_at"),),
)  # fmt: skip
LOGS = Lane(
    "logs", "spool-logs", "otlp_logs_in", "LogsData", LOGS_STRUCTURE,
    (
        Target(
            "otel_logs", explode_logs,
            "Tenant, Timestamp, TraceId, SpanId, EventName, cityHash64(Body, toString(LogAttributes)), ReceivedAt",
            "ReceivedAt",
        ),
        Target(
            "requests", lambda source: normalise_agent_calls(_apart(explode_logs(source))),
            "tenant, toUnixTimestamp64Micro(toDateTime64(started_at, 6)), scope, model, trace_id, span_id, session, "
            "request_id, ifNull(input_tokens, 0), ifNull(output_tokens, 0), received_at",
            "received_at",
        ),
    ),
    names_of_agents,
)  # fmt: skip
LANES = (TRACES, METRICS, LOGS)
