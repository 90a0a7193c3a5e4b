"""The ways of metrics and logs from a body to what is spooled of it: limits, parser, screen, answer."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from collector import screen_logs, screen_metrics
from collector.answers import LOGS, METRICS, Signal
from collector.content import ContentPolicy
from collector.receive import count_items
from collector.redact import Redactor
from collector.screen_logs import LogsScreen
from collector.screen_metrics import MetricsScreen, ScreenedSignal
from collector.signals_json import request_from_json
from farthing.errors import IngestError
from farthing.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    Request = ExportMetricsServiceRequest | ExportLogsServiceRequest


@dataclass(frozen=True)
class _Way:
    request: type[ExportMetricsServiceRequest] | type[ExportLogsServiceRequest]
    screen: Callable[..., ScreenedSignal]


class SignalReader:
    """Reads bodies of metrics and logs for one collector."""

    def __init__(self, settings: Settings, content: ContentPolicy, redactor: Redactor) -> None:
        self._most = settings.max_request_points
        self.metrics = MetricsScreen(settings, content, redactor)
        self._ways = {
            METRICS.name: _Way(ExportMetricsServiceRequest, self.metrics),
            LOGS.name: _Way(ExportLogsServiceRequest, LogsScreen(settings, content, redactor)),
        }

    def read(self, signal: Signal, body: bytes, is_json: bool, tenant: str) -> ScreenedSignal:
        """Return what is to be stored of a plain body.

        Raises:
            IngestError: 413 for too many items, 400 for bytes that are not such a request.
        """
        way = self._ways[signal.name]
        if is_json:
            request = request_from_json(body, way.request(), signal.json_path, self._most)
        else:
            count_items(body, signal.path, self._most)
            request = _parsed(way.request, body)
        return way.screen(request, tenant)


def _parsed(kind: type[Request], body: bytes) -> Request:
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise IngestError(400, f"the body is not an OTLP {kind.DESCRIPTOR.name}: {error}") from None


def why(found: ScreenedSignal) -> str:
    """Return what a sender is told of the items that were not stored."""
    said = [f"{count} {reason} are not stored" for reason, count in found.rejected.items() if count]
    if found.rejected[screen_metrics.OTHERS]:
        names = ", ".join(found.named)
        said.append(f"such as {names}: name them in allowed_metrics, or drop them at the sender by a view")
    if found.rejected[screen_logs.OTHERS]:
        said.append("name their events in allowed_events, or export only the loggers of events")
    return "; ".join(said)
