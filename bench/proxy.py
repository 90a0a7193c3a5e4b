"""Claim: a governed request costs a proxy microseconds: decided, held, settled, recorded; nginx relays beside it.

    python bench/proxy.py [--requests 8000] [--streams 64] [--rounds 3]

One proxy worker under 100 policies, with the real control plane and telemetry on, then nginx, in the same run on the
same core; upstream, collector and load on the other one. CPU time is the worker's own, from /proc; other work on the
machine only ever adds to it. Prints lines for people, then one line of JSON; exit 1 on a missed limit.
"""
from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httptools

sys.path.insert(0, str(Path(__file__).parent.parent))

from servers import cpu_s, free_port, pin, process, rss_mb
from verdict import conclude

from farthing import http_json

LIMITS = {"json_us": ("<=", 80.0), "sse_event_us": ("<=", 6.0), "cached_us": ("<=", 60.0)}
CONNECTIONS = 16  # closed loop
EVENTS = (20, 220)  # of a short and a long stream; the difference is the cost of events alone
EVENT_EVERY_S = 0.005  # each event is a write of its own, so that they do not arrive in lumps
SETTLE_S = 0.3
TEXT = "Why is the sky blue? " * 40  # a request of 1 KB
USAGE = {"prompt_tokens": 200, "completion_tokens": 60, "total_tokens": 260}


Server = AbstractContextManager[tuple[int, int]]  # port and process id


