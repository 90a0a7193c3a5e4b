"""The real proxy, control plane and ledger around an upstream of ours that misbehaves on purpose."""
from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import openai
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from farthing import http_json, semconv
from farthing.money import cost_nusd
from farthing.settings import Deployment, PriceOverride, Settings
from policies.main import app as policies_app
from proxy.main import serve
from tests.conftest import served
from tests.ports import free_port
from tests.until import until

RATES = (1_000_000_000, 2_000_000_000)  # nUSD per million input and output tokens; 1 and 2 USD
DEAR_RATES = (4_000_000_000, 8_000_000_000)  # of the provider `east`
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
COST = 20_000  # nano-dollars of USAGE
SERVED = ("/chat/completions", "/completions", "/responses", "/embeddings", "/messages", "/count_tokens")
HASTY_S = 1.5  # what a call through the hasty proxy may take
SECRET = "sk-upstream-secret-0123456789"
HOST_SECRET = "sk-of-another-deployment"
HASH_KEY = "of the tests"  # a key of its own per run would send each run's prefixes to other places
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
    busy: int = 0  # requests that it has begun to answer and not ended, or whose connection nobody closed
    spans: list[dict[str, Any]] = field(default_factory=list)
    traces: list[bytes] = field(default_factory=list)  # the bodies that those came in
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
                    self.traces.append(request.body)
                    self.spans += spans_of(request.body)
                    writer.write(reply(b""))
                elif not request.path.partition("?")[0].endswith(SERVED):
                    writer.write(reply(b"", status=404))
                else:
                    self.received.append(request)
                    self.arrived.set()
                    self.busy += 1
                    try:
                        await self.behave(request, reader, writer)
                    finally:
                        self.busy -= 1
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
        released = asyncio.create_task(asyncio.to_thread(upstream.release.wait, 300))
        await asyncio.wait((closing, released), return_when=asyncio.FIRST_COMPLETED)
        if closing.done():
            upstream.hung_up.set()
            upstream.release.set()
            writer.close()
            return
        closing.cancel()
        await asyncio.wait((closing,))  # the next request of this connection is read by nobody else
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


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """Do one thing after the other; the last one stays."""
    left = list(behaviours)

    async def behave(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(request, reader, writer)

    return behave


@contextmanager
def running(upstream: Upstream) -> Iterator[None]:
    """Run the fake upstream."""
    with in_thread(upstream.serve, upstream.release.set) as upstream.port:
        yield


@contextmanager
def in_thread(
    serve_one: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], let_go: Callable[[], object]
) -> Iterator[int]:
    """Run a server in a thread with an event loop of its own; yield its port. `let_go` ends what its handlers do."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(serve_one, "127.0.0.1", 0, limit=2**24))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        let_go()
        asyncio.run_coroutine_threadsafe(stopped(server), loop).result(120)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def proxied(settings: Settings) -> Iterator[int]:
    """Run a proxy worker in a thread with an event loop of its own; yield its port."""
    sock = socket.create_server(("127.0.0.1", 0))
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(settings, sock, stop),))
    thread.start()
    port = sock.getsockname()[1]
    try:
        until(lambda: http_json.call("GET", f"http://127.0.0.1:{port}/healthz"), "the proxy answers")
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
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
    east, west = f"{there}/east/v1", f"{there}/west/v1"
    third, own = f"{there}/third/v1", f"{there}/own/v1"
    return (
        Deployment("gpt", third, "openai", upstream_model="gpt-real", api_key_env="UPSTREAM_KEY", metered=True),
        Deployment("gpt-plain", third, "openai", metered=True),
        Deployment("own", own, "own"),
        Deployment("away", away, "openai", metered=True),
        Deployment("pair", away, "openai", metered=True),
        Deployment("pair", third, "openai", upstream_model="second", metered=True),
        Deployment("unpriced", third, "mystery", metered=True),
        Deployment("claude", f"{there}/anthropic/v1", "anthropic", api_key_env="UPSTREAM_KEY", metered=True),
        Deployment("azured", f"{there}/azure/v1", "azure.ai.openai", api_key_env="UPSTREAM_KEY", metered=True),
        Deployment("dated", f"{there}/azure/openai", "azure.ai.openai", upstream_model="of ours", metered=True,
                   api_key_env="UPSTREAM_KEY", api_version="2024-10-21"),
        Deployment("many", east, "east", name="eastern", weight=3.0, region="eu", quality=0.9, metered=True),
        Deployment("many", west, "west", name="western", region="us", quality=0.6),
        Deployment("big", east, "east", metered=True),
        Deployment("small", west, "west", metered=True),
        Deployment("flexible", third, "openai", metered=True),
        Deployment("secretive", f"{there}/other/v1", "openai", api_key_env="OTHER_KEY", metered=True),
    )


_PRICED = (
    ("openai", "gpt"), ("openai", "gpt-plain"), ("own", "own"), ("openai", "away"), ("openai", "pair"),
    ("west", "many"), ("west", "small"), ("openai", "secretive"), ("anthropic", "claude"),
    ("azure.ai.openai", "azured"), ("azure.ai.openai", "dated"), ("openai", "flexible"),
)  # fmt: skip
PRICES = (
    *(PriceOverride(provider, model, input="1", output="2") for provider, model in _PRICED),
    *(PriceOverride("east", model, input="4", output="8") for model in ("many", "big")),
    PriceOverride("own", "own", input="0.5", output="1", service_tier="batch"),
    PriceOverride("openai", "flexible", input="0.5", output="1", service_tier="flex"),
)


class Rig:
    """The real proxy and the real control plane around the fake upstream."""

    def __init__(self, upstream: Upstream, settings: Settings, policies: int, proxy: int, hasty: int) -> None:
        self.upstream, self.settings = upstream, settings
        self.policies, self.proxy, self.hasty = (f"http://127.0.0.1:{port}" for port in (policies, proxy, hasty))
        self.wrong: list[str] = []  # what uvicorn or asyncio logged as an error
        self.clients = ExitStack()  # closed after each test: one left to the garbage collector is a leaked socket

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

    def policy(self, team: str, name: str = "route", **action: object) -> None:
        """Put a policy for one team in force, action and all."""
        self.apply(
            f"apiVersion: farthing/v1\nkind: Policy\nmetadata: {{name: {name}-{team}}}\nmatch: {{team: {team}}}\n"
            f"action: {json.dumps(action)}\n"
        )

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
        options = {"base_url": f"{self.proxy}/v1", "max_retries": 0, "api_key": "of-the-client"} | options
        return self.clients.enter_context(openai.OpenAI(**{"default_headers": headers, **options}))

    def claude(self, team: str) -> anthropic.Anthropic:
        headers = {semconv.HEADER_TAGS: f"team={team}"}
        return self.clients.enter_context(
            anthropic.Anthropic(
                base_url=self.proxy, api_key="of-the-client", default_headers=headers, max_retries=0
            )
        )

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
            rates = DEAR_RATES if span[semconv.PROVIDER_NAME] == "east" else RATES
            assert cost_nusd(zip(tokens, rates, strict=True)) == charge["charged_nusd"]  # type: ignore[arg-type]


class Errors(logging.Handler):
    """Keeps what uvicorn and asyncio say went wrong: an exception in the application, or one that nobody retrieved."""

    def __init__(self, kept: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(self.format(record))


@contextmanager
def rig_in(folder: Path, breaker_failures: int = 0, **more: Any) -> Iterator[Rig]:
    upstream = Upstream(answers(answer_of()))
    with running(upstream), served(policies_app(Settings(data_dir=folder / "control"))) as policies:
        settings = Settings(
            data_dir=folder / "proxy", policies_url=f"http://127.0.0.1:{policies}", prices=PRICES,
            collector_url=f"http://127.0.0.1:{upstream.port}", deployments=deployments(upstream.port, free_port()),
            request_timeout_s=120.0, breaker_failures=breaker_failures, **{"hash_key": HASH_KEY, **more},
        )  # fmt: skip
        own = {"data_dir": folder / "hasty", "request_timeout_s": HASTY_S, "hash_key": ""}
        hasty = Settings(**vars(settings) | own)
        with proxied(settings) as proxy, proxied(hasty) as quick:
            rig = Rig(upstream, settings, policies, proxy, quick)
            with rig.clients:
                yield rig


def asked(model: str = "gpt-plain", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20} | more


def post(
    rig: Rig, team: str, body: bytes, url: str = "", path: str = "/v1/chat/completions", **headers: str
) -> http.client.HTTPResponse:
    """Post a body byte for byte; the answer is read when it is returned."""
    given = {semconv.HEADER_TAGS: f"team={team}", "content-type": "application/json"} | headers
    address = (url or rig.proxy).removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=120)
    connection.request("POST", path, body, given)
    response = connection.getresponse()
    response.whole = response.read()  # type: ignore[attr-defined]
    connection.close()
    return response


def send_only(rig: Rig, team: str, body: bytes, url: str = "") -> socket.socket:
    """Send a request and return its open socket, for a client that goes away or does not read."""
    host, _, port = (url or rig.proxy).removeprefix("http://").partition(":")
    sock = socket.create_connection((host, int(port)), timeout=120)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    sock.sendall(f"{head}x-farthing-tags: team={team}\r\n\r\n".encode() + body)
    return sock
