"""The spans of an application's cached functions, through the real collector: levels of cache, and no model calls."""
from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import farthing
from farthing import cached
from farthing.tracing_post import Collector as Exporter
from tests.collector.conftest import Sender


def test_calls_of_cached_functions_arrive_as_levels_and_cost_nothing(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(cached, "_tracer", provider.get_tracer("farthing.cached"))

    @farthing.cached_tool(cost_usd="0.5")
    def stock(item: str) -> str:
        return item * 10

    @farthing.cached_component(max_bytes=300)
    def context(topic: str) -> str:
        return topic

    for _ in range(3):
        stock("tea")
        context("tea")
    context("rum")  # there is room for one
    exporter = Exporter(f"http://127.0.0.1:{sender.port}", ingest_key="key-of-test")
    answer = exporter.post(exporter.encode(spans.get_finished_spans()), 10)
    assert (answer.status, answer.rejected) == (200, 0)
    exporter.close()
    now = datetime.now(UTC)
    window = {"since": now - timedelta(hours=1), "until": now + timedelta(hours=1), "teams": [], "models": []}
    tool, component = sender.ask("cache_levels", **window)
    assert (tool["level"], tool["lookups"], tool["hits"], str(tool["saved_usd"])) == ("tool", 3, 2, "1.000000000")
    assert tool["served_bytes"] > 60 and tool["held_bytes"] > 256 and tool["saved_s"] > 0
    assert tool["evicted"] == 0
    assert (component["level"], component["hits"], component["evicted"]) == ("component", 2, 1)
    assert component["saved_usd"] is None
    assert sender.rows("SELECT count() FROM requests WHERE tenant = {tenant}") == [(0,)]
