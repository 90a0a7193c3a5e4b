"""proxy/server.py: HTTP/1.1 as clients send it, well or badly; nothing is smuggled, nobody holds a place for ever."""
from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest

from proxy.http_request import Request
from proxy.server import Patience, Server
from tests.until import until

MAX_BODY = 100_000
HASTE = Patience(head=0.6, body=0.6, idle=0.6, stalled=0.5, linger=0.3, sweep=0.05)
LONG = b"GET /" + b"long" * 300 + b" HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
GET = b"GET /echo HTTP/1.1\r\nhost: x\r\n\r\n"


@dataclass
class Served:
    """A server, and what its handler saw."""

    port: int = 0
    seen: list[Request] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    server: Server | None = None
    loop: asyncio.AbstractEventLoop | None = None

    async def handle(self, request: Request) -> None:
        self.seen.append(request)
        request.on_gone = lambda: self.gone.append(request.path)
        if request.is_too_large:
            request.answer(413, b"too large", b"text/plain")
        elif request.path == "/stream":
            request.begin(200, [(b"content-type", b"text/plain")])
            await request.write(b"one,")
            await asyncio.to_thread(self.release.wait, 300)
            await request.write(b"two")
            request.end()
        elif request.path == "/much":
            request.begin(200, [])
            for _ in range(200):
                await request.write(b"x" * 100_000)
            request.end()
        elif request.path == "/break":
            request.begin(200, [])
            await request.write(b"half")
            raise ValueError("a defect")
        else:
            request.answer(200, b"%b %b" % (request.path.encode(), request.body), b"text/plain", [(b"x-own", b"1")])


@contextmanager
def running(patience: Patience) -> Iterator[Served]:
    served, started, stop = Served(), threading.Event(), asyncio.Event()
    sock = socket.create_server(("127.0.0.1", 0))
    served.port = sock.getsockname()[1]

    async def live() -> None:
        served.loop = asyncio.get_running_loop()
        served.server = Server(served.handle, MAX_BODY, patience)
        await served.server.start(sock)
        started.set()
        await stop.wait()
        await served.server.stop(60)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(live(),))
    thread.start()
    assert started.wait(120)
    try:
        yield served
    finally:
        served.release.set()
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.fixture
def served() -> Iterator[Served]:
    """A server that waits for its clients as long as it does in production."""
    with running(Patience()) as one:
        yield one


@pytest.fixture
def hasty() -> Iterator[Served]:
    """A server that waits for nobody."""
    with running(HASTE) as one:
        yield one


def connect(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), timeout=120)


def read_all(sock: socket.socket) -> bytes:
    parts: list[bytes] = []
    try:
        while part := sock.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def read_to(sock: socket.socket, mark: bytes) -> bytes:
    """Return what comes up to `mark`, which it ends with."""
    found = b""
    while not found.endswith(mark):
        part = sock.recv(1)
        assert part, found
        found += part
    return found


def sent(served: Served, raw: bytes) -> bytes:
    """Send bytes as they are and return all that comes until the server closes."""
    with connect(served) as sock:
        sock.sendall(raw)
        return read_all(sock)


def test_an_ordinary_client_keeps_its_connection(served: Served) -> None:
    client = http.client.HTTPConnection("127.0.0.1", served.port, timeout=120)
    for n in range(3):
        client.request("POST", f"/echo?q={n}", f"body {n}", {"x-y": "z"})
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (200, f"/echo body {n}".encode())
        assert answer.headers["x-own"] == "1" and answer.headers["date"]
    client.close()
    assert {request.headers[b"x-y"] for request in served.seen} == {b"z"}


def test_a_chunked_body_a_100_continue_and_a_stream_pass(served: Served) -> None:
    client = http.client.HTTPConnection("127.0.0.1", served.port, timeout=120)
    client.request("POST", "/echo", iter([b"a", b"bc"]), encode_chunked=True, headers={"transfer-encoding": "chunked"})
    assert client.getresponse().read() == b"/echo abc"
    served.release.set()
    client.request("GET", "/stream")
    assert client.getresponse().read() == b"one,two"
    client.close()
    with connect(served) as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
        sock.sendall(b"ok")
        assert b"/echo ok" in sock.recv(1000)


