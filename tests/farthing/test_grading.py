"""farthing/grading.py: a grade is one span that names the call, the score and what was graded."""
from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from farthing import grading, semconv
from farthing.errors import SettingsError


def test_a_grade_is_a_span_that_names_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(grading, "_tracer", provider.get_tracer("test"))
    grading.grade(1, response_id="chatcmpl-1")
    grading.grade(0.25, request_id="req_1", name="polite")
    provider.shutdown()
    assert [(span.name, dict(span.attributes or {})) for span in exporter.get_finished_spans()] == [
        (semconv.EVALUATION, {semconv.RESPONSE_ID: "chatcmpl-1", semconv.EVALUATION_NAME: "right",
                              semconv.EVALUATION_SCORE: 1.0}),
        (semconv.EVALUATION, {semconv.REQUEST_ID: "req_1", semconv.EVALUATION_NAME: "polite",
                              semconv.EVALUATION_SCORE: 0.25}),
    ]  # fmt: skip


def test_a_grade_needs_a_score_from_0_to_1_and_a_call() -> None:
    with pytest.raises(SettingsError, match=r"score=2: allowed is a number from 0"):
        grading.grade(2, response_id="chatcmpl-1")
    with pytest.raises(SettingsError, match="say which call"):
        grading.grade(1)
