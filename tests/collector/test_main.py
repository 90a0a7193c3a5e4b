"""collector/main.py over HTTP: what a sender is told is what the warehouse holds."""
from __future__ import annotations

import gzip
import http.client
import json
import logging
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from collector import intake, screen_logs, screen_metrics
from collector.main import Collector
from farthing import otlp, semconv
from farthing.errors import IngestError, SettingsError
from farthing.settings import IngestKey, PriceOverride, Settings
from farthing.warehouse import Warehouse
from tests.collector_bodies import span_with_ids

T0 = 1_795_000_000_000_000_000  # ns since the epoch
OTLP = {"content-type": "application/x-protobuf"}
Serve = Callable[[Collector], AbstractContextManager[int]]


class Sender:
    """Posts bodies for a tenant of its own."""

    def __init__(self, port: int, tenant: str, collector: Collector) -> None:
        self.port, self.collector = port, collector
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self.tenant = tenant

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes, dict[str, str]]:
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, {**OTLP, semconv.HEADER_TENANT_KEY: "key-of-test", **extra})
        response = self.connection.getresponse()
        return response.status, response.read(), dict(response.getheaders())

    def post(self, body: bytes, path: str = "/v1/traces", **headers: str) -> tuple[int, bytes, str]:
        status, answer, told = self.ask("POST", path, body, **headers)
        return status, answer, told.get("retry-after", "")

    def post_json(self, document: object, path: str = "/v1/traces") -> tuple[int, object, str]:
        status, answer, told = self.ask("POST", path, json.dumps(document).encode(), content_type="application/json")
        return status, json.loads(answer), told["content-type"]


@contextmanager
def sending(warehouse: Warehouse, serve: Serve, data_dir: Path, **rules: Any) -> Iterator[Sender]:
    tenant = f"tenant-{uuid.uuid4().hex[:12]}"
    settings = Settings(
        data_dir=data_dir,
        ingest_keys=(IngestKey("key-of-test", tenant),),
        prices=(PriceOverride("farthing", "tiny", input="0.25", output="1.5"),),
        spool_max_bytes=4_000_000,
        max_body_bytes=1_000_000,
        collector_grpc_port=0,
        **rules,
    )
    collector = Collector(settings, warehouse)
    with serve(collector) as port:
        made = Sender(port, tenant, collector)
        yield made
        made.connection.close()


@pytest.fixture
def sender(warehouse: Warehouse, serve: Serve, tmp_path: Path) -> Iterator[Sender]:
    with sending(warehouse, serve, tmp_path) as made:
        yield made


def body_of(calls: int, model: str = "tiny", provider: str = "farthing") -> bytes:
    attributes = otlp.attributes([
        (semconv.OPERATION_NAME, "chat"),
        (semconv.PROVIDER_NAME, provider),
        (semconv.REQUEST_MODEL, model),
        (semconv.USAGE_INPUT_TOKENS, 11),
        (semconv.USAGE_OUTPUT_TOKENS, 3),
        (semconv.TEAM, "search"),
    ])
    spans = [
        otlp.span(uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b"", "chat", (T0, T0 + 10**9), attributes)
        for _ in range(calls)
    ]
    return otlp.traces([("service.name", "shop")], "test", "1", spans)


def rows(sender: Sender, warehouse: Warehouse, column: str = "count()") -> list[tuple[object, ...]]:
    status, _, _ = sender.post(b"", "/v1/flush")
    assert status == 200
    found = warehouse._client().query(f"SELECT {column} FROM requests WHERE tenant = '{sender.tenant}'")
    return found.result_rows


def test_an_accepted_body_becomes_priced_rows(sender: Sender, warehouse: Warehouse) -> None:
    assert sender.post(body_of(4)) == (200, b"", "")
    # 11 * 0.25 + 3 * 1.5 = 7.25 USD per million calls
    assert rows(sender, warehouse, "count(), sum(cost_usd), any(team), any(price_state)") == [
        (4, Decimal("0.000029000"), "search", "priced")
    ]


