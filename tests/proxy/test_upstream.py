"""proxy/upstream.py against a real server that misbehaves in every way a server can."""
from __future__ import annotations

import asyncio
import gzip
import random
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest

from farthing.errors import UpstreamError
from proxy.upstream import Client, NotSentError, Timeouts

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
QUICK_HEAD = Timeouts(connect=120.0, headers=0.2, between=120.0)
QUICK_BODY = Timeouts(connect=120.0, headers=120.0, between=0.2)


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    """Serve connections with `handler`; at the end each one is closed before the event loop is."""
    open_ones: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.add(asyncio.current_task())
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await handler(reader, writer)
        writer.close()
        with suppress(ConnectionError, asyncio.CancelledError):  # the end may come while it closes
            await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        await asyncio.sleep(0.01)
        for task in filter(None, open_ones):
            task.cancel()
        await asyncio.gather(*filter(None, open_ones))


async def head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def body_of(reader: asyncio.StreamReader) -> bytes:
    """Read one request and return its body."""
    length = (await head(reader)).lower().split(b"content-length: ")[1].split(b"\r\n")[0]
    return await reader.readexactly(int(length))


def answering(*answers: bytes) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await head(reader)
            writer.write(answer)
            await writer.drain()

    return handle


def whole(body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%b\r\n%b" % (len(body), lines, body)


async def get(client: Client, url: str) -> bytes:
    return await (await client.request("GET", url + "/path?q=1")).read()


def test_a_connection_is_used_again() -> None:
    async def run() -> None:
        connections = 0

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            while True:
                assert b"GET /path?q=1 HTTP/1.1" in await head(reader)
                writer.write(whole(b"yes"))

        async with server(handle) as url:
            client = Client()
            assert [await get(client, url) for _ in range(5)] == [b"yes"] * 5
            client.close()
        assert connections == 1

    asyncio.run(run())


def test_an_idle_connection_that_the_server_closed_is_replaced_without_an_error() -> None:
    async def run() -> None:
        async with server(answering(whole(b"once"))) as url:
            client = Client()
            assert await get(client, url) == b"once"
            assert await get(client, url) == b"once"
            client.close()

    asyncio.run(run())


def test_a_chunked_body_comes_in_parts_as_it_is_sent() -> None:
    async def run() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for piece in (b"3\r\none\r\n", b"3\r\ntwo\r\n"):
                writer.write(piece)
                await came.get()
            writer.write(b"0\r\n\r\n")

        came: asyncio.Queue[bytes] = asyncio.Queue()
        parts: list[bytes] = []
        async with server(handle) as url:
            client = Client()
            response = await client.request("GET", url)
            async for part in response.parts():
                parts.append(part)
                came.put_nowait(part)
            assert parts == [b"one", b"two"]
            client.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ((b"",), "broke off before it answered"),
        ((b"not http at all\r\n\r\n",), "broke off before it answered"),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",), "in the middle of its answer"),
    ],
)
def test_a_server_that_breaks_off_is_an_error_that_says_where(answers: tuple[bytes, ...], says: str) -> None:
    async def run() -> None:
        async with server(answering(*answers)) as url:
            client = Client()
            with pytest.raises(UpstreamError, match=says):
                await get(client, url)
            client.close()

    asyncio.run(run())


def test_a_server_that_hangs_is_left_after_the_stage_s_own_time() -> None:
    async def run() -> None:
        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        async def hang_later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
            await reader.read()

        async def hang_after_the_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n")
            await reader.read()

        for handler, times, says in (
            (hang, QUICK_HEAD, "no answer"), (hang_later, QUICK_BODY, "no further part"),
            (hang_after_the_head, QUICK_HEAD, "no first part"),
        ):  # fmt: skip
            async with server(handler) as url:
                client = Client(times)
                with pytest.raises(UpstreamError, match=says):
                    await get(client, url)
                client.close()

    asyncio.run(run())


