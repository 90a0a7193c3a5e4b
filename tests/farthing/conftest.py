"""Peers of the SDK for its tests: a provider's API, an OTLP collector, and a process for an instrumented application.

The provider is a stand-in for a third party. Collector and application are real sockets, real OTLP, real clients.
"""
from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from tests.until import until as wait_until

ROOT = Path(__file__).parents[2]
USAGE = {
    "prompt_tokens": 120,
    "completion_tokens": 40,
    "total_tokens": 160,
    "prompt_tokens_details": {"cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 16},
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-1",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 11, "output_tokens": 7, "cache_creation_input_tokens": 300, "service_tier": "priority",
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
    },
}


class Server:
    """A threaded HTTP server on a free port."""

    def __init__(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                server.answer(self, {name.lower(): value for name, value in self.headers.items()}, body)

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that went away

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler, headers: Mapping[str, str], body: bytes) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@dataclass
class Call:
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: dict[str, Any]


class Provider(Server):
    """Plays OpenAI's and Anthropic's API, and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.refuses_stream_options = False
        self.redirects_to = ""
        super().__init__()

    def answer(self, handler: BaseHTTPRequestHandler, headers: Mapping[str, str], body: bytes) -> None:
        asked = json.loads(body or b"{}")
        self.calls.append(Call(handler.path, headers, asked))
        if self.redirects_to:
            reply(handler, 307, b"", location=self.redirects_to + handler.path)
        elif handler.path.endswith("/messages") and asked.get("stream"):
            reply(handler, 200, _message_events(), content_type="text/event-stream")
        elif handler.path.endswith("/messages"):
            reply(handler, 200, json.dumps(MESSAGE).encode(), content_type="application/json")
        elif self.refuses_stream_options and "stream_options" in asked:
            error = {"error": {"message": "Unknown parameter: stream_options", "type": "invalid_request_error"}}
            reply(handler, 400, json.dumps(error).encode(), content_type="application/json")
        elif asked.get("stream"):
            reply(handler, 200, _events(asked), content_type="text/event-stream")
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
            answer = {**_base(asked), "object": "chat.completion", "choices": [choice], "usage": USAGE}
            reply(handler, 200, json.dumps(answer).encode(), content_type="application/json")


def _base(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "created": 1790000000, "model": f"{asked['model']}-2026-01-01"}


def _message_events() -> bytes:
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
         "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ]  # fmt: skip
    return b"".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in events)


def _events(asked: Mapping[str, Any]) -> bytes:
    chunk = {**_base(asked), "object": "chat.completion.chunk"}
    deltas = [{"role": "assistant", "content": "Hel"}, {"content": "lo"}, {}]
    chunks: list[dict[str, Any]] = [
        {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}]}
        for delta in deltas
    ]
    if (asked.get("stream_options") or {}).get("include_usage"):
        chunks.append({**chunk, "choices": [], "usage": USAGE})
    return b"".join(f"data: {json.dumps(c)}\n\n".encode() for c in chunks) + b"data: [DONE]\n\n"


@dataclass
class Received:
    """One span as the collector got it."""

    name: str
    scope: str
    service: str
    attributes: dict[str, Any]
    trace_id: str
    span_id: str


class Capture(Server):
    """An OTLP collector that keeps what it gets; refusals are answered first, one for each request."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.batches: list[int] = []  # how many spans came together
        self.headers: list[Mapping[str, str]] = []
        self._refusals: list[tuple[int, dict[str, str]]] = []
        self.rejects_spans = 0  # reported as partial success
        self.hangs = threading.Event()
        super().__init__()

    def refuse(self, *statuses: int, **headers: str) -> None:
        self._refusals += [(status, headers) for status in statuses]

    def answer(self, handler: BaseHTTPRequestHandler, headers: Mapping[str, str], body: bytes) -> None:
        self.headers.append({**headers, ":path": handler.path})
        while self.hangs.is_set():
            time.sleep(0.01)
        if self._refusals:
            status, extra = self._refusals.pop(0)
            reply(handler, status, b"no", **extra)
            return
        spans = _decoded(gzip.decompress(body))
        self.batches.append(len(spans))
        self.spans += spans
        answer = ExportTraceServiceResponse()
        answer.partial_success.rejected_spans = self.rejects_spans
        reply(handler, 200, answer.SerializeToString(), content_type="application/x-protobuf")


def _decoded(body: bytes) -> list[Received]:
    return [
        Received(
            span.name,
            scoped.scope.name,
            {a.key: a.value.string_value for a in group.resource.attributes}.get("service.name", ""),
            {a.key: _value(a.value) for a in span.attributes},
            span.trace_id.hex(),
            span.span_id.hex(),
        )
        for group in ExportTraceServiceRequest.FromString(body).resource_spans
        for scoped in group.scope_spans
        for span in scoped.spans
    ]


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None


@dataclass
class App:
    """Runs an instrumented application in a process of its own."""

    collector: Capture
    provider: Provider

    def run(self, program: str, *paths: Path, **environ: str) -> list[Any]:
        """Run `program` and return what it printed, each line read as JSON."""
        done = self.run_raw(program, *paths, **environ)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def run_raw(self, program: str, *paths: Path, **environ: str) -> subprocess.CompletedProcess[str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("FARTHING_", "OTEL_"))}
        given = {
            "PYTHONPATH": os.pathsep.join(map(str, (*paths, ROOT))),
            "FARTHING_COLLECTOR_URL": self.collector.url,
            "FARTHING_PROXY_URL": "http://127.0.0.1:1",
            "OPENAI_BASE_URL": f"{self.provider.url}/v1",
            "OPENAI_API_KEY": "sk-test",
            "ANTHROPIC_BASE_URL": self.provider.url,
            "ANTHROPIC_API_KEY": "sk-test",
        }
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            env={**inherited, **given, **environ},
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture
def provider() -> Iterator[Provider]:
    server = Provider()
    yield server
    server.close()


@pytest.fixture
def other() -> Iterator[Provider]:
    """A third party: another provider at another address."""
    server = Provider()
    yield server
    server.close()


@pytest.fixture
def collector() -> Iterator[Capture]:
    server = Capture()
    yield server
    server.hangs.clear()
    server.close()


@pytest.fixture
def app(collector: Capture, provider: Provider) -> App:
    return App(collector, provider)


@pytest.fixture
def dead_url() -> Iterator[str]:
    """An address where nobody listens, nor can while the test runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait for a condition."""
    return wait_until
