"""A sender that stops in the middle of a body, against a real server: its bytes and its connection are given back."""
from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from collector import intake
from collector.main import Collector
from farthing import otlp
from farthing.settings import IngestKey, Settings
from farthing.warehouse import Warehouse
from tests.ports import free_port
from tests.until import until

Serve = Callable[[Collector], AbstractContextManager[int]]
HEAD = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n"
HASTY_S = 1.5  # what a body may take
SPAN = otlp.span(b"t" * 16, b"s" * 8, b"", "chat", (1, 2), b"")
BODY = otlp.traces([("service.name", "shop")], "test", "1", [SPAN])


class Served:
    def __init__(self, collector: Collector, port: int, grpc_port: int) -> None:
        self.collector, self.port, self.grpc_port = collector, port, grpc_port

    def sent(self, part: bytes) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=120)
        sock.sendall(part)
        return sock


@pytest.fixture
def served(warehouse: Warehouse, serve: Serve, tmp_path: Path) -> Iterator[Served]:
    """A collector that waits for a body as long as it does in production."""
    with serving(warehouse, serve, tmp_path, Settings().body_timeout_s) as made:
        yield made


@pytest.fixture
def hasty(warehouse: Warehouse, serve: Serve, tmp_path: Path) -> Iterator[Served]:
    with serving(warehouse, serve, tmp_path, HASTY_S) as made:
        yield made


@contextmanager
def serving(warehouse: Warehouse, serve: Serve, folder: Path, timeout_s: float, **rules: Any) -> Iterator[Served]:
    settings = Settings(data_dir=folder, body_timeout_s=timeout_s, collector_grpc_port=free_port(), **rules)
    collector = Collector(settings, warehouse)
    with serve(collector) as port:
        yield Served(collector, port, settings.collector_grpc_port)


def answer_of(sock: socket.socket) -> bytes:
    """Return all that comes until the server closes the connection."""
    said = b""
    while part := sock.recv(65536):
        said += part
    return said


def test_half_a_body_is_refused_after_the_deadline_and_its_bytes_are_given_back(hasty: Served) -> None:
    with hasty.sent(HEAD % 100_000 + BODY + b"\0" * 50_000) as sock:
        until(lambda: hasty.collector._intake.in_flight > 50_000)
        said = answer_of(sock)  # which ends, so the connection is closed
    assert said.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in said and b"connection: close" in said
    assert f"did not come whole within {HASTY_S} s".encode() in said
    assert hasty.collector._intake.in_flight == 0
    status = hasty.collector.status()
    assert (status["refused_bodies"], status["stalled_bodies"], status["accepted_bodies"]) == ({"503": 1}, 1, 0)


def test_a_sender_that_trickles_does_not_win_time(hasty: Served) -> None:
    with hasty.sent(HEAD % 100_000) as sock:
        stop = threading.Event()

        def trickle() -> None:
            while not stop.wait(0.05):
                try:
                    sock.sendall(b"\n")
                except OSError:
                    return

        trickling = threading.Thread(target=trickle)
        trickling.start()
        until(lambda: hasty.collector.status()["stalled_bodies"] == 1)
        stop.set()
        trickling.join()
    assert hasty.collector._intake.in_flight == 0


def test_a_sender_that_goes_away_in_the_middle_gives_its_bytes_back(served: Served) -> None:
    with served.sent(HEAD % 100_000 + b"\0" * 50_000):
        until(lambda: served.collector._intake.in_flight == 50_000)
    until(lambda: served.collector._intake.in_flight == 0)
    assert served.collector.status()["stalled_bodies"] == 0


def test_bytes_in_flight_are_bounded_while_bodies_come(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_IN_FLIGHT", 80_000)
    with served.sent(HEAD % 1_000_000 + b"\0" * 70_000), served.sent(HEAD % 1_000_000 + b"\0" * 70_000) as second:
        assert second.recv(65536).startswith(b"HTTP/1.1 503")
        assert served.collector._intake.in_flight < 80_000


def test_half_a_grpc_message_is_refused_after_the_deadline(hasty: Served) -> None:
    gone = threading.Event()

    def nothing() -> Iterator[bytes]:
        gone.wait(120)
        yield from ()

    path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    with grpc.insecure_channel(f"127.0.0.1:{hasty.grpc_port}") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary(path)(nothing(), timeout=120)
        gone.set()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert f"{HASTY_S} s" in caught.value.details()  # type: ignore[attr-defined]
        assert channel.unary_unary(path)(BODY, timeout=120) == b""
    status = hasty.collector.status()
    assert (status["refused_bodies"], status["stalled_bodies"], status["accepted_spans"]) == ({"503": 1}, 1, 1)


def test_grpc_messages_that_are_not_whole_yet_are_bounded(
    warehouse: Warehouse, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MAX_IN_FLIGHT", Settings().max_body_bytes)  # room for one
    path, gone = "/opentelemetry.proto.collector.trace.v1.TraceService/Export", threading.Event()

    def nothing() -> Iterator[bytes]:
        gone.wait(120)
        yield from ()

    with (
        serving(warehouse, serve, tmp_path, Settings().body_timeout_s) as served,
        grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel,
    ):
        first = channel.stream_unary(path).future(nothing(), timeout=120)
        until(served.collector._intake.messages.locked, "the first call has the room")
        second = channel.unary_unary(path).future(BODY, timeout=120)
        until(lambda: served.collector._intake.messages._waiters, "the second one waits")
        gone.set()
        assert second.result() == b""
        assert first.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert not served.collector._intake.messages.locked()


def test_a_grpc_call_with_an_unknown_key_is_refused_before_its_message(
    warehouse: Warehouse, serve: Serve, tmp_path: Path
) -> None:
    gone = threading.Event()

    def nothing() -> Iterator[bytes]:
        gone.wait(120)
        yield from ()

    path, keys = "/opentelemetry.proto.collector.trace.v1.TraceService/Export", (IngestKey("right", "shop"),)
    with (
        serving(warehouse, serve, tmp_path, Settings().body_timeout_s, ingest_keys=keys) as served,
        grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        try:
            channel.stream_unary(path)(nothing(), timeout=120, metadata=(("x-farthing-key", "wrong"),))
        finally:
            gone.set()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]


def test_a_grpc_call_without_a_message_is_refused(served: Served) -> None:
    path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary(path)(iter(()), timeout=120)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
