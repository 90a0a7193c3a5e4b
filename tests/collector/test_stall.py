"""A sender that stops in the middle of a body, against a real server: its bytes and its connection are given back."""
from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import pytest

from collector import intake
from collector.main import Collector
from farthing import otlp
from farthing.settings import Settings
from farthing.warehouse import Warehouse

Serve = Callable[[Collector], AbstractContextManager[int]]
HEAD = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n"
SPAN = otlp.span(b"t" * 16, b"s" * 8, b"", "chat", (1, 2), b"")
BODY = otlp.traces([("service.name", "shop")], "test", "1", [SPAN])


class Served:
    def __init__(self, collector: Collector, port: int, grpc_port: int) -> None:
        self.collector, self.port, self.grpc_port = collector, port, grpc_port

    def sent(self, part: bytes) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        sock.sendall(part)
        return sock


@pytest.fixture
def served(warehouse: Warehouse, serve: Serve, tmp_path: Path) -> Iterator[Served]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        grpc_port = sock.getsockname()[1]
    collector = Collector(Settings(data_dir=tmp_path, body_timeout_s=0.5, collector_grpc_port=grpc_port), warehouse)
    with serve(collector) as port:
        yield Served(collector, port, grpc_port)


def answer_of(sock: socket.socket) -> bytes:
    """Return all that comes until the server closes the connection."""
    said = b""
    while part := sock.recv(65536):
        said += part
    return said


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_half_a_body_is_refused_after_the_deadline_and_its_bytes_are_given_back(served: Served) -> None:
    with served.sent(HEAD % 100_000 + BODY + b"\0" * 50_000) as sock:
        until(lambda: served.collector._intake.in_flight > 50_000)
        said = answer_of(sock)  # which ends, so the connection is closed
    assert said.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in said and b"connection: close" in said
    assert b"did not come whole within 0.5 s" in said
    assert served.collector._intake.in_flight == 0
    status = served.collector.status()
    assert (status["refused_bodies"], status["stalled_bodies"], status["accepted_bodies"]) == ({"503": 1}, 1, 0)


def test_a_sender_that_trickles_does_not_win_time(served: Served) -> None:
    with served.sent(HEAD % 100_000) as sock:
        stop = threading.Event()

        def trickle() -> None:
            while not stop.wait(0.05):
                try:
                    sock.sendall(b"\n")
                except OSError:
                    return

        trickling = threading.Thread(target=trickle)
        trickling.start()
        until(lambda: served.collector.status()["stalled_bodies"] == 1)
        stop.set()
        trickling.join()
    assert served.collector._intake.in_flight == 0


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


def test_half_a_grpc_message_is_refused_after_the_deadline(served: Served) -> None:
    gone = threading.Event()

    def nothing() -> Iterator[bytes]:
        gone.wait(20)
        yield from ()

    path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary(path)(nothing(), timeout=20)
        gone.set()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert "0.5 s" in caught.value.details()  # type: ignore[attr-defined]
        assert channel.unary_unary(path)(BODY, timeout=20) == b""
    status = served.collector.status()
    assert (status["refused_bodies"], status["stalled_bodies"], status["accepted_spans"]) == ({"503": 1}, 1, 1)


def test_a_grpc_call_without_a_message_is_refused(served: Served) -> None:
    path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary(path)(iter(()), timeout=20)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