def test_requests_that_come_at_once_are_answered_one_after_the_other(served: Served) -> None:
    served.release.set()
    raw = b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n" + GET * 40 + GET.replace(b"host: x", b"connection: close")
    answer = sent(served, raw)
    assert answer.index(b"two") < answer.index(b"/echo ")
    assert answer.count(b"HTTP/1.1 200 OK") == 42 and answer.count(b"/echo ") == 41


JDK = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"  # from Java 11 on


@pytest.mark.parametrize("framing", [
    b"content-length: 5\r\n\r\nhello", b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
], ids=["whole", "chunked"])  # fmt: skip
@pytest.mark.parametrize("cut", [1, 60, 150, 165, 1000])
def test_an_offer_of_another_protocol_is_passed_over(served: Served, framing: bytes, cut: int) -> None:
    raw = b"POST /echo?a=b HTTP/1.1\r\nX-Y: z\r\n" + JDK + framing + GET.replace(b"host: x", b"connection: close")
    with connect(served) as sock:
        sock.sendall(raw[:cut])
        time.sleep(0.01)  # two parts, usually
        sock.sendall(raw[cut:])
        answer = read_all(sock)
    assert answer.count(b"HTTP/1.1 200 OK") == 2 and b"/echo hello" in answer and b" 101 " not in answer
    first = served.seen[0]
    assert (first.method, first.query, first.headers[b"x-y"]) == ("POST", {"a": "b"}, b"z")
    assert b"upgrade" not in first.headers


def test_offers_without_end_are_no_work_without_end(served: Served) -> None:
    offer = b"GET /echo HTTP/1.1\r\n" + JDK + b"\r\n"
    with connect(served) as sock:
        with suppress(OSError):
            sock.sendall(offer * 5000)
        read_all(sock)
    assert len(served.seen) < 5000


