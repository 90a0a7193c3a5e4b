"""farthing/replay.py: trace files of others as exactly priced requests, the same bytes each time."""
import gzip
import json
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from collector.main import app as collector_app
from farthing import semconv
from farthing.errors import ServeError, TraceFileError
from farthing.http_json import call
from farthing.money import usd_from_nusd
from farthing.prices import PriceBook, Usage
from farthing.replay import Booking, Trace, TraceRequest, post, read, replay_file, spans
from farthing.settings import Settings
from farthing.warehouse import Warehouse

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
AZURE = HEADER + "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n"
AZURE_2024 = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2024-05-10 00:00:00.009930+00:00,2162,5\r\n"
BURST = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n45.5,GPT-4,1087,230,1317,API log\n"
)
BURST_2 = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,77,1.5,ChatGPT,472,18,490,Conversation log\n"
)
MOONCAKE = "".join(
    json.dumps({"timestamp": at, "input_length": n, "output_length": 5, "hash_ids": list(range(n // 512 + 1))}) + "\n"
    for at, n in ((0, 6758), (3000, 512))
)
START_NS = 1_790_000_000_000_000_000


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    """Write a trace file; its name says nothing about its format."""

    def write(text: str, packed: bool = False) -> Path:
        path = tmp_path / "trace"
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
        return path

    return write


def decoded(bodies: Iterator[bytes]) -> list[Span]:
    """Return the spans as the official protobuf reads them."""
    requests = [ExportTraceServiceRequest.FromString(body) for body in bodies]
    scopes = [scope for request in requests for group in request.resource_spans for scope in group.scope_spans]
    assert {scope.scope.name for scope in scopes} == {semconv.REPLAY_SCOPE}
    return [span for scope in scopes for span in scope.spans]


def attributes(span: Span) -> dict[str, Any]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes}


@pytest.mark.parametrize("packed", [False, True])
def test_an_azure_trace_keeps_its_seven_places_of_a_second(file, packed: bool) -> None:
    first, second = read(file(AZURE, packed))
    assert (first.at_ns, first.input_tokens, first.output_tokens) == (1_700_158_623_979_960_000, 4808, 10)
    assert second.at_ns - first.at_ns == 52_000_000


def test_an_azure_trace_of_2024_has_a_zone(file) -> None:
    (only,) = read(file(AZURE_2024))
    assert only.at_ns == 1_715_299_200_009_930_000


def test_a_mooncake_trace_counts_milliseconds_and_names_blocks(file) -> None:
    first, second = read(file(MOONCAKE))
    assert (first.at_ns, second.at_ns) == (0, 3_000_000_000)
    assert first.prefix_hashes == tuple(str(n) for n in range(14))


def test_a_burstgpt_trace_names_models_and_in_newer_releases_sessions(file) -> None:
    first, second = read(file(BURST))
    assert first == TraceRequest(5_000_000_000, 472, 18, model="ChatGPT", row=2)
    assert (second.at_ns, second.model) == (45_500_000_000, "GPT-4")
    (only,) = read(file(BURST_2))
    assert (only.session, only.input_tokens) == ("77", 472)


def test_a_trace_is_summed_before_anything_is_sent(file) -> None:
    trace = read(file(BURST))
    assert (trace.format, trace.is_absolute, trace.requests) == ("burstgpt", False, 2)
    assert (trace.input_tokens, trace.output_tokens) == (1559, 248)
    assert trace.last_ns - trace.first_ns == 40_500_000_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (AZURE + "2023-11-16 18:17:05,many,8\n", "line 4: ContextTokens = 'many'; allowed is a whole number"),
        (AZURE + "2023-11-16 18:17:05,-1,8\n", "line 4: ContextTokens = '-1'"),
        (AZURE + "2023-11-16 18:17:05,4294967296,8\n", "line 4: ContextTokens = '4294967296'"),
        (AZURE + "2023-13-16 18:17:05,1,8\n", "line 4: TIMESTAMP = '2023-13-16 18:17:05'; allowed is a date"),
        (AZURE + "9999-01-01 00:00:00,1,8\n", "line 4: TIMESTAMP = '9999"),
        (AZURE + "2023-11-16 18:17:05,1\n", "line 4: the line = '2023-11-16 18:17:05,1'; allowed is 3 values"),
        (MOONCAKE + '{"timestamp": 0, "input_length": 1.5}\n', "line 3: input_length = 1.5"),
        (MOONCAKE + '{"timestamp": NaN, "input_length": 1, "output_length": 1}\n', "line 3: timestamp = nan"),
        (MOONCAKE + '{"timestamp": 1e400, "input_length": 1, "output_length": 1}\n', "line 3: timestamp = inf"),
        (MOONCAKE + "[1]\n", "line 3: the line = '[1]'; allowed is a JSON object"),
        (MOONCAKE + '{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": 7}', "line 3: hash_ids = 7"),
        (BURST + "1e9999999999,ChatGPT,1,1,2,API log\n", "line 4: Timestamp = '1e9999999999'"),
        (BURST + "-5,ChatGPT,1,1,2,API log\n", "line 4: Timestamp = '-5'; allowed is a time since the start"),
        ("a,b\n1,2\n", "line 1: the first line = 'a,b'; allowed is `TIMESTAMP,ContextTokens"),
        ("", "line 1: the first line = ''"),
        (HEADER, "no request in it"),
        ("x" * (1 << 20), "up to 1,048,576 characters"),
    ],
)
def test_a_bad_line_names_file_line_value_and_what_is_allowed(file, text: str, message: str) -> None:
    path = file(text)
    with pytest.raises(TraceFileError) as raised:
        read(path)
    assert str(raised.value).startswith(str(path))
    assert message in str(raised.value)


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(AZURE.encode())[:-12])
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (cut, binary, tmp_path / "missing", tmp_path):
        with pytest.raises(TraceFileError, match="cannot be read"):
            read(path)


