"""What stands for each `{{name}}` in the schema's files: the SQL that code generates."""
from __future__ import annotations

from farthing.warehouse import dsn as address
from farthing.warehouse import price_rule, view, view_logs, view_metrics, view_requests


def values(dsn: str) -> dict[str, str]:
    """Return the text of each name, for a store at `dsn`."""
    return {
        "otlp_structure": view.OTLP_STRUCTURE,
        "explode_spans": view.explode_spans(),
        "normalise_requests": view_requests.normalise_requests(),
        "otlp_metrics_structure": view_metrics.METRICS_STRUCTURE,
        "explode_metrics": view_metrics.explode_metrics(),
        "otlp_logs_structure": view_logs.LOGS_STRUCTURE,
        "explode_logs": view_logs.explode_logs(),
        "normalise_agent_calls": view_logs.normalise_agent_calls(),
        "packed_price": price_rule.PACKED,
        "login": address.login(dsn),
    }
