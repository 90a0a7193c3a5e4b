"""proxy/chat.py: every way out of a call settles once, records once and agrees with the real ledger.

The upstream is a server of ours that misbehaves on purpose; proxy, control plane and ledger are the real ones.
"""
from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from farthing import http_json, semconv
from farthing.money import cost_nusd
from farthing.settings import Deployment, PriceOverride, Settings
from policies.main import app as policies_app
from proxy.main import app as proxy_app
from tests.conftest import REPOSITORY, served

RATES = (1_000_000_000, 2_000_000_000)  # nUSD per million input and output tokens; 1 and 2 USD
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
COST = 20_000  # nano-dollars of USAGE
SECRET = "sk-upstream-secret-0123456789"
HOST_SECRET = "sk-of-another-deployment"
Behaviour = Callable[["Received", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Received:
    """One request as the upstream got it."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass
class Upstream:
    """Two providers and the collector in one: what it does next is what a test last said in `behave`."""

    behave: Behaviour
    port: int = 0
    received: list[Received] = field(default_factory=list)
    spans: list[dict[str, Any]] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)  # lets a behaviour that waits go on
    arrived: threading.Event = field(default_factory=threading.Event)  # a request is here
    hung_up: threading.Event = field(default_factory=threading.Event)  # the proxy closed a connection early

    def next(self, behave: Behaviour) -> None:
        self.behave = behave
        self.received.clear()
        for event in (self.release, self.arrived, self.hung_up):
            event.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                request = await read_request(reader)
                if request.path == "/v1/traces":
                    self.spans += spans_of(request.body)
                    writer.write(reply(b""))
                elif not request.path.endswith("/chat/completions"):
                    writer.write(reply(b"", status=404))
                else:
                    self.received.append(request)
                    self.arrived.set()
                    await self.behave(request, reader, writer)
                await writer.drain()
        writer.close()
        with suppress(ConnectionError, TimeoutError, asyncio.CancelledError):
            await asyncio.wait_for(writer.wait_closed(), 1)
        writer.transport.abort()


async def read_request(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:]) if name}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(head[0].split(" ")[1], headers, body)


def spans_of(body: bytes) -> list[dict[str, Any]]:
    request = ExportTraceServiceRequest.FromString(body)
    spans = [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]
    return [{entry.key: plain(entry.value) for entry in span.attributes} for span in spans]


def plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [plain(item) for item in value.array_value.values] if kind == "array_value" else getattr(value, kind)


def reply(body: bytes, *headers: str, status: int = 200, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "\r\n"]).encode() + body


def answer_of(content: str = "hello", usage: Any = USAGE, **more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return json.dumps({"id": "chatcmpl-1", "object": "chat.completion", "model": "x", "choices": [choice], "created": 1}
                      | ({"usage": usage} if usage else {}) | more).encode()  # fmt: skip


def chunk(delta: dict[str, Any] | None, usage: Any = None, finish: str | None = None) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "x", "choices": choices}
    return b"data: " + json.dumps(body | {"usage": usage}).encode() + b"\n\n"


DELTAS = chunk({"role": "assistant", "content": "he"}) + chunk({"content": "llo"}) + chunk({}, finish="stop")
LAST = chunk(None, USAGE)
DONE = b"data: [DONE]\n\n"
EVENTS = DELTAS + LAST + DONE
ERROR_EVENT = b'data: {"error": {"message": "overloaded", "type": "server_error", "code": null}}\n\n'


def answers(body: bytes, *headers: str, status: int = 200) -> Behaviour:
    async def behave(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(body, "content-type: application/json", *headers, status=status))

    return behave


def streams(events: bytes, cut_at: int | None = None, ends: bool = True) -> Behaviour:
    """Send events in chunked encoding; with `cut_at` the connection breaks after so many bytes of them."""

    async def behave(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        sent = events if cut_at is None else events[:cut_at]
        if sent:
            writer.write(b"%x\r\n%b\r\n" % (len(sent), sent))
        await writer.drain()
        if cut_at is not None:
            writer.close()
        elif ends:
            writer.write(b"0\r\n\r\n")

    return behave


def waits(upstream: Upstream, then: Behaviour, first: bytes = b"") -> Behaviour:
    """Wait until the test says `release`, then go on; notice when the proxy hangs up before."""

    async def behave(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if first:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + first)
            await writer.drain()
        closing = asyncio.create_task(reader.read(1))
        released = asyncio.create_task(asyncio.to_thread(upstream.release.wait, 30))
        await asyncio.wait((closing, released), return_when=asyncio.FIRST_COMPLETED)
        if closing.done():
            upstream.hung_up.set()
            upstream.release.set()
            writer.close()
            return
        closing.cancel()
        await then(request, reader, writer)

    return behave


async def resets(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def error_cut(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(reply(b"{", status=500, length=99))
    await writer.drain()
    writer.close()


async def hangs(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


async def ends_stream(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(EVENTS[len(DELTAS) :])
    await writer.drain()
    writer.close()


@contextmanager
def running(upstream: Upstream) -> Iterator[None]:
    """Run the fake upstream in a thread with an event loop of its own."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(upstream.serve, "127.0.0.1", 0, limit=2**24))
    upstream.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield
    finally:
        upstream.release.set()
        asyncio.run_coroutine_threadsafe(stopped(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def stopped(server: asyncio.Server) -> None:
    """Stop listening, and end what still hangs."""
    server.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.01)  # transports that were closed just now are gone with the loop's next turn


def deployments(port: int, closed: int) -> tuple[Deployment, ...]:
    there, away = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{closed}/v1"
    third, own = f"{there}/third/v1", f"{there}/own/v1"
    return (
        Deployment("gpt", third, "openai", upstream_model="gpt-real", api_key_env="UPSTREAM_KEY", metered=True),
        Deployment("gpt-plain", third, "openai", metered=True),
        Deployment("own", own, "own"),
        Deployment("away", away, "openai", metered=True),
        Deployment("pair", away, "openai", metered=True),
        Deployment("pair", third, "openai", upstream_model="second", metered=True),
        Deployment("unpriced", third, "mystery", metered=True),
        Deployment("secretive", f"{there}/other/v1", "openai", api_key_env="OTHER_KEY", metered=True),
    )


PRICES = tuple(
    PriceOverride(provider, model, input="1", output="2")
    for provider, model in (
        ("openai", "gpt"), ("openai", "gpt-plain"), ("own", "own"), ("openai", "away"), ("openai", "pair"),
        ("openai", "secretive"),
    )
)  # fmt: skip


class Rig:
    """The real proxy and the real control plane around the fake upstream."""

    def __init__(self, upstream: Upstream, settings: Settings, policies: int, proxy: int, hasty: int) -> None:
        self.upstream, self.settings = upstream, settings
        self.policies, self.proxy, self.hasty = (f"http://127.0.0.1:{port}" for port in (policies, proxy, hasty))
        self.wrong: list[str] = []  # what uvicorn or asyncio logged as an error

    def apply(self, text: str) -> None:
        version = http_json.call("POST", f"{self.policies}/v1/apply", text)["version"]
        for url in (self.proxy, self.hasty):
            until(lambda url=url: self.status(url)["policy_version"] >= version, "the proxy follows")

    def budget(self, limit: str = "1 USD", team: str = "") -> str:
        """Make a team with a budget of its own."""
        team = team or f"team-{uuid.uuid4().hex[:8]}"
        head = f"apiVersion: farthing/v1\nkind: Budget\nmetadata: {{name: {team}}}\n"
        self.apply(f"{head}scope: {{team: {team}}}\nlimit: {limit}\n")
        return team

    def cache(self, team: str, **spec: object) -> None:
        self.apply(
            f"apiVersion: farthing/v1\nkind: Policy\nmetadata: {{name: cache-{team}}}\nmatch: {{team: {team}}}\n"
            f"action: {{cache: {json.dumps(spec)}}}\n"
        )

    def status(self, url: str = "") -> dict[str, Any]:
        return http_json.call("GET", f"{url or self.proxy}/v1/status")

    def balance(self, team: str) -> dict[str, Any]:
        lines = http_json.call("GET", f"{self.policies}/v1/budgets")["budgets"]
        return next(line for line in lines if line["name"] == team)

    def settlements(self, team: str) -> list[dict[str, Any]]:
        rows = http_json.call("GET", f"{self.policies}/v1/ledger/settlements")["settlements"]
        return [row for row in rows if row["budget"] == team]

    def client(self, team: str, **options: Any) -> openai.OpenAI:
        headers = {semconv.HEADER_TAGS: f"team={team},user=ann,tier=gold"}
        options = {"max_retries": 0, "api_key": "of-the-client", "default_headers": headers} | options
        return openai.OpenAI(base_url=f"{self.proxy}/v1", **options)

    def quiet(self) -> None:
        def is_quiet() -> bool:
            found = [self.status(url) for url in (self.proxy, self.hasty)]
            return not any(s["spans_waiting"] or s["settlements_waiting"] or s["in_flight"] for s in found)

        until(is_quiet, "the proxy has nothing left to send")

    def span(self, team: str) -> dict[str, Any]:
        """Return the one span of the one call of a team, once all is quiet, and hold it against the ledger."""
        until(lambda: self.spans(team), "a span arrives")
        self.quiet()
        (span,) = self.spans(team)
        self.agrees(span, team)
        return span

    def spans(self, team: str) -> list[dict[str, Any]]:
        return [span for span in self.upstream.spans if span.get(semconv.TEAM) == team]

    def agrees(self, span: dict[str, Any], team: str) -> None:
        balance = self.balance(team)
        assert balance["held_nusd"] == 0 and balance["overrun_nusd"] == 0
        charges = [row for row in self.settlements(team) if row["request_id"] == span[semconv.REQUEST_ID]]
        if semconv.SETTLED_NUSD not in span:
            assert charges == []
            return
        (charge,) = charges
        assert charge["charged_nusd"] == span[semconv.SETTLED_NUSD] <= charge["held_nusd"] == span[semconv.HELD_NUSD]
        tokens = [span.get(name) for name in (semconv.USAGE_INPUT_TOKENS, semconv.USAGE_OUTPUT_TOKENS)]
        if span[semconv.USAGE_SOURCE] == "missing":
            assert tokens == [None, None] and charge["charged_nusd"] == charge["held_nusd"]
        else:
            assert cost_nusd(zip(tokens, RATES, strict=True)) == charge["charged_nusd"]  # type: ignore[arg-type]


def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Errors(logging.Handler):
    """Keeps what uvicorn and asyncio say went wrong: an exception in the application, or one that nobody retrieved."""

    def __init__(self, kept: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(self.format(record))


@contextmanager
def rig_in(folder: Path, **more: Any) -> Iterator[Rig]:
    upstream = Upstream(answers(answer_of()))
    with running(upstream), served(policies_app(Settings(data_dir=folder / "control"))) as policies:
        settings = Settings(
            data_dir=folder / "proxy", policies_url=f"http://127.0.0.1:{policies}", prices=PRICES,
            collector_url=f"http://127.0.0.1:{upstream.port}", deployments=deployments(upstream.port, closed_port()),
            request_timeout_s=20.0, **more,
        )  # fmt: skip
        hasty = Settings(**{**vars(settings), "data_dir": folder / "hasty", "request_timeout_s": 0.5})
        with served(proxy_app(settings)) as proxy, served(proxy_app(hasty)) as quick:
            rig = Rig(upstream, settings, policies, proxy, quick)
            yield rig


@pytest.fixture(scope="module")
def shared_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    os.environ |= {"UPSTREAM_KEY": SECRET, "OTHER_KEY": HOST_SECRET}
    with rig_in(tmp_path_factory.mktemp("rig")) as rig:
        handler = Errors(rig.wrong)
        loggers = [logging.getLogger(name) for name in ("uvicorn.error", "asyncio")]
        for logger in loggers:
            logger.addHandler(handler)
        yield rig
        for logger in loggers:
            logger.removeHandler(handler)
    del os.environ["UPSTREAM_KEY"], os.environ["OTHER_KEY"]


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    """The rig; nothing may go wrong in it that no caller hears of."""
    shared_rig.wrong.clear()
    shared_rig.upstream.next(answers(answer_of()))
    yield shared_rig
    shared_rig.upstream.release.set()
    shared_rig.quiet()
    assert shared_rig.wrong == []


def asked(model: str = "gpt-plain", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20} | more


def post(rig: Rig, team: str, body: bytes, url: str = "", **headers: str) -> http.client.HTTPResponse:
    """Post a body byte for byte; the answer is read when it is returned."""
    given = {semconv.HEADER_TAGS: f"team={team}", "content-type": "application/json"} | headers
    address = (url or rig.proxy).removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("POST", "/v1/chat/completions", body, given)
    response = connection.getresponse()
    response.whole = response.read()  # type: ignore[attr-defined]
    connection.close()
    return response


def send_only(rig: Rig, team: str, body: bytes, url: str = "") -> socket.socket:
    """Send a request and return its open socket, for a client that goes away or does not read."""
    host, _, port = (url or rig.proxy).removeprefix("http://").partition(":")
    sock = socket.create_connection((host, int(port)), timeout=20)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    sock.sendall(f"{head}x-farthing-tags: team={team}\r\n\r\n".encode() + body)
    return sock


@pytest.mark.parametrize("model", ["gpt-plain", "own"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_good_answer_is_charged_what_it_used(rig: Rig, model: str, stream: bool) -> None:
    team = rig.budget()
    rig.upstream.next(streams(EVENTS) if stream else answers(answer_of()))
    made: Any = rig.client(team).chat.completions.create(**asked(model), stream=stream)
    text = "".join(part.choices[0].delta.content or "" for part in made) if stream else made.choices[0].message.content
    assert text == "hello"
    span = rig.span(team)
    assert (span[semconv.OUTCOME], span[semconv.SETTLED_NUSD], span[semconv.USAGE_SOURCE]) == ("ok", COST, "proxy")


ZERO, HOLD = "nothing", "the hold"
CASES: dict[str, tuple[Behaviour, dict[str, Any], tuple[int, str, str]]] = {
    "the upstream's 400": (answers(b'{"error": {}}', status=400), {}, (400, "upstream_400", ZERO)),
    "the upstream's 429": (answers(b"{}", "retry-after: 7", status=429), {}, (429, "upstream_429", ZERO)),
    "the upstream's 500": (answers(b"{}", status=500), {}, (500, "upstream_500", ZERO)),
    "its error, cut": (error_cut, {}, (502, "upstream_error", ZERO)),
    "a head, then cut": (streams(b"", cut_at=0), {"stream": True}, (200, "upstream_error", HOLD)),
    "our key refused": (answers(SECRET.encode(), status=401), {}, (502, "upstream_error", ZERO)),
    "a redirect": (answers(b"", "location: http://elsewhere/", status=307), {}, (502, "upstream_error", ZERO)),
    "a 202": (answers(b"{}", status=202), {}, (502, "upstream_error", HOLD)),
    "refused": (resets, {"model": "away"}, (502, "upstream_error", ZERO)),
    "reset before the head": (resets, {}, (502, "upstream_error", HOLD)),
    "no usage": (answers(answer_of(usage=None)), {}, (200, "", HOLD)),
    "null usage": (answers(answer_of(usage={"prompt_tokens": None})), {}, (200, "", HOLD)),
    "negative usage": (answers(answer_of(usage={"prompt_tokens": -9})), {}, (200, "upstream_error", HOLD)),
    "absurd usage": (answers(answer_of(usage={"prompt_tokens": 10**30})), {}, (200, "upstream_error", HOLD)),
    "not JSON": (answers(b"<html>"), {}, (200, "upstream_error", HOLD)),
    "an error as an answer": (answers(b'{"error": {"message": "no"}}'), {}, (200, "upstream_error", HOLD)),
    "a model unknown": (answers(b""), {"model": "nobody"}, (404, "model_not_found", ZERO)),
    "a price unknown": (answers(b""), {"model": "unpriced"}, (400, "price_unknown", ZERO)),
    "no bound": (answers(b""), {"service_tier": "priority"}, (400, "cost_unbounded", ZERO)),
    "no usage in a stream": (streams(DELTAS + DONE), {"stream": True}, (200, "", HOLD)),
    "an error in a stream": (streams(chunk({}) + ERROR_EVENT), {"stream": True}, (200, "upstream_error", HOLD)),
    "an error first": (streams(ERROR_EVENT), {"stream": True}, (200, "upstream_error", HOLD)),
    "cut before an event": (streams(EVENTS, cut_at=10), {"stream": True}, (200, "upstream_error", HOLD)),
    "cut in the middle": (streams(EVENTS, cut_at=len(DELTAS) // 2), {"stream": True}, (200, "upstream_error", HOLD)),
    "cut with a count so far": (streams(chunk({}, USAGE) + b"x", 999), {"stream": True}, (200, "upstream_error", HOLD)),
    "ended in the middle": (streams(DELTAS[: len(DELTAS) // 2]), {"stream": True}, (200, "upstream_error", HOLD)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_answer_that_is_not_good_settles_and_is_recorded_once(rig: Rig, name: str) -> None:
    behave, more, (status, error_type, charge) = CASES[name]
    team = rig.budget()
    rig.upstream.next(behave)
    response = post(rig, team, json.dumps(asked(**more)).encode())
    assert response.status == status
    assert SECRET not in str(response.headers) + response.whole.decode()  # type: ignore[attr-defined]
    span = rig.span(team)
    assert span.get(semconv.ERROR_TYPE, "") == error_type
    assert response.headers[semconv.HEADER_REQUEST_ID] == span[semconv.REQUEST_ID]
    assert span.get(semconv.SETTLED_NUSD, 0) == {ZERO: 0, HOLD: span.get(semconv.HELD_NUSD)}[charge]
    if name == "the upstream's 429":
        assert response.headers["retry-after"] == "7"


def test_a_stream_cut_after_its_usage_is_charged_the_usage(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(streams(EVENTS, cut_at=len(DELTAS + LAST)))
    post(rig, team, json.dumps(asked(stream=True)).encode())
    assert rig.span(team)[semconv.SETTLED_NUSD] == COST


def test_a_cut_stream_ends_for_the_client_with_an_error_and_not_as_if_it_were_whole(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(streams(EVENTS, cut_at=len(DELTAS) - 5))
    pieces: list[Any] = []
    with pytest.raises(openai.APIError, match="model's server failed"):
        pieces += iter(rig.client(team).chat.completions.create(**asked(), stream=True))
    rig.span(team)


@pytest.mark.parametrize("name", ["no head", "half a stream", "half a JSON answer", "a client that does not read"])
def test_a_call_that_takes_too_long_is_ended_and_charged_its_hold(rig: Rig, name: str) -> None:
    team = rig.budget()
    half = reply(answer_of()[:20], length=1000)

    async def writes_half(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(half)
        await hangs(request, reader, writer)

    flood = streams(chunk({"content": "x" * 1000}) * 30_000)
    behaviours = {"no head": hangs, "half a stream": waits(rig.upstream, hangs, DELTAS[:200]),
                  "half a JSON answer": writes_half, "a client that does not read": flood}  # fmt: skip
    rig.upstream.next(behaviours[name])
    body = json.dumps(asked(stream=name != "no head")).encode()
    if name == "a client that does not read":
        with send_only(rig, team, body, rig.hasty):
            until(lambda: rig.spans(team), "the call ends")
        rig.wrong = [line for line in rig.wrong if "without completing response" not in line]
    else:
        response = post(rig, team, body, rig.hasty)
        whole = response.whole  # type: ignore[attr-defined]
        assert response.status == (200 if name == "half a stream" else 504) and b"no whole answer within 0.5 s" in whole
    span = rig.span(team)
    assert (span[semconv.ERROR_TYPE], span[semconv.USAGE_SOURCE]) == ("upstream_timeout", "missing")


@pytest.mark.parametrize("stream", [False, True])
def test_a_metered_upstream_is_read_to_its_end_after_the_client_has_gone(rig: Rig, stream: bool) -> None:
    team = rig.budget()
    rig.upstream.next(waits(rig.upstream, ends_stream, DELTAS) if stream else waits(rig.upstream, answers(answer_of())))
    sock = send_only(rig, team, json.dumps(asked(stream=stream)).encode())
    assert rig.upstream.arrived.wait(20)
    if stream:
        until(lambda: b"llo" in sock.recv(4096), "the stream has begun")
    sock.close()
    until(lambda: rig.balance(team)["held_nusd"] > 0, "the hold is still there")
    time.sleep(0.1)  # the proxy hears of the client's leaving before the upstream goes on
    assert not rig.upstream.hung_up.is_set() and rig.status()["in_flight"] == 1
    rig.upstream.release.set()
    span = rig.span(team)
    assert (span[semconv.OUTCOME], span[semconv.USAGE_SOURCE], span[semconv.SETTLED_NUSD]) == ("aborted", "proxy", COST)


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_of_our_own_is_left_when_the_client_goes(rig: Rig, stream: bool) -> None:
    team = rig.budget()
    rig.upstream.next(waits(rig.upstream, ends_stream, DELTAS if stream else b""))
    sock = send_only(rig, team, json.dumps(asked("own", stream=stream)).encode())
    assert rig.upstream.arrived.wait(20)
    if stream:
        until(lambda: b"llo" in sock.recv(4096), "the stream has begun")
    sock.close()
    assert rig.upstream.hung_up.wait(20)
    span = rig.span(team)
    assert (span[semconv.OUTCOME], span[semconv.USAGE_SOURCE]) == ("aborted", "estimate" if stream else "missing")
    assert 0 < span[semconv.SETTLED_NUSD] <= span[semconv.HELD_NUSD]


def test_a_client_that_closes_right_after_the_last_event_has_not_aborted(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(waits(rig.upstream, resets, EVENTS))
    sock = send_only(rig, team, json.dumps(asked("own", stream=True)).encode())
    until(lambda: b"[DONE]" in sock.recv(4096), "the last event is here")
    sock.close()
    time.sleep(0.1)
    rig.upstream.release.set()
    span = rig.span(team)
    assert span[semconv.SETTLED_NUSD] == COST and span[semconv.OUTCOME] != "aborted"


def test_a_client_that_leaves_while_the_ledger_decides_costs_nothing(rig: Rig) -> None:
    team = rig.budget()
    for _ in range(20):
        send_only(rig, team, json.dumps(asked("own")).encode()).close()
    until(lambda: len(rig.spans(team)) == 20, "every call is recorded")
    rig.quiet()
    assert rig.balance(team)["held_nusd"] == 0
    for span in rig.spans(team):
        rig.agrees(span, team)


def test_an_answer_larger_than_any_model_gives_is_refused_and_charged_its_hold(rig: Rig) -> None:
    async def flood(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"", "content-type: application/json", length=10**9))
        with suppress(ConnectionError):
            for _ in range(1000):
                writer.write(b" " * 1_000_000)
                await writer.drain()

    team = rig.budget()
    rig.upstream.next(flood)
    assert post(rig, team, json.dumps(asked()).encode()).status == 502
    assert rig.span(team)[semconv.USAGE_SOURCE] == "missing"


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (b"\xff", 400), (b'{"model":1}', 400), (b" " * 5_000_000, 413)]
)
def test_a_body_that_is_no_request_is_refused_and_costs_nothing(rig: Rig, body: bytes, status: int) -> None:
    assert post(rig, rig.budget(), body).status == status
    assert rig.upstream.received == []


def test_a_budget_refuses_the_call_that_does_not_fit_and_the_client_is_told_not_to_repeat_it(rig: Rig) -> None:
    team = rig.budget(limit="0.000001 USD")
    with pytest.raises(openai.RateLimitError, match="may cost up to") as refused:
        rig.client(team, max_retries=3).chat.completions.create(**asked())
    assert refused.value.type == "insufficient_quota" and refused.value.code == "budget_exceeded"
    assert rig.upstream.received == []
    assert rig.span(team)[semconv.OUTCOME] == "refused"


def test_a_fallback_gets_a_body_of_its_own_and_one_hold_covers_the_call(rig: Rig) -> None:
    team = rig.budget()
    rig.client(team).chat.completions.create(**asked("pair"))
    (received,) = rig.upstream.received
    assert received.json["model"] == "second"
    assert rig.span(team)[semconv.SETTLED_NUSD] == COST


def test_a_request_that_an_upstream_may_have_begun_is_not_sent_again(rig: Rig) -> None:
    async def resets_the_second(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(rig.upstream.received) == 1:
            writer.write(reply(answer_of(), "content-type: application/json"))
        else:
            writer.transport.abort()

    team = rig.budget()
    rig.upstream.next(resets_the_second)
    statuses = [post(rig, team, json.dumps(asked()).encode()).status for _ in range(2)]
    assert statuses == [200, 502] and len(rig.upstream.received) == 2


@pytest.mark.parametrize("body", [
    b'{"model":"gpt-plain","messages":[{"role":"user","content":"h\\u00e9 \xc3\xa9"}],"max_tokens":20,"x":[1.50,1e2]}',
    b' {"max_tokens" : 20, "messages": [ {"content":"hi","role":"user"} ],\n"model":"gpt-plain" } ',
    b'{"model":"gpt-plain","messages":[{"role":"user","content":"hi"}],"stream":true,'
    b'"stream_options":{"include_usage":true},"max_completion_tokens":7}',
])  # fmt: skip
def test_what_need_not_change_reaches_the_upstream_byte_for_byte(rig: Rig, body: bytes) -> None:
    team = rig.budget()
    rig.upstream.next(streams(EVENTS) if b"stream" in body else answers(answer_of()))
    assert post(rig, team, body).status == 200
    assert rig.upstream.received[0].body == body
    rig.span(team)


def test_a_missing_limit_is_capped_and_the_cap_is_sent_along(rig: Rig) -> None:
    team = rig.budget()
    body: Any = {key: value for key, value in asked("gpt").items() if key != "max_tokens"}
    rig.client(team).chat.completions.create(**body)
    assert rig.upstream.received[0].json == body | {"model": "gpt-real", "max_completion_tokens": 1024}
    rig.client(team).chat.completions.create(**body | {"model": "own", "max_completion_tokens": 9})
    assert rig.upstream.received[1].json["max_tokens"] == 9


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_stream_passes_byte_for_byte_to_a_client_that_asked_for_usage(rig: Rig, newline: bytes) -> None:
    team, events = rig.budget(), EVENTS.replace(b"\n", newline)
    rig.upstream.next(streams(events))
    body = asked(stream=True, stream_options={"include_usage": True})
    response = post(rig, team, json.dumps(body).encode())
    assert response.whole == events  # type: ignore[attr-defined]
    assert rig.span(team)[semconv.SETTLED_NUSD] == COST


@pytest.mark.parametrize("options", [{}, {"stream_options": None}, {"stream_options": {"include_usage": False}}])
def test_usage_is_asked_for_and_hidden_from_a_client_that_had_not_asked(rig: Rig, options: dict[str, Any]) -> None:
    team = rig.budget()
    rig.upstream.next(streams(EVENTS))
    response = post(rig, team, json.dumps(asked(stream=True, **options)).encode())
    assert response.whole == DELTAS + DONE  # type: ignore[attr-defined]
    assert rig.upstream.received[0].json["stream_options"] == {"include_usage": True}
    assert rig.span(team)[semconv.SETTLED_NUSD] == COST


def test_a_third_party_sees_its_own_key_and_nothing_of_the_caller(rig: Rig) -> None:
    team = rig.budget()
    private = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "cookie": "c=1", "authorization": "Bearer of-the-client"}
    for model in ("gpt", "secretive", "gpt-plain", "own"):
        post(rig, team, json.dumps(asked(model)).encode(), **private)
    sent = [request.headers for request in rig.upstream.received]
    expected = [f"Bearer {SECRET}", f"Bearer {HOST_SECRET}", None, None]
    assert [headers.get("authorization") for headers in sent] == expected
    allowed = {"host", "content-type", "content-length", "accept-encoding", "authorization"}
    assert all(allowed.issuperset(headers) for headers in sent)


def test_an_answer_carries_our_headers_and_none_of_the_upstream_s(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(answers(answer_of(), f"x-echo: {SECRET}", "set-cookie: a=b", "openai-organization: ours"))
    made = rig.client(team).chat.completions.with_raw_response.create(**asked("gpt"))
    assert made.headers[semconv.HEADER_CACHE] == "miss" and made.headers[semconv.HEADER_POLICY].startswith("v")
    assert made.headers[semconv.HEADER_REQUEST_ID] == rig.span(team)[semconv.REQUEST_ID]
    assert not {"x-echo", "set-cookie", "openai-organization"} & set(made.headers)


@pytest.mark.parametrize("stream", [False, True])
def test_a_repeat_is_answered_from_the_cache_and_costs_nothing(rig: Rig, stream: bool) -> None:
    team = rig.budget()
    rig.cache(team)
    rig.upstream.next(streams(EVENTS) if stream else answers(answer_of()))
    body = json.dumps(asked(temperature=0, stream=stream)).encode()
    first, second = (post(rig, team, body) for _ in range(2))
    assert first.whole == second.whole and len(rig.upstream.received) == 1  # type: ignore[attr-defined]
    assert [made.headers[semconv.HEADER_CACHE] for made in (first, second)] == ["miss", "hit"]
    until(lambda: len(rig.spans(team)) == 2, "both are recorded")
    (hit,) = [span for span in rig.spans(team) if semconv.CACHE_HIT in span]
    assert semconv.SETTLED_NUSD not in hit and hit[semconv.USAGE_INPUT_TOKENS] == 10
    rig.quiet()
    assert rig.balance(team)["spent_nusd"] == COST and rig.balance(team)["held_nusd"] == 0


@pytest.mark.parametrize(("behave", "stream"), [
    (answers(answer_of(usage=None)), False),
    (answers(answer_of(error={"message": "half"})), False),
    (answers(b"{}", status=500), False),
    (streams(DELTAS + LAST, cut_at=len(DELTAS + LAST)), True),
    (streams(DELTAS + LAST + ERROR_EVENT + DONE), True),
    (streams(DELTAS + DONE), True),
    (streams(DELTAS + LAST), True),
])  # fmt: skip
def test_the_cache_keeps_whole_good_answers_only(rig: Rig, behave: Behaviour, stream: bool) -> None:
    team = rig.budget()
    rig.cache(team)
    rig.upstream.next(behave)
    body = json.dumps(asked(temperature=0, stream=stream, stop=team)).encode()
    assert [post(rig, team, body).headers[semconv.HEADER_CACHE] for _ in range(2)] == ["miss", "miss"]


def test_the_cache_takes_sampled_requests_only_where_the_policy_says_so_and_forgets_after_its_ttl(rig: Rig) -> None:
    def hits(team: str, count: int, **more: Any) -> list[str]:
        body = json.dumps(asked(**more)).encode()
        return [post(rig, team, body).headers[semconv.HEADER_CACHE] for _ in range(count)]

    strict, loose, brief = (rig.budget() for _ in range(3))
    rig.cache(strict)
    rig.cache(loose, allow_sampled=True)
    rig.cache(brief, ttl_s=1e-9)
    assert hits(strict, 2) == hits(strict, 2, temperature=0.7) == ["miss", "miss"]
    assert hits(loose, 2, temperature=0.7, user="loose") == ["miss", "hit"]
    assert hits(brief, 2, temperature=0, seed=5) == ["miss", "miss"]


def test_two_workers_on_one_port_share_a_budget_to_the_last_request(rig: Rig, tmp_path: Path) -> None:
    limit = 10
    body = json.dumps(asked()).encode()
    hold = (len(body) + 128) * 1000 + 20 * 2000
    # The charge equals the hold, so exactly `limit` calls fit, however they fall together.
    used = {"prompt_tokens": len(body) + 128, "completion_tokens": 20}
    team = rig.budget(limit=f"{hold * limit / 1e9:.9f} USD")
    rig.upstream.next(answers(answer_of(usage=used)))
    with workers(rig, tmp_path) as url:
        with ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(lambda _: post(rig, team, body, url).status, range(40)))
        until(lambda: rig.balance(team)["held_nusd"] == 0, "every hold is settled")
    assert (statuses.count(200), statuses.count(429)) == (limit, 40 - limit)
    assert rig.balance(team)["spent_nusd"] == hold * limit
    until(lambda: len(rig.spans(team)) == 40, "every call is recorded")
    assert sum(span.get(semconv.SETTLED_NUSD, 0) for span in rig.spans(team)) == hold * limit


@contextmanager
def workers(rig: Rig, folder: Path) -> Iterator[str]:
    """Run two proxy workers, as processes of their own, on one port."""
    port, fields = closed_port(), vars(rig.settings)
    url = fields["deployments"][1].url
    rows = [f"[[deployments]]\nmodel = 'gpt-plain'\nurl = '{url}'\nprovider = 'openai'\nmetered = true\n",
            "[[prices]]\nprovider = 'openai'\nmodel = 'gpt-plain'\ninput = '1'\noutput = '2'\n"]  # fmt: skip
    (folder / "farthing.toml").write_text("".join(rows))
    environ = {
        **os.environ, "FARTHING_CONFIG": str(folder / "farthing.toml"), "FARTHING_DATA_DIR": str(folder / "data"),
        "FARTHING_PROXY_PORT": str(port), "FARTHING_PROXY_WORKERS": "2", "FARTHING_POLICIES_URL": rig.policies,
        "FARTHING_COLLECTOR_URL": fields["collector_url"],
    }  # fmt: skip
    command = [sys.executable, "-m", "farthing", "proxy"]
    started = [subprocess.Popen(command, cwd=REPOSITORY, env=environ, stderr=subprocess.PIPE) for _ in range(2)]
    try:
        for process in started:
            until(lambda pid=process.pid: listens(pid, port), "a worker listens", 60)
        yield f"http://127.0.0.1:{port}"
    finally:
        for process in started:
            process.terminate()
        said = [process.communicate(timeout=30)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said


def listens(pid: int, port: int) -> bool:
    """Tell whether process `pid` has a socket that listens on `port`."""
    inodes = {line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
              if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"}  # fmt: skip
    links: list[str] = []
    for entry in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            links.append(os.readlink(entry))
    return any(f"socket:[{inode}]" in links for inode in inodes)


def test_one_tenant_never_gets_another_s_answer(tmp_path: Path) -> None:
    from farthing.settings import ProxyKey

    keys = (ProxyKey("key-a", "tenant-a", "a", "team-a"), ProxyKey("key-b", "tenant-b", "b", "team-b"))
    os.environ |= {"UPSTREAM_KEY": SECRET, "OTHER_KEY": HOST_SECRET}
    with rig_in(tmp_path, proxy_keys=keys) as rig:
        rig.apply("apiVersion: farthing/v1\nkind: Policy\nmetadata: {name: cache}\naction: {cache: {}}\n")
        body = json.dumps(asked(temperature=0)).encode()
        made = [post(rig, "x", body, authorization=f"Bearer {key}") for key in ("key-a", "key-b", "key-b", "wrong", "")]
        assert [one.status for one in made] == [200, 200, 200, 401, 401]
        assert [one.headers[semconv.HEADER_CACHE] for one in made[:3]] == ["miss", "miss", "hit"]
        until(lambda: len(rig.spans("team-b")) == 2, "the team of the key wins over a tag")


def test_a_ledger_that_goes_away_refuses_hard_budgets_and_lets_soft_ones_through(tmp_path: Path) -> None:
    os.environ |= {"UPSTREAM_KEY": SECRET, "OTHER_KEY": HOST_SECRET}
    upstream = Upstream(answers(answer_of()))
    with running(upstream):
        settings = Settings(
            data_dir=tmp_path / "proxy", policies_port=closed_port(), prices=PRICES,
            deployments=deployments(upstream.port, closed_port()), collector_url=f"http://127.0.0.1:{upstream.port}",
        )  # fmt: skip
        keep_documents(settings, hard="hard", soft="soft")
        with served(proxy_app(settings)) as port:
            rig = Rig(upstream, settings, settings.policies_port, port, port)
            assert [post(rig, team, json.dumps(asked()).encode()).status for team in ("hard", "soft")] == [503, 200]
            until(lambda: len(upstream.spans) == 2, "both are recorded")
            assert rig.status()["policy_version"] == 7 and rig.status()["settlements_waiting"] == 0
            assert [semconv.SETTLED_NUSD in span for span in upstream.spans] == [False, False]


def keep_documents(settings: Settings, hard: str, soft: str) -> None:
    """Leave a document on the disk, as a proxy does that has followed a control plane."""
    from hashlib import sha256

    from farthing.policy import Budget, Document

    budgets = tuple(
        Budget.model_validate({"name": name, "scope": {"team": name}, "limit_nusd": 10**9, "hard": name == hard})
        for name in (hard, soft)
    )
    body = Document(version=7, budgets=budgets).to_json()
    kept = settings.data_dir / "proxy" / "policies.json"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(sha256(body).hexdigest().encode() + b"\n" + body)