def test_a_row_becomes_one_priced_span_without_duration(file) -> None:
    trace = read(file(MOONCAKE))
    first, second = decoded(spans(trace, booking=Booking(team="search"), start_ns=START_NS))
    assert (first.start_time_unix_nano, first.end_time_unix_nano) == (START_NS, START_NS)
    assert second.start_time_unix_nano == START_NS + 3_000_000_000
    given = attributes(first)
    hashes = [value.string_value for value in given.pop(semconv.PREFIX_HASHES).values]
    assert hashes == [str(n) for n in range(8)]
    assert given == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.usage.input_tokens": 6758,
        "gen_ai.usage.output_tokens": 5,
        "farthing.usage.source": "provider",
        "farthing.replayed": True,
        "farthing.tag.trace": "mooncake",
        "farthing.team": "search",
    }


def test_the_same_replay_sends_the_same_bytes(file) -> None:
    trace, packed = read(file(AZURE)), read(file(AZURE, packed=True))
    assert list(spans(trace)) == list(spans(trace)) == list(spans(packed))


def test_ids_differ_by_row_by_content_and_by_what_is_booked(file) -> None:
    trace = read(file(AZURE))
    changed = read(file(AZURE.replace("4808", "4809")))
    bodies = [spans(trace), spans(changed), spans(trace, booking=Booking(model="gpt-4o"))]
    ids = [(span.trace_id, span.span_id) for body in bodies for span in decoded(body)]
    assert len(ids) == len(set(ids)) == 6
    assert {(len(trace_id), len(span_id)) for trace_id, span_id in ids} == {(16, 8)}


def test_an_absolute_trace_keeps_its_dates_and_a_relative_one_ends_now(file) -> None:
    azure = decoded(spans(read(file(AZURE)), clock_ns=lambda: START_NS))
    assert azure[0].start_time_unix_nano == 1_700_158_623_979_960_000
    mooncake = decoded(spans(read(file(MOONCAKE)), clock_ns=lambda: START_NS))
    assert [span.start_time_unix_nano - START_NS for span in mooncake] == [-3_000_000_000, 0]


def test_bodies_hold_500_spans(file) -> None:
    rows = "".join(f"2023-11-16 18:17:05,{n},8\n" for n in range(1001))
    bodies = list(spans(read(file(HEADER + rows))))
    assert [len(decoded(iter([body]))) for body in bodies] == [500, 500, 1]


def test_a_full_collector_is_waited_for_as_long_as_it_asks(file, collector) -> None:
    waits: list[float] = []
    collector.refuse(503, retry_after="7")
    collector.refuse(503)
    collector.refuse(503, retry_after="3600")
    posted = post(spans(read(file(AZURE))), collector.url, ingest_key="k", sleep=waits.append)
    assert waits == [7.0, 1.0, 30.0]
    assert (posted.bodies, posted.retries, len(collector.spans)) == (1, 3, 2)
    assert collector.headers[-1]["x-farthing-key"] == "k"
    assert collector.headers[-1][":path"] == "/v1/traces"


