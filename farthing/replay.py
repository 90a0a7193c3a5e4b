"""Public serving traces as priced requests: read a trace file, write its rows as OTLP spans, post them to a collector.

The traces hold when a request came and how many tokens it had, and no duration: a replayed call lasts 0 s and nothing
is invented. Span ids are derived from the file's content, the row and what it is priced as, so a replay to the same
place in time sends the same bytes again.

    trace = read(Path("AzureLLMInferenceTrace_code.csv"))
    post(spans(trace, booking=Booking("openai", "gpt-4o-mini", team="search")), "http://127.0.0.1:4318")
"""
from __future__ import annotations

import gzip
import http.client
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

from farthing import otlp, semconv
from farthing.errors import ServeError, TraceFileError
from farthing.trace_formats import Line, Parse, detect, lines

SPANS_PER_BODY = 500
PREFIX_HASHES_KEPT = 8  # of a request; more would make the span longer than all else in it
MAX_ATTEMPTS = 60  # of one body, while the collector says 503
MAX_WAIT_S = 30.0  # seconds between two attempts, whatever the collector asks for
SERVICE = "farthing-replay"
VERSION = "1"  # of the scope; raised when the encoding changes


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One row of a trace."""

    at_ns: int  # nanoseconds: since the epoch in an absolute trace, else since the trace began
    input_tokens: int
    output_tokens: int
    model: str = ""  # as the trace names it
    session: str = ""
    prefix_hashes: tuple[str, ...] = ()  # of the prompt's blocks, oldest first
    row: int = 0  # number of the line in the file, from 1


@dataclass(frozen=True)
class Trace:
    """A trace file that has been read to its end once, so that no bad line is found after half of it was sent."""

    path: Path
    format: str  # azure | mooncake | burstgpt
    is_absolute: bool  # False: times count from the start of the trace
    digest: bytes  # [16], of the content
    requests: int
    input_tokens: int
    output_tokens: int
    first_ns: int
    last_ns: int
    parse: Parse

    def __iter__(self) -> Iterator[TraceRequest]:
        for line in lines(self.path):
            if line.number > self.parse.header_lines and line.text:
                yield _request(self.parse, line)


@dataclass(frozen=True)
class Booking:
    """What the rows of a trace are booked as."""

    provider: str = "openai"
    model: str = "gpt-4o-mini"
    team: str = "replay"
    user: str = ""
    feature: str = ""


@dataclass(frozen=True)
class Posted:
    """What a collector took."""

    bodies: int = 0
    bytes: int = 0  # as sent, compressed
    retries: int = 0  # attempts that it answered with 503
    rejected_spans: int = 0  # of bodies that it took in part


def read(path: Path) -> Trace:
    """Read and check a whole trace file, plain or gzip; iterate over the result for its requests.

    Raises:
        TraceFileError: the file is missing, of no known format, or a line is bad; the message names line and value.
    """
    parse = detect(path)
    rows = tokens_in = tokens_out = 0
    first, last = 2**63, -(2**63)
    digest = blake2b(digest_size=16)
    for line in lines(path):
        digest.update(line.text.encode("utf-8", "surrogateescape") + b"\n")
        if line.number <= parse.header_lines or not line.text:
            continue
        request = _request(parse, line)
        rows += 1
        tokens_in += request.input_tokens
        tokens_out += request.output_tokens
        first, last = min(first, request.at_ns), max(last, request.at_ns)
    if not rows:
        raise TraceFileError(f"{path}: no request in it; a trace has one row per request below its header")
    return Trace(
        path, parse.format, parse.is_absolute, digest.digest(), rows, tokens_in, tokens_out, first, last, parse
    )


def _request(parse: Parse, line: Line) -> TraceRequest:
    return TraceRequest(**parse.row(line), row=line.number)


def spans(
    trace: Trace,
    *,
    booking: Booking | None = None,
    start_ns: int | None = None,
    clock_ns: Callable[[], int] = time.time_ns,
) -> Iterator[bytes]:
    """Return OTLP bodies of about 500 spans that book each request of `trace`.

    The first request is placed at `start_ns` (nanoseconds since the epoch). None keeps the times of an absolute trace,
    and moves a relative one so that its last request was now.
    """
    booked = booking or Booking()
    if start_ns is not None:
        shift = start_ns - trace.first_ns
    else:
        shift = 0 if trace.is_absolute else clock_ns() - trace.last_ns
    salt = blake2b(repr((trace.digest, booked)).encode(), digest_size=16).digest()
    fixed = _fixed_attributes(trace, booked)
    requests = iter(trace)
    while batch := list(islice(requests, SPANS_PER_BODY)):
        encoded = (_span(replace(request, at_ns=request.at_ns + shift), salt, fixed) for request in batch)
        yield otlp.traces([("service.name", SERVICE)], semconv.REPLAY_SCOPE, VERSION, encoded)


def _fixed_attributes(trace: Trace, booking: Booking) -> bytes:
    given: list[tuple[str, otlp.Value]] = [
        (semconv.OPERATION_NAME, "chat"),
        (semconv.PROVIDER_NAME, booking.provider),
        (semconv.REQUEST_MODEL, booking.model),
        (semconv.USAGE_SOURCE, "provider"),
        (semconv.REPLAYED, True),
        (semconv.tag_attribute("trace"), trace.format),
    ]
    tags = ((semconv.TEAM, booking.team), (semconv.USER, booking.user), (semconv.FEATURE, booking.feature))
    return otlp.attributes(given + [(key, value) for key, value in tags if value])


def _span(request: TraceRequest, salt: bytes, fixed: bytes) -> bytes:
    ids = blake2b(request.row.to_bytes(8, "big"), key=salt, digest_size=24).digest()
    varying: list[tuple[str, otlp.Value]] = [
        (semconv.USAGE_INPUT_TOKENS, request.input_tokens),
        (semconv.USAGE_OUTPUT_TOKENS, request.output_tokens),
    ]
    if request.session:
        varying.append((semconv.SESSION, request.session))
    if request.model:
        varying.append((semconv.tag_attribute("trace_model"), request.model))
    if request.prefix_hashes:
        varying.append((semconv.PREFIX_HASHES, request.prefix_hashes[:PREFIX_HASHES_KEPT]))
    window = (request.at_ns, request.at_ns)
    return otlp.span(ids[:16], ids[16:], b"", "chat", window, fixed + otlp.attributes(varying), otlp.KIND_CLIENT)


def post(
    bodies: Iterable[bytes], collector_url: str, ingest_key: str = "", sleep: Callable[[float], None] = time.sleep
) -> Posted:
    """Send OTLP bodies to a collector, gzipped, and wait as long as it asks where it is full.

    Raises:
        ServeError: the collector does not answer, refuses a body, or stays full; what was sent before stays booked.
    """
    posted = Posted()
    connection = _connection(collector_url)
    try:
        for body in bodies:
            one = _deliver(connection, gzip.compress(body, mtime=0), collector_url, ingest_key, sleep)
            posted = Posted(*(a + b for a, b in zip(astuple(posted), astuple(one), strict=True)))
    finally:
        connection.close()
    return posted


def _connection(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ServeError(f"collector {url!r} is no address; write it as http://127.0.0.1:4318")
    made = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return made(parts.hostname, parts.port, timeout=60)


def _deliver(
    connection: http.client.HTTPConnection, packed: bytes, url: str, key: str, sleep: Callable[[float], None]
) -> Posted:
    """Send one body until it is taken."""
    headers = {"content-type": "application/x-protobuf", "content-encoding": "gzip"}
    if key:
        headers[semconv.HEADER_TENANT_KEY] = key
    for attempt in range(MAX_ATTEMPTS):
        status, retry_after, answer = _exchange(connection, packed, headers, url)
        if status == 200:
            return Posted(1, len(packed), attempt, _rejected(answer))
        if status != 503:
            raise ServeError(f"collector {url} refused a body: {status} {answer[:200].decode('utf-8', 'replace')}")
        connection.close()  # a server drops an idle connection sooner than we may have to wait
        sleep(_seconds(retry_after))
    raise ServeError(f"collector {url} is full: {MAX_ATTEMPTS} attempts of one body were answered with 503")


def _exchange(
    connection: http.client.HTTPConnection, packed: bytes, headers: dict[str, str], url: str
) -> tuple[int, str, bytes]:
    try:
        connection.request("POST", urlsplit(url).path.rstrip("/") + "/v1/traces", packed, headers)
        response = connection.getresponse()
        return response.status, response.getheader("retry-after", ""), response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ServeError(f"collector {url} does not answer ({error}); start it with `farthing up`") from None


def _rejected(answer: bytes) -> int:
    """Return how many spans a successful answer says were not taken."""
    if not answer:
        return 0
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    return ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans


def _seconds(retry_after: str) -> float:
    """Return how long to wait; a date or nonsense in the header counts as one second."""
    return min(float(retry_after), MAX_WAIT_S) if retry_after.isdecimal() else 1.0


def replay_file(path: Path, collector_url: str, booked: tuple[str, str, str], keep_dates: bool) -> dict[str, object]:
    """Book a trace file as (provider, model, team) and return the counts, for the command line.

    The trace is moved so that its last request was now, unless `keep_dates` and the trace has dates.
    """
    trace = read(path)
    provider, model, team = booked
    start_ns = None if keep_dates else time.time_ns() - (trace.last_ns - trace.first_ns)
    bodies = spans(trace, booking=Booking(provider, model, team), start_ns=start_ns)
    posted = post(bodies, collector_url)
    return {
        "format": trace.format,
        "requests": trace.requests,
        "input_tokens": trace.input_tokens,
        "output_tokens": trace.output_tokens,
        "bodies": posted.bodies,
        "bytes": posted.bytes,
        "retries": posted.retries,
        "rejected_spans": posted.rejected_spans,
    }
