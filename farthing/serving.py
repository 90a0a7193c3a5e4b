"""Runs ASGI applications of one process until it is told to stop; a busy port is one clear line, not a traceback."""
from __future__ import annotations

import asyncio
import errno
import gc
import signal
import socket
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from farthing.errors import ServeError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]


async def answer(send: Send, status: int, body: bytes, content_type: bytes, headers: Headers = ()) -> None:
    """Send a whole answer."""
    fixed = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body})


@dataclass(frozen=True)
class Site:
    """One ASGI application and the address it listens on."""

    name: str  # what to call it in messages
    app: Asgi
    host: str
    port: int
    on_stop: Callable[[], None] | None = None  # called before the server waits for what is still being answered


def bind(name: str, host: str, port: int, reuse_port: bool = False) -> socket.socket:
    """Return a listening socket for the part `name`; several processes may share one with `reuse_port`.

    Raises:
        ServeError: the port is in use, or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named; without it an answer waits for a delayed ACK. [90 ms]
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((host, port))
        sock.listen(2048)
    except OSError as error:
        sock.close()
        remedy = f"stop the program that uses it, or set FARTHING_{name.upper()}_PORT to a free port"
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            remedy = "set FARTHING_HOST to an address of this machine"
        raise ServeError(f"{name}: cannot listen on {host}:{port} ({error.strerror}); {remedy}") from None
    return sock


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def stop_signal() -> asyncio.Event:
    """Return what is set when this process is told to stop by SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def keep_what_is_there() -> None:
    """Take what the start made out of garbage collection: a full one stops every thread for as long as it looks at all.

    [70 ms of CPU in the collector, every few seconds under load, in which nobody is answered; gc.freeze]
    """
    gc.collect()
    gc.freeze()


async def run(sites: list[Site], on_ready: Callable[[], None] | None = None) -> None:
    """Serve all `sites` on this event loop until SIGINT or SIGTERM, then shut each down in order."""
    import uvicorn

    class Server(uvicorn.Server):
        def capture_signals(self) -> Any:  # ours below stop all sites together
            import contextlib

            return contextlib.nullcontext()

    sockets = [bind(site.name, site.host, site.port) for site in sites]
    servers = [
        Server(
            uvicorn.Config(site.app, log_level="warning", lifespan="on", access_log=False, timeout_graceful_shutdown=10)
        )
        for site in sites
    ]
    stop = stop_signal()
    running = [asyncio.create_task(server.serve(sockets=[sock])) for server, sock in zip(servers, sockets, strict=True)]
    try:
        await _until_started(sites, servers, running)
        keep_what_is_there()
        if on_ready is not None:
            on_ready()
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait([waiting, *running], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for site, server in zip(sites, servers, strict=True):
            if site.on_stop is not None:
                site.on_stop()
            server.should_exit = True
        await asyncio.gather(*running, return_exceptions=True)


async def _until_started(sites: list[Site], servers: list[Any], running: list[asyncio.Task[None]]) -> None:
    while not all(server.started for server in servers):
        for site, task in zip(sites, running, strict=True):
            if task.done():
                error = task.exception()
                raise ServeError(f"{site.name}: did not start: {error or 'see the message above'}")
        await asyncio.sleep(0.02)