def test_a_tunnel_is_refused(served: Served) -> None:
    assert sent(served, b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n" + GET).startswith(b"HTTP/1.1 501 ")
    assert served.seen == []


def test_the_answer_to_head_has_no_body_and_the_next_one_is_found_behind_it(served: Served) -> None:
    served.release.set()
    heads = [b"HEAD %b HTTP/1.1\r\nhost: x\r\n\r\n" % path for path in (b"/echo", b"/stream")]
    answer = sent(served, b"".join(heads) + GET.replace(b"host: x", b"connection: close"))
    whole, stream, last = answer.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert b"content-length: 6\r\n" in whole and whole.endswith(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in stream and stream.endswith(b"\r\n\r\n")
    assert last.endswith(b"/echo ")


def test_a_whole_address_is_taken_for_its_path(served: Served) -> None:
    for target, path in ((b"http://x:1/echo?a=b", "/echo"), (b"HTTPS://x/echo", "/echo"), (b"http://x?a=b", "/")):
        sent(served, b"GET " + target + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert served.seen[-1].path == path
    assert served.seen[0].query == served.seen[2].query == {"a": "b"}


def test_a_client_behind_another_answer_is_told_to_go_on_once_that_is_whole(served: Served) -> None:
    with connect(served) as sock:
        waits = b"POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        sock.sendall(GET.replace(b"/echo", b"/stream") + waits)
        first = read_to(sock, b"one,")
        served.release.set()
        first += read_to(sock, b"100 Continue\r\n\r\n")
        assert first.index(b"two\r\n0\r\n\r\n") < first.index(b"HTTP/1.1 100 Continue")
        sock.sendall(b"ok")
        read_to(sock, b"/echo ok")


@pytest.mark.parametrize("behind", [
    GET.replace(b"host: x", b"connection: close"),
    b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc",
], ids=["a request", "a part of one"])  # fmt: skip
def test_what_waits_behind_an_answer_does_not_cut_it_off(behind: bytes) -> None:
    with running(Patience(body=0.05, sweep=0.01)) as served, connect(served) as sock:
        sock.sendall(GET.replace(b"/echo", b"/stream"))
        read_to(sock, b"one,")
        sock.sendall(behind)
        time.sleep(0.2)  # far longer than a body may take
        served.release.set()
        assert b"two\r\n0\r\n\r\n" in read_all(sock)


def test_http_1_0_keeps_no_connection_though_it_asks_to(served: Served) -> None:
    answer = sent(served, b"GET /echo HTTP/1.0\r\nconnection: keep-alive\r\n\r\n" + GET)
    assert answer.count(b"HTTP/1.1 200 OK") == 1 and b"connection: close" in answer


def test_http_1_0_gets_an_answer_that_ends_with_the_connection(served: Served) -> None:
    served.release.set()
    answer = sent(served, b"GET /stream HTTP/1.0\r\n\r\n")
    assert answer.endswith(b"\r\n\r\none,two") and b"connection: close" in answer


@pytest.mark.parametrize("raw", [
    b"POST /a HTTP/1.1\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
    b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde",
    b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: +4\r\n\r\nabcd",
    b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 4, 4\r\n\r\nabcd",
    b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n\r\n",
    b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    b"POST /a HTTP/1.1\r\nhost: x\r\n folded: y\r\ncontent-length: 1\r\n\r\na" b"\x00",
    b"GET /a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /a HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    b"GET /a HTTP/1.1\r\n" + b"x: " + b"y" * 70_000 + b"\r\n\r\n",
])  # fmt: skip
def test_what_two_servers_could_read_differently_is_refused_and_the_connection_closed(
    hasty: Served, raw: bytes
) -> None:
    answer = sent(hasty, raw)
    assert not answer or answer.split(b" ")[1] in (b"400", b"431", b"501", b"200")
    assert answer.count(b"HTTP/1.1 200") == 0 or hasty.seen[0].body in (b"a", b"")
    assert [request.path for request in hasty.seen].count("/b") == 0


def test_what_follows_a_body_says_nothing_of_the_next_request(served: Served) -> None:
    first = CHUNKED + b"2\r\nhi\r\n0\r\nauthorization: Bearer x\r\n\r\n"
    answer = sent(served, first + GET.replace(b"host: x", b"connection: close"))
    assert answer.count(b"HTTP/1.1 200") == 2
    assert [(request.path, b"authorization" in request.headers) for request in served.seen] == [
        ("/a", False), ("/echo", False),
    ]  # fmt: skip


@pytest.mark.parametrize("endless", [b"0\r\nx: ", b"0\r\n", b"1;x="])
def test_what_stands_beside_a_body_has_a_bound_too(served: Served, endless: bytes) -> None:
    more = b"a: b\r\n" * 1000 if endless == b"0\r\n" else b"y" * 6000
    with connect(served) as sock:
        sock.sendall(CHUNKED + endless)
        with suppress(OSError):  # it is cut off while it sends
            for _ in range(200):
                sock.sendall(more)
        assert read_all(sock)[:13] in (b"HTTP/1.1 431 ", b"")
    assert served.seen == []


def test_a_body_that_is_too_large_is_answered_without_being_read_to_its_end(served: Served) -> None:
    client = http.client.HTTPConnection("127.0.0.1", served.port, timeout=120)
    client.request("POST", "/echo", b"x" * (50 * MAX_BODY))
    assert client.getresponse().read() == b"too large"
    client.close()
    chunked = b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    assert b" 413 " in sent(served, chunked + b"ffff\r\n%b\r\n" % (b"x" * 65_535) * 3)
    assert all(request.is_too_large and not request.body for request in served.seen)


@pytest.mark.parametrize(("start", "status"), [
    (b"", b""),
    (b"GET /echo HT", b"408"),
    (b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc", b"408"),
    (GET, b"200"),
])  # fmt: skip
def test_a_client_that_stops_in_the_middle_is_cut_off(hasty: Served, start: bytes, status: bytes) -> None:
    answer = sent(hasty, start)
    assert answer.split(b" ")[1:2] == ([status] if status else [])


def test_a_client_that_sends_byte_by_byte_is_cut_off_all_the_same(hasty: Served) -> None:
    with connect(hasty) as sock, pytest.raises(OSError):
        for byte in LONG:
            sock.sendall(bytes((byte,)))
            time.sleep(0.05)
    assert hasty.seen == []


def test_a_client_that_does_not_read_is_cut_off_and_the_handler_hears_of_it(hasty: Served) -> None:
    with connect(hasty) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(b"GET /much HTTP/1.1\r\nhost: x\r\n\r\n")
        until(lambda: hasty.gone, "it is cut off")
    assert hasty.gone == ["/much"]


def test_a_client_that_goes_is_noticed_while_it_is_answered(served: Served) -> None:
    with connect(served) as sock:
        sock.sendall(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200 OK" in sock.recv(1000)
    until(lambda: served.gone, "it is noticed")
    assert served.gone == ["/stream"] and served.seen[0].is_gone


def test_an_answer_that_breaks_off_cannot_be_taken_for_a_whole_one(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    client = http.client.HTTPConnection("127.0.0.1", served.port, timeout=120)
    client.request("GET", "/break")
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        client.getresponse().read()
    client.close()
    assert "a defect" in caplog.text


def test_a_stop_waits_for_the_answer_under_way_and_takes_nothing_new() -> None:
    with running(Patience()) as served, connect(served) as sock, connect(served) as idle:
        sock.sendall(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200 OK" in sock.recv(1000)
        assert served.server is not None and served.loop is not None
        stopping = asyncio.run_coroutine_threadsafe(served.server.stop(120), served.loop)
        assert idle.recv(10) == b""
        with pytest.raises(OSError):
            connect(served).close()
        served.release.set()
        assert read_all(sock).endswith(b"two\r\n0\r\n\r\n")
        stopping.result(120)


def test_a_stop_waits_for_what_is_done_for_a_client_that_has_gone_and_gives_it_up_in_the_end() -> None:
    async def run() -> None:
        said: list[str] = []
        release = asyncio.Event()

        async def handle(request: Request) -> None:
            try:
                said.append(request.path)
                await (release if request.path == "/ends" else asyncio.Event()).wait()
                said.append("ended")
            except asyncio.CancelledError:
                said.append("cancelled")
                raise

        for path, end in (("/ends", "ended"), ("/hangs", "cancelled")):
            server, sock = Server(handle, MAX_BODY), socket.create_server(("127.0.0.1", 0))
            await server.start(sock)
            _, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(GET.replace(b"/echo", path.encode()))
            while path not in said:
                await asyncio.sleep(0.001)
            writer.close()
            await writer.wait_closed()
            while not server.left:
                await asyncio.sleep(0.001)
            stopping = asyncio.create_task(server.stop(60 if end == "ended" else 0.01))
            await asyncio.sleep(0)
            assert not stopping.done()
            release.set()
            await stopping
            assert said[-1] == end and len(asyncio.all_tasks()) == 1 and not server.left

    asyncio.run(run())


def test_a_server_that_stopped_leaves_no_task_of_an_idle_connection_behind() -> None:
    async def run() -> tuple[bytes, int]:
        sock = socket.create_server(("127.0.0.1", 0))
        server = Server(Served().handle, MAX_BODY)
        await server.start(sock)
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        writer.write(GET)
        head = await reader.readuntil(b"\r\n\r\n")
        await server.stop(60)
        left = len(asyncio.all_tasks())
        writer.close()
        await writer.wait_closed()
        return head, left

    head, left = asyncio.run(run())
    assert head.startswith(b"HTTP/1.1 200") and left == 1  # the one that asks


class Sent(list[bytes]):
    """A connection that keeps what is written to it."""

    is_stalled = False
    is_http_11 = True

    def send(self, data: bytes) -> None:
        self.append(data)

    async def drained(self) -> None:
        """Return; nothing waits."""


def test_the_head_of_a_stream_leaves_with_its_first_part_where_that_is_there() -> None:
    sent = Sent()

    async def answer() -> None:
        request = Request(sent, "GET", "/", {})
        request.begin(200, [])
        request.put(b"one")
        await asyncio.sleep(0)
        request.end()

    asyncio.run(answer())
    assert sent[0].startswith(b"HTTP/1.1 200 OK\r\n") and sent[0].endswith(b"\r\n\r\n3\r\none\r\n")
    assert sent[1:] == [b"0\r\n\r\n"]


def test_the_head_of_a_stream_does_not_wait_for_a_part_that_is_not_there() -> None:
    sent = Sent()

    async def answer() -> None:
        request = Request(sent, "GET", "/", {})
        request.begin(200, [])
        await asyncio.sleep(0)
        assert len(sent) == 1 and sent[0].startswith(b"HTTP/1.1 200 OK\r\n") and sent[0].endswith(b"\r\n\r\n")
        request.put(b"one")

    asyncio.run(answer())
    assert sent[1:] == [b"3\r\none\r\n"]