def test_what_comes_first_may_take_longer_than_what_follows_it() -> None:
    async def run() -> None:
        async def think(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n")
            await asyncio.sleep(2 * QUICK_BODY.between)
            writer.write(b"yes")
            await reader.read()

        async with server(think) as url:
            client = Client(QUICK_BODY)
            assert await poured(client, url) == b"yes"
            client.close()

    asyncio.run(run())


WORDS = b"".join(b"data: %d\n\n" % n for n in range(5000))


@pytest.mark.parametrize(("encoding", "body"), [
    (b"gzip", gzip.compress(WORDS)), (b"X-GZIP", gzip.compress(WORDS[:7]) + gzip.compress(WORDS[7:])),
    (b"deflate", zlib.compress(WORDS)), (b"identity", WORDS),
], ids=["gzip", "two members", "deflate", "none"])  # fmt: skip
def test_what_a_server_compresses_unasked_is_read_as_what_it_stands_for(encoding: bytes, body: bytes) -> None:
    async def run() -> None:
        answer = whole(body, b"Content-Encoding: " + encoding)
        async with server(answering(answer, answer, answer)) as url:
            client = Client()
            assert await get(client, url) == await poured(client, url) == WORDS
            assert b"".join([part async for part in (await client.request("GET", url)).parts()]) == WORDS
            client.close()

    asyncio.run(run())


@pytest.mark.parametrize(("encoding", "body", "says"), [
    (b"br", b"x", "content-encoding 'br'"), (b"gzip", b"no gzip at all", "damaged"),
    (b"gzip", gzip.compress(WORDS)[:-9], "damaged"), (b"gzip", gzip.compress(bytes(80_000_000)), "more than"),
], ids=["unknown", "damaged", "cut", "a bomb"])  # fmt: skip
def test_what_cannot_be_read_says_why(encoding: bytes, body: bytes, says: str) -> None:
    async def run() -> None:
        async with server(answering(*[whole(body, b"content-encoding: " + encoding)] * 2)) as url:
            client = Client()
            for read in (get, poured):
                with pytest.raises(UpstreamError, match=says):
                    await read(client, url)
            client.close()

    asyncio.run(run())


def test_a_server_that_goes_over_to_another_protocol_is_an_error() -> None:
    async def run() -> None:
        async with server(answering(b"HTTP/1.1 101 Go\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nxyz")) as url:
            client = Client()
            with pytest.raises(UpstreamError, match="before it answered"):
                await get(client, url)
            client.close()

    asyncio.run(run())


def test_nobody_listening_means_that_nothing_was_sent() -> None:
    async def run() -> None:
        async with server(answering()) as url:
            pass
        with pytest.raises(NotSentError, match="cannot connect"):
            await get(Client(), url)

    asyncio.run(run())


def test_a_body_that_ends_with_its_connection_is_whole() -> None:
    async def run() -> None:
        async with server(answering(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall of it")) as url:
            client = Client()
            assert await get(client, url) == b"all of it"
            client.close()

    asyncio.run(run())


def test_a_slow_reader_pauses_the_server_instead_of_filling_memory() -> None:
    async def run() -> None:
        sent = 0

        async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % 200_000_000)
            while sent < 200_000_000:
                writer.write(b"x" * 100_000)
                await writer.drain()
                sent += 100_000

        async with server(flood) as url:
            client = Client()
            response = await client.request("GET", url)
            await asyncio.sleep(0.5)
            assert sent < 50_000_000
            response.close()
            client.close()

    asyncio.run(run())


def test_leaving_a_response_closes_its_connection() -> None:
    async def run() -> None:
        noticed = asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nfirst")
            await reader.read()
            noticed.set()

        async with server(handle) as url:
            client = Client()
            response = await client.request("GET", url)
            async for _ in response.parts():
                break
            response.close()
            await asyncio.wait_for(noticed.wait(), 120)
            client.close()

    asyncio.run(run())


def test_an_interim_answer_is_passed_over() -> None:
    async def run() -> None:
        early = b"HTTP/1.1 100 Continue\r\nx-early: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n"
        async with server(answering(early + whole(b"yes"))) as url:
            client = Client()
            response = await client.request("GET", url)
            assert (response.status, await response.read(), b"x-early" in response.headers) == (200, b"yes", False)
            client.close()

    asyncio.run(run())


@pytest.mark.parametrize("delay_s", [0.0, 0.05])
def test_what_a_server_sends_behind_its_answer_never_becomes_the_next_caller_s(delay_s: float) -> None:
    async def run() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head(reader)
            writer.write(whole(b"mine"))
            if delay_s:
                await writer.drain()
                await asyncio.sleep(delay_s)
            writer.write(whole(b"smuggled"))
            await reader.read()
            closed.set()

        closed = asyncio.Event()
        async with server(handle) as url:
            client = Client()
            assert await get(client, url) == b"mine"
            await asyncio.wait_for(closed.wait(), 120)
            assert await get(client, url) == b"mine"
            client.close()

    asyncio.run(run())


def test_a_body_without_a_length_that_ends_with_a_reset_is_broken_off() -> None:
    async def run() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
            await begun.wait()
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

        begun = asyncio.Event()
        async with server(handle) as url:
            client = Client()
            response = await client.request("GET", url)
            begun.set()
            with pytest.raises(UpstreamError, match="in the middle"):
                await response.read()
            client.close()

    asyncio.run(run())


def test_a_request_that_is_not_repeatable_is_sent_once() -> None:
    async def run() -> None:
        arrived = 0

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal arrived
            for answer in (whole(b"once"), b""):
                await head(reader)
                arrived += 1
                writer.write(answer)

        async with server(handle) as url:
            client = Client()
            for is_repeatable, total in ((False, 2), (True, 4)):
                assert await get(client, url) == b"once"
                if is_repeatable:
                    assert await get(client, url) == b"once"
                else:
                    with pytest.raises(UpstreamError):
                        await client.request("GET", url + "/path?q=1", is_repeatable=False)
                assert arrived == total + is_repeatable
            client.close()

    asyncio.run(run())


async def poured(client: Client, url: str, sink: Callable[[bytes], bool] | None = None) -> bytes:
    taken: list[bytes] = []

    def take(part: bytes) -> bool:
        taken.append(part)
        return sink is None or sink(part)

    await (await client.request("GET", url)).pour(take, partial(asyncio.sleep, 0))
    return b"".join(taken)


def test_a_body_is_poured_whole_however_often_the_sink_wants_no_more() -> None:
    body = random.Random(7).randbytes(3_000_000)

    async def run() -> None:
        async with server(answering(whole(body), whole(body), whole(b""))) as url:
            client = Client()
            chance = random.Random(8)
            assert await poured(client, url, lambda _: chance.random() < 0.5) == body
            assert await poured(client, url) == body
            assert await poured(client, url) == b""
            client.close()

    asyncio.run(run())


def test_a_sink_that_wants_no_more_pauses_the_server() -> None:
    async def run() -> None:
        sent = 0
        may_go_on = asyncio.Event()

        async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % 60_000_000)
            while sent < 60_000_000:
                writer.write(b"x" * 100_000)
                await writer.drain()
                sent += 100_000

        async with server(flood) as url:
            client = Client()
            response = await client.request("GET", url)
            came = 0

            def take(part: bytes) -> bool:
                nonlocal came
                came += len(part)
                return may_go_on.is_set()

            pouring = asyncio.create_task(response.pour(take, may_go_on.wait))
            await asyncio.sleep(0.3)
            assert sent < 20_000_000 and came < 2_000_000
            may_go_on.set()
            await pouring
            assert came == 60_000_000
            client.close()

    asyncio.run(run())


def test_pouring_ends_with_what_the_server_or_the_sink_did_wrong() -> None:
    async def run() -> None:
        half = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head(reader)
            writer.write(half)
            await reader.read()

        def wrong(part: bytes) -> bool:
            raise ValueError(f"no use for {part!r}")

        client = Client(QUICK_BODY)
        async with server(answering(half)) as url:
            with pytest.raises(UpstreamError, match="in the middle of its answer"):
                await poured(client, url)
        async with server(hang) as url:
            with pytest.raises(UpstreamError, match=r"no further part of the answer from the upstream within 0\.2 s"):
                await poured(client, url)
        async with server(answering(whole(b"all"))) as url:
            with pytest.raises(ValueError, match="no use for b'all'"):
                await poured(client, url, wrong)
        client.close()

    asyncio.run(run())