def test_a_gzipped_body_is_the_same(sender: Sender, warehouse: Warehouse) -> None:
    assert sender.post(gzip.compress(body_of(3)), content_encoding="gzip")[0] == 200
    assert rows(sender, warehouse) == [(3,)]


def test_the_same_body_sent_again_is_acknowledged_and_stored_once(sender: Sender, warehouse: Warehouse) -> None:
    body = body_of(2)
    assert [sender.post(body)[0] for _ in range(3)] == [200, 200, 200]
    assert rows(sender, warehouse) == [(2,)]


def test_a_model_without_a_price_is_unpriced_and_not_free(sender: Sender, warehouse: Warehouse) -> None:
    sender.post(body_of(1, model="gpt-4o"))  # a public model's name, self-hosted: never priced as the public one
    assert rows(sender, warehouse, "cost_usd, price_state") == [(None, "unpriced")]


def test_a_public_model_first_seen_in_a_body_is_priced_in_it(sender: Sender, warehouse: Warehouse) -> None:
    sender.post(body_of(1, model="gpt-4o-mini", provider="openai"))
    assert rows(sender, warehouse, "cost_usd, price_state") == [(Decimal("0.00000345"), "priced")]


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        (b"garbage", {}, 400, b"not protobuf"),
        (body_of(2)[:-1], {}, 400, b"cut short"),
        (gzip.compress(b"\0" * 2_000_000), {"content_encoding": "gzip"}, 413, b"when decompressed"),
        (b"\0" * 1_000_001, {}, 413, b"larger than 1000000 bytes"),
        (b"{}", {"content_type": "text/plain"}, 415, b"application/x-protobuf"),
        (body_of(1), {semconv.HEADER_TENANT_KEY: "wrong"}, 401, b"unknown"),
    ],
)
def test_a_bad_body_is_refused_with_a_status_that_says_why(
    sender: Sender, warehouse: Warehouse, body: bytes, headers: dict[str, str], status: int, says: bytes
) -> None:
    got, answer, _ = sender.post(body, **headers)
    assert got == status and says in answer and answer[0] == 0x08  # a google.rpc.Status begins with its code
    assert rows(sender, warehouse) == [(0,)]


def test_a_full_spool_asks_for_a_retry_and_keeps_nothing_of_the_body(sender: Sender, warehouse: Warehouse) -> None:
    statuses = [sender.post(body_of(3000)) for _ in range(8)]
    full = [answer for answer in statuses if answer[0] == 503]
    accepted = sum(1 for answer in statuses if answer[0] == 200)
    assert full and all(retry == "1" for _, _, retry in full)
    assert rows(sender, warehouse) == [(accepted * 3000,)]


def test_an_unknown_path_names_the_known_ones(sender: Sender) -> None:
    status, answer, _ = sender.post(b"", "/v1/profiles")
    assert status == 404 and b"/v1/traces" in answer


def json_span(**fields: object) -> dict[str, object]:
    ids = {"traceId": uuid.uuid4().hex, "spanId": uuid.uuid4().hex[:16], "name": "chat"}
    model = [{"key": key, "value": {"stringValue": value}} for key, value in (
        (semconv.OPERATION_NAME, "chat"), (semconv.PROVIDER_NAME, "farthing"), (semconv.REQUEST_MODEL, "tiny"),
    )]  # fmt: skip
    usage = {"key": semconv.USAGE_OUTPUT_TOKENS, "value": {"intValue": "1000000"}}
    times = {"startTimeUnixNano": "1795000000000000000", "endTimeUnixNano": "1795000001000000000"}
    return {**ids, **times, "kind": 3, "attributes": [*model, usage], **fields}


