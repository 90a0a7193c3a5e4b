"""A collector over HTTP and gRPC, for tests of metrics and logs."""
from __future__ import annotations

import http.client
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from collector.main import Collector
from farthing import semconv
from farthing.settings import IngestKey, PriceOverride, Settings
from farthing.warehouse import Warehouse
from tests.ports import free_port

Serve = Callable[[Collector], AbstractContextManager[int]]
KEY = {semconv.HEADER_TENANT_KEY: "key-of-test"}
NOW_NS = 1_795_000_000_000_000_000


class Sender:
    """Posts bodies for a tenant of its own and asks what became of them."""

    def __init__(self, port: int, settings: Settings, collector: Collector, warehouse: Warehouse) -> None:
        self.port, self.grpc_port, self.collector = port, settings.collector_grpc_port, collector
        self.tenant, self.folder, self._warehouse = settings.ingest_keys[0].tenant, settings.data_dir, warehouse

    def post(self, path: str, body: bytes, content_type: str = "application/x-protobuf") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("POST", path, body, {"content-type": content_type, **KEY})
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Flush and return the rows of a statement in which {tenant} stands for this tenant."""
        assert self.post("/v1/flush", b"")[0] == 200
        return self._warehouse._client().query(statement.replace("{tenant}", f"'{self.tenant}'")).result_rows

    def ask(self, question: str, **values: object) -> list[dict[str, Any]]:
        assert self.post("/v1/flush", b"")[0] == 200
        window = {"since": datetime(2026, 1, 1, tzinfo=UTC), "until": datetime(2027, 1, 1, tzinfo=UTC)}
        return self._warehouse.ask(question, tenant=self.tenant, part="test", **{**window, **values})

    def status(self) -> dict[str, Any]:
        return dict(self.collector.status())


@contextmanager
def sending(warehouse: Warehouse, serve: Serve, data_dir: Path, **rules: Any) -> Iterator[Sender]:
    settings = Settings(
        data_dir=data_dir,
        ingest_keys=(IngestKey("key-of-test", f"tenant-{uuid.uuid4().hex[:12]}"),),
        prices=(PriceOverride("anthropic", "claude-test-1", "3", "15", cache_read="0.3", cache_write="3.75"),),
        collector_grpc_port=free_port(),
        **rules,
    )
    collector = Collector(settings, warehouse)
    with serve(collector) as port:
        yield Sender(port, settings, collector, warehouse)


@pytest.fixture
def sender(warehouse: Warehouse, serve: Serve, tmp_path: Path) -> Iterator[Sender]:
    with sending(warehouse, serve, tmp_path) as made:
        yield made


def logs_of(*records: dict[str, Any], scope: str = "com.anthropic.claude_code.events") -> bytes:
    """An OTLP/JSON body as an agent's JavaScript SDK writes it."""
    resource = {"attributes": pairs({"service.name": "claude-code", "farthing.team": "platform"})}
    made = [{**one, "attributes": pairs(one.get("attributes", {}))} for one in records]
    return json.dumps({"resourceLogs": [{"resource": resource, "scopeLogs": [
        {"scope": {"name": scope}, "logRecords": made}
    ]}]}).encode()  # fmt: skip


def pairs(values: dict[str, Any]) -> list[dict[str, Any]]:
    kinds = {str: "stringValue", bool: "boolValue", int: "intValue", float: "doubleValue"}
    return [{"key": key, "value": {kinds[type(value)]: str(value) if type(value) is int else value}}
            for key, value in values.items()]  # fmt: skip


def api_request(**changed: Any) -> dict[str, Any]:
    """Claude Code's event of one model call, by its public documentation."""
    attributes = {
        "session.id": "0a1b", "user.id": "hash-of-a-machine", "user.email": "jane@example.com",
        "organization.id": "org-1", "app.version": "2.1.0", "terminal.type": "vscode", "event.name": "api_request",
        "event.timestamp": "2026-11-18T07:06:40.000Z", "event.sequence": 7, "prompt.id": "p-1",
        "model": "claude-test-1", "cost_usd": 99.5, "duration_ms": 2500, "input_tokens": 10, "output_tokens": 20,
        "cache_read_tokens": 3000, "cache_creation_tokens": 400, "request_id": "req_1", "speed": "normal",
    }  # fmt: skip
    return {
        "timeUnixNano": str(NOW_NS), "observedTimeUnixNano": str(NOW_NS),
        "body": {"stringValue": "claude_code.api_request"}, "attributes": {**attributes, **changed},
    }  # fmt: skip