def main() -> int:
    """Measure both, judge the claim."""
    arguments = _arguments()
    if arguments.upstream:
        asyncio.run(serve_upstream(arguments.upstream))
        return 0
    figures = measure(arguments)
    for name, value in figures.items():
        print(f"{name:28} {value:8.2f}" + (f"  (limit {LIMITS[name][1]})" if name in LIMITS else ""))
    return conclude("proxy", figures, LIMITS, load1=round(os.getloadavg()[0], 1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=8000, help="of each JSON measurement")
    parser.add_argument("--streams", type=int, default=64, help="at once")
    parser.add_argument("--rounds", type=int, default=3, help="of which the lowest counts: other work only ever adds")
    parser.add_argument("--upstream", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Return all figures; those of nginx only where it can be had."""
    pin(os.getpid(), 0)
    with tempfile.TemporaryDirectory() as folder, upstream() as port:
        kinds = {"json": "free", "held": "held", "cached": "cached"}  # the last one's answer is in memory
        figures = in_rounds(arguments, farthing(Path(folder), port), kinds)
        nginx, why = find_nginx()
        if nginx:
            peers = in_rounds(arguments, nginx_before(Path(folder), nginx, port), {"json": "free"})
        else:
            print(f"nginx is left out: {why}")
            peers = {}
    figures["ledger_us"] = round(figures.pop("held_us") - figures["json_us"], 2)
    for name, value in peers.items():
        if name != "rss_mb":
            figures[f"nginx_{name}"] = value
            figures[f"{name}_over_nginx"] = round(figures[name] / value, 2)
    return figures


def in_rounds(arguments: argparse.Namespace, server: Server, teams: dict[str, str]) -> dict[str, float]:
    """Return the lowest of all rounds: CPU µs and wall ms of a JSON request by kind, and CPU µs of an event."""
    found: dict[str, list[float]] = {}
    with server as (port, pid):
        asyncio.run(ask_all(port, "free", 500))
        for _ in range(arguments.rounds):
            for name, team in teams.items():
                requests = arguments.requests // 4 if name == "held" else arguments.requests
                started = time.perf_counter()
                spent = spent_s(pid, lambda team=team, requests=requests: ask_all(port, team, requests))
                found.setdefault(f"{name}_us", []).append(spent / requests * 1e6)
                waited = time.perf_counter() - started - SETTLE_S
                found.setdefault(f"{name}_ms", []).append(waited / requests * CONNECTIONS * 1e3)
            short, long = (spent_s(pid, lambda n=n: stream_all(port, arguments.streams, n)) for n in EVENTS)
            events = (EVENTS[1] - EVENTS[0]) * arguments.streams
            found.setdefault("sse_event_us", []).append((long - short) / events * 1e6)
        figures = {name: round(min(values), 2) for name, values in found.items()}
        return figures | {"rss_mb": round(rss_mb(pid), 1)}


def spent_s(pid: int, act: Callable[[], Coroutine[None, None, None]]) -> float:
    """Return the CPU seconds that a process spends while `act` runs, its threads included."""
    before = cpu_s(pid)
    asyncio.run(act())
    time.sleep(SETTLE_S)  # the spans and settlements of the last requests belong to it
    return cpu_s(pid) - before


@contextmanager
def upstream() -> Iterator[int]:
    port = free_port()
    with process([sys.executable, __file__, "--upstream", str(port)], port, core=0):
        yield port


@contextmanager
def farthing(folder: Path, port: int) -> Iterator[tuple[int, int]]:
    """Run the control plane and one proxy worker; yield the worker's port and process id."""
    policies, proxy = free_port(), free_port()
    (folder / "farthing.toml").write_text(
        f"[[deployments]]\nmodel = 'gpt-4o'\nurl = 'http://127.0.0.1:{port}/v1'\nprovider = 'openai'\nmetered = true\n"
    )
    environ = {
        "FARTHING_CONFIG": str(folder / "farthing.toml"), "FARTHING_DATA_DIR": str(folder),
        "FARTHING_POLICIES_PORT": str(policies), "FARTHING_PROXY_PORT": str(proxy),
        "FARTHING_COLLECTOR_URL": f"http://127.0.0.1:{port}",
    }  # fmt: skip
    command = [sys.executable, "-m", "farthing"]
    with process([*command, "policies"], policies, 0, environ):
        version = http_json.call("POST", f"http://127.0.0.1:{policies}/v1/apply", documents())["version"]
        with process([*command, "proxy"], proxy, 1, environ) as pid:
            assert http_json.call("GET", f"http://127.0.0.1:{proxy}/v1/status")["policy_version"] == version
            yield proxy, pid


def documents() -> str:
    """Return 100 policies, as a company writes them, and one budget, as YAML."""
    matches = ("team: team-{n}, model: 'gpt-4*'", "model: 'model-{n}*'", "tags: {{tier: batch}}, team: team-{n}",
               "feature: [feature-{n}, search], model: ['gpt-4*', 'opus-*']")  # fmt: skip
    head = "apiVersion: farthing/v1\nkind: {kind}\nmetadata: {{name: {name}}}\n"
    policies = [
        head.format(kind="Policy", name=f"policy-{n}") + f"match: {{{matches[n % 4].format(n=n)}}}\npriority: {n}\n"
        + ("action: {route: {to: gpt-4o-mini}}\n" if n % 2 else "action: {cache: {}}\n")
        for n in range(100)
    ]  # fmt: skip
    cache = head.format(kind="Policy", name="cached") + "match: {team: cached}\n"
    cache += "action: {cache: {allow_sampled: true}}\n"
    budget = head.format(kind="Budget", name="held") + "scope: {team: held}\nlimit: 1000000 USD\n"
    return "---\n".join([*policies, cache, budget])


def find_nginx() -> tuple[str, str]:
    """Return nginx's path, else why there is none; installs the Debian package where that is allowed."""
    if not shutil.which("nginx", path=_PATH) and shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "install", "-y", "-qq", "nginx-light"], capture_output=True, check=False)
    found = shutil.which("nginx", path=_PATH)
    return found or "", "" if found else "it is not installed (apt-get install nginx-light)"


