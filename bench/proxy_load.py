"""The load on a measured proxy, and what a request and an event of a stream cost it in CPU time.

CPU time is the server's own; other work on the machine only ever adds to it, so the lowest of many windows counts.
"""
from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httptools
from servers import cpu_s

CONNECTIONS = 16  # closed loop
EVENTS = (20, 220)  # of a short and a long stream; the difference is the cost of events alone
_NUMBER = b"000000000"  # stands in a request where its number goes
_TEXT = "Why is the sky blue? " * 40  # a request of 1 KB
_numbers = itertools.count(1)

Ask = Callable[[], bytes]  # returns the next request


@dataclass(frozen=True)
class Server:
    """A server that is measured."""

    port: int
    pid: int
    settle: Callable[[], None]  # returns once what the last requests left behind is done


def request_of(key: str, **more: object) -> bytes:
    """Return a chat request of 1 KB."""
    messages = [{"role": "user", "content": f"{_NUMBER.decode()} {_TEXT}"}]
    body = {"model": "gpt-4o", "messages": messages, "temperature": 0, "max_tokens": 100}
    text = json.dumps(body | more, separators=(",", ":")).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: proxy\r\ncontent-type: application/json\r\n"
    head += f"authorization: Bearer {key}\r\nx-farthing-tags: user=ann\r\ncontent-length: {len(text)}\r\n\r\n"
    return head.encode() + text


def stream_of(key: str, events: int) -> bytes:
    """Return a request for a stream of so many events."""
    return request_of(key, stream=True, stream_options={"include_usage": True}, seed=events)


def fresh(request: bytes) -> Ask:
    """Return requests that all differ, as those of users do: no cache has an answer to them."""
    before, after = request.split(_NUMBER)
    return lambda: b"%b%09d%b" % (before, next(_numbers), after)


def same(request: bytes) -> Ask:
    """Return the same request again and again."""
    return lambda: request


class Exchange(asyncio.Protocol):
    """One client connection: sends request after request, and waits for each whole answer."""

    def __init__(self, ask: Ask, count: int) -> None:
        self._next, self._left = ask, count
        self.tail = b""  # the last part of the body that came
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(self._next())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.tail = body

    def on_message_complete(self) -> None:
        self._left -= 1
        if self.ended.done():
            return
        if self._parser.get_status_code() != 200:
            self.ended.set_exception(RuntimeError(f"status {self._parser.get_status_code()}: {self.tail[:300]!r}"))
        elif self._left > 0:
            asyncio.get_running_loop().call_soon(self._ask)
        else:
            self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(exc or ConnectionResetError("closed before the answer was whole"))


async def load(port: int, ask: Ask, requests: int, connections: int = CONNECTIONS) -> None:
    """Ask over all connections at once until all have had their answers."""
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: Exchange(ask, requests // connections), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await asyncio.gather(*(exchange.ended for _, exchange in made))
    for transport, _ in made:
        transport.close()


def request_us(server: Server, kinds: Mapping[str, Ask], windows: int, requests: int) -> dict[str, float]:
    """Return CPU µs of a request by kind, with what it leaves behind: spans, settlements."""
    asyncio.run(load(server.port, next(iter(kinds.values())), requests))
    server.settle()
    lowest = dict.fromkeys(kinds, float("inf"))
    for _ in range(windows):
        for kind, ask in kinds.items():
            lowest[kind] = min(lowest[kind], _spent_s(server, ask, requests, CONNECTIONS))
    asked = requests // CONNECTIONS * CONNECTIONS
    return {kind: round(spent / asked * 1e6, 2) for kind, spent in lowest.items()}


def event_us(server: Server, key: str, windows: int, streams: int) -> float:
    """Return CPU µs of an event, the lowest of long streams less the lowest of short ones."""
    short, long = (
        min(_spent_s(server, fresh(stream_of(key, events)), streams, streams) for _ in range(windows))
        for events in EVENTS
    )
    return round((long - short) / streams / (EVENTS[1] - EVENTS[0]) * 1e6, 2)


def _spent_s(server: Server, ask: Ask, requests: int, connections: int) -> float:
    before = cpu_s(server.pid)
    asyncio.run(load(server.port, ask, requests, connections))
    server.settle()
    return cpu_s(server.pid) - before