def test_spans_that_a_collector_did_not_take_are_counted(file, collector) -> None:
    collector.rejects_spans = 2
    assert post(spans(read(file(AZURE))), collector.url).rejected_spans == 2


def test_a_collector_that_stays_full_or_refuses_ends_the_replay(file, collector) -> None:
    collector.refuse(400)
    with pytest.raises(ServeError, match="refused a body: 400 no"):
        post(spans(read(file(AZURE))), collector.url)
    collector.refuse(*[503] * 60)
    with pytest.raises(ServeError, match="is full: 60 attempts"):
        post(spans(read(file(AZURE))), collector.url, sleep=lambda _: None)


def test_without_a_collector_one_line_says_what_to_start(file, dead_url: str) -> None:
    with pytest.raises(ServeError, match=r"does not answer .*; start it with `farthing up`") as raised:
        post(spans(read(file(AZURE))), dead_url)
    assert "\n" not in str(raised.value)
    with pytest.raises(ServeError, match="is no address; write it as"):
        post(spans(read(file(AZURE))), "localhost:4318")


@pytest.fixture
def book(tmp_path: Path, warehouse: Warehouse, serve) -> Iterator[Any]:
    """Replay a trace through a running collector and return the totals of its tenant."""
    tenant = f"replay-{uuid4().hex}"
    settings = Settings(data_dir=tmp_path / "data", tenant=tenant)

    def totals(trace: Trace, times: int = 1) -> dict[str, Any]:
        for _ in range(times):
            post(spans(trace, booking=Booking(), start_ns=START_NS), url)
        call("POST", f"{url}/v1/flush")
        start = datetime.fromtimestamp(START_NS / 1e9, timezone.utc)
        day = {"since": start - timedelta(hours=1), "until": start + timedelta(days=1), "teams": [], "models": []}
        return warehouse.ask("totals", tenant=tenant, part="test", **day)[0]

    with serve(collector_app(settings, warehouse)) as port:
        url = f"http://127.0.0.1:{port}"
        yield totals


def cost_nusd(trace: Trace) -> int:
    """Return what the rows cost by the price book, added up one by one."""
    price = PriceBook().at("openai", "gpt-4o-mini", date(2026, 9, 21))
    assert price is not None
    return sum(price.cost_nusd(Usage(input_uncached=row.input_tokens, output=row.output_tokens)) for row in trace)


def test_a_replay_is_booked_once_with_exact_tokens_and_cost(file, book) -> None:
    trace = read(file(AZURE))
    totals = book(trace, times=2)  # the second time is byte-identical, and the collector knows it
    assert (totals["requests"], totals["input_tokens"], totals["output_tokens"]) == (2, 7988, 18)
    # 4808 x 0.15 + 10 x 0.60 and 3180 x 0.15 + 8 x 0.60 USD per million tokens
    assert totals["cost_usd"] == usd_from_nusd(727_200 + 481_800)


@pytest.mark.parametrize(
    ("name", "rows", "tokens"),
    [
        ("azure_llm_2023_code.csv.gz", 8_819, (18_059_974, 245_896)),
        ("mooncake_fast25_conversation.jsonl.gz", 12_031, (144_793_823, 4_122_048)),
    ],
)
def test_a_public_trace_is_booked_row_by_row(shared, book, name: str, rows: int, tokens: tuple[int, int]) -> None:
    trace = read(shared(f"data/{name}"))
    assert (trace.requests, trace.input_tokens, trace.output_tokens) == (rows, *tokens)
    totals = book(trace)
    assert (totals["requests"], totals["input_tokens"], totals["output_tokens"]) == (rows, *tokens)
    assert totals["cost_usd"] == usd_from_nusd(cost_nusd(trace))
    assert (totals["unpriced"], totals["unknown_usage"]) == (0, 0)


def test_the_command_line_gets_counts_of_what_was_booked(file, collector) -> None:
    counts = replay_file(file(MOONCAKE), collector.url, ("openai", "gpt-4o", "growth"), keep_dates=False)
    assert (counts["format"], counts["requests"], counts["input_tokens"], counts["bodies"]) == ("mooncake", 2, 7270, 1)
    assert {span.attributes["gen_ai.request.model"] for span in collector.spans} == {"gpt-4o"}
    assert {span.attributes["farthing.team"] for span in collector.spans} == {"growth"}