_PATH = os.environ.get("PATH", "") + ":/usr/sbin"
_NGINX = """
worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log; daemon off;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; keepalive_requests 1000000;
  upstream model {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


@contextmanager
def nginx_before(folder: Path, nginx: str, port: int) -> Iterator[tuple[int, int]]:
    """Run nginx as a bare relay; yield its port and its worker's process id."""
    own = free_port()
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, upstream=port, port=own))
    with process([nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")], own, core=1) as master:
        worker = int(Path(f"/proc/{master}/task/{master}/children").read_text().split()[0])
        pin(worker, 1)
        yield own, worker


class Exchange(asyncio.Protocol):
    """One client connection: sends the same request again and again, and waits for each whole answer."""

    def __init__(self, request: bytes, count: int) -> None:
        self._request, self._left = request, count
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._left -= 1
        if self._parser.get_status_code() != 200:
            self.ended.set_exception(RuntimeError(f"status {self._parser.get_status_code()}"))
        elif self._left > 0:
            asyncio.get_running_loop().call_soon(self._ask)
        else:
            self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(exc or ConnectionResetError("closed before the answer was whole"))


@dataclass(frozen=True)
class Load:
    port: int
    connections: int
    each: int  # requests

    async def run(self, request: bytes) -> None:
        """Ask over all connections at once until each has had its answers."""
        loop = asyncio.get_running_loop()
        made = [
            await loop.create_connection(lambda: Exchange(request, self.each), "127.0.0.1", self.port)
            for _ in range(self.connections)
        ]
        await asyncio.gather(*(exchange.ended for _, exchange in made))
        for transport, _ in made:
            transport.close()


def request_of(team: str, **more: object) -> bytes:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": TEXT}], "temperature": 0.7, "max_tokens": 100}
    text = json.dumps(body | more, separators=(",", ":")).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: proxy\r\ncontent-type: application/json\r\n"
    return f"{head}x-farthing-tags: team={team},user=ann\r\ncontent-length: {len(text)}\r\n\r\n".encode() + text


async def ask_all(port: int, team: str, requests: int) -> None:
    await Load(port, CONNECTIONS, requests // CONNECTIONS).run(request_of(team))


async def stream_all(port: int, streams: int, events: int) -> None:
    options = {"include_usage": True}
    await Load(port, streams, 1).run(request_of("free", stream=True, stream_options=options, seed=events))


def _answer() -> bytes:
    message = {"role": "assistant", "content": "Because of Rayleigh scattering. " * 8}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()


def _event(choices: list[object], **more: object) -> bytes:
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", "choices": choices}
    event = b"data: " + json.dumps(body | more).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


WHOLE = _answer()
JSON_REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(WHOLE), WHOLE)
EMPTY_REPLY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DELTA = _event([{"index": 0, "delta": {"content": " word"}, "finish_reason": None}])
FINISH = _event([{"index": 0, "delta": {}, "finish_reason": "stop"}]) + _event([], usage=USAGE)
STREAM_END = FINISH + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class Model(asyncio.Protocol):
    """A model that answers at once, or streams an event every 5 ms; also the collector that takes the spans."""

    def __init__(self, streaming: dict[Model, int]) -> None:
        self._streaming = streaming
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._url = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body = b"".join(self._body)
        self._body.clear()
        if self._url == b"/v1/traces":
            self.write(EMPTY_REPLY)
        elif b'"stream":true' in body:
            self.write(STREAM_HEAD)
            self._streaming[self] = json.loads(body)["seed"]  # the number of events
        else:
            self.write(JSON_REPLY)

    def write(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


async def serve_upstream(port: int) -> None:
    """Serve until this process is told to end."""
    streaming: dict[Model, int] = {}
    await asyncio.get_running_loop().create_server(lambda: Model(streaming), "127.0.0.1", port)
    while True:
        await asyncio.sleep(EVENT_EVERY_S)
        for model, left in list(streaming.items()):
            model.write(DELTA if left > 0 else STREAM_END)
            streaming[model] = left - 1
            if left <= 0:
                del streaming[model]


if __name__ == "__main__":
    raise SystemExit(main())
