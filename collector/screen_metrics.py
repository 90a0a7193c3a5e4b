"""Screens one parsed metrics request before it is spooled: which metrics are kept, and what of their points.

Kept are metrics of model calls and of GPUs, by name. Descriptions, exemplars and metadata are not stored: they are free
text, and attributes that the sender's own view had taken out.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import MutableSequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, ScopeMetrics

from collector.attributes import AttributeScreen
from collector.content import ContentPolicy
from collector.redact import Redactor
from farthing import semconv
from farthing.settings import Settings

OTHERS = "data points of metrics that are neither GenAI's nor a GPU's"
CROWDED = "data points with too many buckets"
MAX_BUCKETS = 2048  # of one data point; the SDKs make 16 to 160
MAX_NAME_BYTES = 255  # of a metric's name, by the OpenTelemetry specification
MAX_SERIES = 100_000  # streams that are told apart for the count; past them the count stands still
_NO_VALUE = 1  # DataPointFlags.FLAG_NO_RECORDED_VALUE
_BLANK_INT, _BLANK_FLOAT = 2**63 - 16, 140_737_488_355_328.0  # what DCGM says where a GPU has no such sensor, and above


@dataclass
class ScreenedSignal:
    """What is left to store of a request of metrics or logs."""

    body: bytes = b""
    stored: int = 0  # data points or log records
    rejected: Counter[str] = field(default_factory=Counter)  # by reason
    cuts: Counter[str] = field(default_factory=Counter)
    named: list[str] = field(default_factory=list)  # some of what was rejected, for the answer


class MetricsScreen:
    """The rules of one collector."""

    def __init__(self, settings: Settings, content: ContentPolicy, redactor: Redactor) -> None:
        self._attributes = AttributeScreen(settings, content, redactor, plain=semconv.METRIC_KEYS)
        self._redactor = redactor
        own = [entry.strip() for entry in settings.allowed_metrics.split(",") if entry.strip()]
        self._names = frozenset(entry for entry in own if not entry.endswith("*"))
        self._prefixes = (*semconv.METRIC_PREFIXES, *(entry[:-1] for entry in own if entry.endswith("*")))
        self.series: set[int] = set()  # hashes of the streams met since the start

    def __call__(self, request: ExportMetricsServiceRequest, tenant: str) -> ScreenedSignal:
        """Screen `request` in place; return its bytes and what became of its points."""
        found = ScreenedSignal()
        for one in request.resource_metrics:
            one.resource.CopyFrom(self._attributes.resource(one.resource, tenant, found.cuts))
            one.schema_url = self._attributes.text(one.schema_url, found.cuts)
            stream = hash((tenant, one.resource.SerializeToString()))
            for scope in one.scope_metrics:
                self._scope(scope, tenant, stream, found)
        request.DiscardUnknownFields()
        found.body = request.SerializeToString() if found.stored else b""
        return found

    def _scope(self, one: ScopeMetrics, tenant: str, stream: int, found: ScreenedSignal) -> None:
        one.scope.CopyFrom(self._attributes.scope(one.scope, tenant, found.cuts))
        one.schema_url = self._attributes.text(one.schema_url, found.cuts)
        kept: list[Metric] = []
        for metric in one.metrics:
            kind = metric.WhichOneof("data")
            points: MutableSequence[Any] = getattr(metric, kind).data_points if kind else []
            if not self._is_allowed(metric.name):
                found.rejected[OTHERS] += len(points)
                if points and len(found.named) < 3 and metric.name not in found.named:
                    found.named.append(self._redactor.text(metric.name[:60]))
                continue
            self._metric(metric, points, tenant, hash((stream, one.scope.name)), found)
            if points:
                kept.append(metric)
        del one.metrics[:]
        one.metrics.extend(kept)

    def _is_allowed(self, name: str) -> bool:
        is_named = name in self._names or name.startswith(self._prefixes)
        return is_named and len(name.encode()) <= MAX_NAME_BYTES and self._redactor.text(name) == name

    def _metric(
        self, metric: Metric, points: MutableSequence[Any], tenant: str, stream: int, found: ScreenedSignal
    ) -> None:
        metric.description = ""
        del metric.metadata[:]
        metric.unit = self._attributes.text(metric.unit, found.cuts)[:63]
        crowded = [at for at, point in enumerate(points) if _buckets(point) > MAX_BUCKETS]
        for at in reversed(crowded):
            del points[at]
        found.rejected[CROWDED] += len(crowded)
        for point in points:
            made = self._attributes.attributes(point.attributes, tenant, found.cuts)
            del point.attributes[:]
            point.attributes.extend(made)
            point.ClearField("exemplars") if hasattr(point, "exemplars") else None
            if metric.name.startswith("DCGM_") and _is_blank(point):
                point.flags |= _NO_VALUE
            if len(self.series) < MAX_SERIES:
                said = tuple(sorted(attribute.SerializeToString() for attribute in made))
                self.series.add(hash((stream, metric.name, said)))
        found.stored += len(points)


def _buckets(point: Any) -> int:
    """Return how many numbers a point holds in lists."""
    lists = (
        getattr(point, "bucket_counts", ()), getattr(point, "explicit_bounds", ()),
        getattr(point, "quantile_values", ()),
        *(side.bucket_counts for side in (getattr(point, "positive", None), getattr(point, "negative", None)) if side),
    )  # fmt: skip
    return max(len(one) for one in lists)


def _is_blank(point: Any) -> bool:
    kind = point.WhichOneof("value") if hasattr(point, "as_int") else None
    if kind == "as_int":
        return point.as_int >= _BLANK_INT
    return kind == "as_double" and (point.as_double == _BLANK_FLOAT or point.as_double >= _BLANK_INT)