def json_body(*spans: dict[str, object]) -> dict[str, object]:
    return {"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}


def test_a_json_body_is_the_same_and_is_answered_in_json(sender: Sender, warehouse: Warehouse) -> None:
    assert sender.post_json(json_body(json_span(), json_span())) == (200, {}, "application/json")
    assert rows(sender, warehouse, "count(), sum(cost_usd)") == [(2, Decimal("3.0"))]


def test_a_bad_json_body_is_told_so_in_json(sender: Sender) -> None:
    status, answer, kind = sender.post_json({"resourceSpans": 1})
    assert (status, kind) == (400, "application/json")
    assert isinstance(answer, dict) and answer["code"] == 3 and "$.resourceSpans" in answer["message"]


def test_spans_with_invalid_ids_are_rejected_by_number_and_the_rest_is_stored(
    sender: Sender, warehouse: Warehouse
) -> None:
    status, answer, _ = sender.post_json(json_body(json_span(), json_span(traceId="abcd"), json_span(spanId="00" * 8)))
    assert status == 200 and isinstance(answer, dict)
    assert answer["partialSuccess"]["rejectedSpans"] == "2" and "trace id" in answer["partialSuccess"]["errorMessage"]
    bad = otlp.traces([], "test", "1", [span_with_ids(b"short", b"s" * 8)])
    status, body, _ = sender.post(bad)
    assert status == 200 and ExportTraceServiceResponse.FromString(body).partial_success.rejected_spans == 1
    assert rows(sender, warehouse) == [(1,)]
    assert sender.collector.status()["rejected"] == {"spans with an invalid id": 3}


def test_metrics_and_logs_of_others_are_answered_truthfully_so_that_nobody_sends_them_again(sender: Sender) -> None:
    logs = otlp.field(0x0A, otlp.field(0x12, otlp.field(0x12, b"") * 3))
    status, body, _ = sender.post(gzip.compress(logs), "/v1/logs", content_encoding="gzip")
    partial = ExportLogsServiceResponse.FromString(body).partial_success
    assert status == 200 and partial.rejected_log_records == 3 and "allowed_events" in partial.error_message
    metric = {"name": "process.cpu.time", "sum": {"dataPoints": [{}, {}]}}
    points = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]}
    status, answer, _ = sender.post_json(points, "/v1/metrics")
    assert status == 200 and isinstance(answer, dict)
    assert answer["partialSuccess"]["rejectedDataPoints"] == "2"
    assert "process.cpu.time: name them in allowed_metrics" in answer["partialSuccess"]["errorMessage"]
    assert sender.post_json({}, "/v1/metrics") == (200, {}, "application/json")
    assert sender.collector.status()["rejected"] == {screen_logs.OTHERS: 3, screen_metrics.OTHERS: 2}


@pytest.mark.parametrize(("method", "path", "allowed"), [("GET", "/v1/traces", "POST"), ("POST", "/healthz", "GET")])
def test_a_wrong_method_is_told_the_right_one(sender: Sender, method: str, path: str, allowed: str) -> None:
    status, _, told = sender.ask(method, path)
    assert (status, told["allow"]) == (405, allowed)


@pytest.mark.parametrize(("method", "path"), [("PUT", "/v1/traces"), ("POST", "/v1/trace")])
def test_what_goes_to_no_route_is_told_so_in_its_own_form(sender: Sender, method: str, path: str) -> None:
    said = {kind: sender.ask(method, path, content_type=kind) for kind in (OTLP["content-type"], "application/json")}
    assert [told["content-type"] for _, _, told in said.values()] == list(said)
    assert json.loads(said["application/json"][1])["message"].encode() in said[OTLP["content-type"]][1]


