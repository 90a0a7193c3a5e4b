"""What a proxy adds to a call while nothing else is in flight: asked through it and directly, in turns."""
from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable

from proxy_load import Ask

ROUNDS = 10

Timed = Callable[[bytes], float]


class Line:
    """One connection that is kept; it blocks, so that no event loop of ours is in the figure."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def answer(self, request: bytes) -> bytes:
        """Return the body of a whole answer that says its length."""
        self._socket.sendall(request)
        got = b""
        while b"\r\n\r\n" not in got:
            got += self._more()
        head, _, body = got.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"refused: {got[:400]!r}")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body += self._more()
        return body

    def whole_ms(self, request: bytes) -> float:
        """Return how long a whole answer took."""
        started = time.perf_counter()
        self.answer(request)
        return (time.perf_counter() - started) * 1e3

    def first_event_ms(self, request: bytes) -> float:
        """Return how long a stream's first event took; waits for its end."""
        started = time.perf_counter()
        self._socket.sendall(request)
        got = b""
        while b"data: " not in got:
            got += self._more()
        took = time.perf_counter() - started
        while not got.endswith(b"0\r\n\r\n"):
            got += self._more()
        return took * 1e3

    def close(self) -> None:
        self._socket.close()

    def _more(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionResetError("closed before the answer was whole")
        return data


def added_ms(proxy: int, direct: int, ask: Ask, stream: Ask, pairs: int) -> dict[str, float]:
    """Return what the proxy adds to the median of a whole answer and of a first event; ports given."""
    through, straight = Line(proxy), Line(direct)
    added = {
        "added_ms": _added(through.whole_ms, straight.whole_ms, ask, pairs),
        "added_ttft_ms": _added(through.first_event_ms, straight.first_event_ms, stream, pairs // 4),
    }
    through.close()
    straight.close()
    return added


def _added(through: Timed, straight: Timed, ask: Ask, pairs: int) -> float:
    """Return the difference of the medians, each the lowest of all rounds: other work only ever adds to either."""
    medians: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        taken = [(through(ask()), straight(ask())) for _ in range(max(1, pairs // ROUNDS))]
        medians.append((statistics.median(one for one, _ in taken), statistics.median(one for _, one in taken)))
    return round(min(one for one, _ in medians) - min(one for _, one in medians), 3)