def test_too_many_bytes_in_flight_ask_for_a_retry(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_IN_FLIGHT", -1)
    assert sender.post(body_of(1))[::2] == (503, "1")
    assert sender.collector.status()["refused_bodies"] == {"503": 1}


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_the_sdk_s_exporter_delivers_and_comes_back_after_a_full_spool(
    sender: Sender, warehouse: Warehouse, caplog: pytest.LogCaptureFixture, compression: Compression
) -> None:
    spool, room = sender.collector._spools[0], sender.collector._spools[0].max_bytes
    spool.max_bytes = 0
    caplog.handler.addFilter(lambda record: setattr(spool, "max_bytes", room) is None)  # room again after the first no
    caplog.set_level(logging.WARNING)
    exporter = OTLPSpanExporter(
        endpoint=f"http://127.0.0.1:{sender.port}/v1/traces",
        headers={semconv.HEADER_TENANT_KEY: "key-of-test"},
        compression=compression,
    )
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    span = provider.get_tracer("test").start_span("call", attributes={semconv.OPERATION_NAME: "chat"})
    span.end()
    assert provider.force_flush()
    provider.shutdown()
    assert sender.collector.status()["refused_bodies"] == {"503": 1}
    assert rows(sender, warehouse) == [(1,)]


@pytest.mark.proof
def test_the_javascript_sdk_s_json_exporter_delivers(sender: Sender, warehouse: Warehouse, tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not on this machine")
    packages = ["@opentelemetry/exporter-trace-otlp-http", "@opentelemetry/sdk-trace-node"]
    got = subprocess.run([npm, "install", "--silent", *packages], cwd=tmp_path, capture_output=True, check=False)
    if got.returncode:
        pytest.skip("the exporter cannot be installed from npm here")
    script = """
        const { NodeTracerProvider, BatchSpanProcessor } = require("@opentelemetry/sdk-trace-node");
        const { OTLPTraceExporter } = require("@opentelemetry/exporter-trace-otlp-http");
        const exporter = new OTLPTraceExporter({ url: process.argv[1], headers: { "x-farthing-key": "key-of-test" } });
        const provider = new NodeTracerProvider({ spanProcessors: [new BatchSpanProcessor(exporter)] });
        for (let n = 0; n < 7; n++) {
            const span = provider.getTracer("js").startSpan("call", { kind: 2 });
            span.setAttribute("gen_ai.operation.name", "chat").setAttribute("gen_ai.request.model", "tiny");
            span.setAttribute("gen_ai.provider.name", "farthing").setAttribute("gen_ai.usage.output_tokens", 1000);
            span.recordException(new Error("private")); span.end();
        }
        provider.shutdown().then(() => process.exit(0));
    """
    url = f"http://127.0.0.1:{sender.port}/v1/traces"
    done = subprocess.run(["node", "-e", script, url], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert rows(sender, warehouse, "count(), sum(cost_usd)") == [(7, Decimal("0.0105"))]


CANARIES = {
    "key": "sk-proj-cAnArYcAnArYcAnArY00", "mail": "canary.bird@example.com", "card": "4111 1111 1111 1111",
    "token": "eyJjYW5hcnkiOiJjYW5hcnkifQ.eyJjYW5hcnkiOiJjYW5hcnkifQ.cAnArYcAnArY",
}  # fmt: skip
# Long ones only: four bytes turn up by chance in the megabytes of a store.
NEEDLES = (b"cAnArY", b"canary.bird", b"1111 1111 1111", b"eyJjYW5hcnki")


def canary_body() -> bytes:
    """A span that says every secret in every place that OTLP has for a text."""
    said = " ".join(CANARIES.values())
    keys = ("gen_ai.input.messages", "shop.note", "http.url", "gen_ai.tool.name", "error.type")
    texts = [(key, said) for key in keys]
    pairs = [(key, (said, "plain")) for key in ("gen_ai.output.messages", "farthing.tag.note")]
    encoded = otlp.attributes([*texts, *pairs, (semconv.OPERATION_NAME, "chat"), (semconv.REQUEST_MODEL, "tiny")])
    of_event = ("exception.message", "event.note", "error.type")
    inner = b"".join(otlp.field(0x1A, otlp.attribute(key, said)) for key in of_event)
    event = otlp.field(0x5A, otlp.field(0x12, said.encode()) + inner)
    ids = otlp.field(0x0A, b"t" * 16) + otlp.field(0x12, b"l" * 8)
    link_state = otlp.field(0x1A, said.encode())
    link = otlp.field(0x6A, ids + link_state + otlp.field(0x22, otlp.attribute("rpc.method", said)))
    future = otlp.field_tag(99, 2) + otlp.varint(len(said)) + said.encode()
    parts = encoded + event + link + future
    one = otlp.span(uuid.uuid4().bytes, b"s" * 8, b"", said, (T0, T0), parts, error=said)
    return otlp.traces([("service.name", said), ("process.command_line", said)], said, said, [one])


def files_below(folder: Path) -> Iterator[bytes]:
    """The content of every file that stays: a store merges its parts meanwhile and removes the old ones."""
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                yield Path(root, name).read_bytes()


@pytest.mark.parametrize("keeps_content", [False, True])
def test_no_secret_reaches_the_disk_in_whichever_place_it_was_sent(
    warehouse: Warehouse, serve: Serve, tmp_path: Path, keeps_content: bool
) -> None:
    with sending(warehouse, serve, tmp_path, store_content=keeps_content, flush_interval_s=3600) as sender:
        assert sender.post(canary_body())[0] == 200
        document = json_body(json_span(name=CANARIES["key"], status={"message": CANARIES["mail"]}))
        assert sender.post_json(document)[0] == 200
        held = b"".join(path.read_bytes() for path in (tmp_path / "spool").glob("*.otlp"))
        assert b"[secret]" in held and (b"gen_ai.input.messages.hash" in held) is not keeps_content
        assert rows(sender, warehouse) == [(2,)]
        query = f"SELECT toString(tuple(*)) FROM otel_traces WHERE Tenant = '{sender.tenant}'"
        found = warehouse._client().query(query)
    everything = [held, *(row[0].encode() for row in found.result_rows)]
    store = Path(warehouse.dsn.removeprefix("chdb://"))
    everything += [content for folder in (tmp_path, store) for content in files_below(folder)]
    assert [needle for needle in NEEDLES for content in everything if needle in content] == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "collector.internal"])
def test_an_address_that_others_reach_needs_keys_or_a_word(warehouse: Warehouse, tmp_path: Path, host: str) -> None:
    with pytest.raises(SettingsError, match="require_ingest_key = false"):
        Collector(Settings(data_dir=tmp_path, host=host), warehouse)
    with pytest.raises(SettingsError, match="ingest_keys"):
        Collector(Settings(data_dir=tmp_path, require_ingest_key=True), warehouse)
    Collector(Settings(data_dir=tmp_path, host=host, require_ingest_key=False), warehouse)
    Collector(Settings(data_dir=tmp_path, host=host, ingest_keys=(IngestKey("k", "t"),)), warehouse)
    Collector(Settings(data_dir=tmp_path, host="127.0.0.1"), warehouse)


def test_a_key_is_optional_on_a_loopback_address_unless_it_is_asked_for(warehouse: Warehouse, tmp_path: Path) -> None:
    keys = (IngestKey("k", "acme"),)
    local = Collector(Settings(data_dir=tmp_path, ingest_keys=keys), warehouse)._intake
    strict = Collector(Settings(data_dir=tmp_path, ingest_keys=keys, require_ingest_key=True), warehouse)._intake
    assert [local.tenant({"authorization": said}) for said in ("Bearer k", "bearer k", "k")] == ["acme"] * 3
    assert local.tenant({}) == "default"
    with pytest.raises(IngestError):
        strict.tenant({})


def test_prompts_and_answers_are_not_stored_but_their_lengths_are(
    sender: Sender, warehouse: Warehouse, shared: Callable[[str], Path]
) -> None:
    for dialect in ("genai-openai-content1", "openllmetry-content1"):
        body = shared(f"fixtures/otlp/{dialect}/traces-00.bin").read_bytes()
        assert b"jane@example.com" in body and sender.post(body)[0] == 200
    rows(sender, warehouse)
    found = warehouse._client().query(
        "SELECT countIf(toString(tuple(*)) LIKE '%jane@example.com%'), "
        "countIf(SpanAttributes['gen_ai.input.messages.length'] != '') "
        f"FROM otel_traces WHERE Tenant = '{sender.tenant}'"
    )
    ((leaked, measured),) = found.result_rows
    assert leaked == 0 and measured > 0
