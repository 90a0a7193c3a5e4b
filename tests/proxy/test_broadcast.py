"""proxy/broadcast.py: one stream for many, alone and in the real proxy; nobody is cut by another one's client."""
from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from farthing import semconv
from farthing.policy.facts import Facts
from proxy.broadcast import BEHIND_BYTES, PREFIX_BYTES, Broadcast
from proxy.call import Call
from proxy.formats import FORMATS
from proxy.inner import InnerRequest
from proxy.within import Within
from tests.proxy.rig import (
    COST,
    DELTAS,
    DONE,
    Rig,
    asked,
    ends_stream,
    post,
    resets,
    send_only,
    until,
    waits,
)
from tests.proxy.test_formats import (
    MESSAGE_EVENTS,
    RESPONSE_EVENTS,
    TEXT_EVENTS,
    complete_stream,
    respond_stream,
    stream_claude,
)

FORM = next(form for form in FORMATS if form.path == "chat/completions")
BODY = json.dumps(asked(temperature=0, stream=True)).encode()
OWN = json.dumps(asked("own", temperature=0, stream=True)).encode()
SEEN = DELTAS + DONE  # by a client that does not ask for the usage


class Browser(InnerRequest):
    """A client that takes what it is sent, until it is told to stop."""

    __slots__ = ("goes_on",)

    def __init__(self) -> None:
        super().__init__("/v1/chat/completions", {}, b"")
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    def put(self, data: bytes) -> bool:
        self.answered += data
        return self.goes_on.is_set()

    async def caught_up(self) -> None:
        await self.goes_on.wait()


def call(limit_s: float = 60.0) -> Call:
    made = Call("req_1", b"t" * 16, b"s" * 8, b"", Facts("default"))
    made.limit_s = limit_s
    return made


def broadcast(client: Browser, leader: Call | None = None, within: Within | None = None) -> Broadcast:
    return Broadcast(leader or call(), FORM, client, within, lambda: None)


def run(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(act(), 30))


async def reads(stream: Broadcast, client: Browser) -> asyncio.Task[None]:
    """Have a client join, and return once it has all that is there."""
    task = asyncio.create_task(stream.join(60).give(client, call()))
    await asyncio.sleep(0)
    return task


def test_who_joins_late_is_given_the_beginning_and_then_what_comes() -> None:
    async def act() -> None:
        first, late = Browser(), Browser()
        async with broadcast(first) as stream:
            stream.begin(200, ())
            stream.put(b"one ")
            stream.put(b"two ")
            task = await reads(stream, late)
            assert late.answered == b"one two "
            stream.put(b"three")
            stream.end()
        await task
        assert first.answered == late.answered == b"one two three"
        assert first.is_ended

    run(act)


def test_a_reader_that_takes_nothing_is_let_go_and_holds_up_neither_the_others_nor_the_memory() -> None:
    async def act() -> None:
        first, stuck = Browser(), Browser()
        stuck.goes_on.clear()
        async with broadcast(first) as stream:
            stream.begin(200, ())
            reader = stream.join(60)
            task = asyncio.create_task(reader.give(stuck, call()))
            part = b"x" * 65536
            sent = 0
            while not reader.left:
                assert stream.put(part), "the first reader keeps up"
                sent += len(part)
                while len(first.answered) < sent:
                    await asyncio.sleep(0)
            assert reader.left == "slow" and BEHIND_BYTES <= sent <= BEHIND_BYTES + 4 * len(part)
            stream.put(b"the end")
            await asyncio.sleep(0)
            assert sum(map(len, stream._parts)) <= len(part)  # pyright: ignore[reportPrivateUsage] # what is kept
            stream.end()
        assert first.is_ended and len(first.answered) == sent + len(b"the end")
        stuck.goes_on.set()
        await task
        assert len(stuck.answered) < sent

    run(act)


def test_the_stream_waits_where_no_reader_keeps_up_and_goes_on_with_the_first_that_does() -> None:
    async def act() -> None:
        first, second = Browser(), Browser()
        first.goes_on.clear()
        second.goes_on.clear()
        async with broadcast(first) as stream:
            stream.begin(200, ())
            task = await reads(stream, second)
            while stream.put(b"x" * 65536):
                await asyncio.sleep(0)
            waiting = asyncio.create_task(stream.caught_up())
            await asyncio.sleep(0)
            assert not waiting.done()
            second.goes_on.set()
            await waiting
            first.goes_on.set()
            stream.end()
        await task
        assert first.answered == second.answered

    run(act)


def test_a_long_stream_takes_nobody_on_any_more() -> None:
    async def act() -> None:
        closed: list[bool] = []
        stream = Broadcast(call(), FORM, Browser(), None, lambda: closed.append(True))
        async with stream:
            stream.begin(200, ())
            stream.put(b"x" * PREFIX_BYTES)
            assert closed == []
            stream.put(b"x")
            assert closed == [True]
            stream.end()

    run(act)


def test_a_leader_whose_time_is_over_is_told_so_and_the_others_have_theirs() -> None:
    async def act() -> None:
        first, second, leader = Browser(), Browser(), call(0.02)
        with Within(0.02) as within:
            async with broadcast(first, leader, within) as stream:
                stream.begin(200, ())
                task = await reads(stream, second)
                while not first.is_ended:
                    await asyncio.sleep(0)
                stream.put(b"the rest")
                stream.end()
            await task
        assert b"no whole answer within 0.02 s" in first.answered and second.answered == b"the rest"
        assert (leader.outcome, leader.error_type, leader.status) == ("error", "upstream_timeout", 504)

    run(act)


def test_a_postponed_limit_still_holds() -> None:
    async def act() -> None:
        try:
            with Within(60) as within:
                assert within.postpone(1) is None  # there is more time than that
                assert 59 < (within.postpone(61) or 0) <= 60
                within._expire()  # pyright: ignore[reportPrivateUsage] # that time is over
                await asyncio.sleep(60)
        except TimeoutError:
            return
        raise AssertionError("the block went on")

    run(act)


def events_of(sock: socket.socket) -> bytes:
    """Read a chunked answer to its end, and return its body."""
    with sock, sock.makefile("rb") as file:
        while file.readline().strip():
            pass
        body = b""
        while size := int(file.readline() or b"0", 16):
            body += file.read(size)
            file.readline()
        return body


def shared(rig: Rig, team: str, body: bytes, count: int) -> list[socket.socket]:
    """Send identical requests, each once the one before it has its first event."""
    made: list[socket.socket] = []
    for _ in range(count):
        sock = send_only(rig, team, body)
        sock.settimeout(20)
        until(lambda sock=sock: b"data: " in sock.recv(65536, socket.MSG_PEEK), "its first event comes")
        made.append(sock)
    return made


def ended(rig: Rig, team: str, count: int) -> list[tuple[str, str]]:
    """Return the cache level and the outcome of a team's calls, once all are recorded and the ledger agrees."""
    until(lambda: len(rig.spans(team)) == count, "every call is recorded")
    rig.quiet()
    for span in rig.spans(team):
        rig.agrees(span, team)
    return sorted((span.get(semconv.CACHE_HIT, ""), span[semconv.OUTCOME]) for span in rig.spans(team))


def streaming(rig: Rig, **spec: Any) -> str:
    team = rig.budget()
    rig.cache(team, coalesce=True, **spec)
    rig.upstream.next(waits(rig.upstream, ends_stream, first=DELTAS))
    return team


def test_identical_streams_in_flight_share_one_upstream_stream_and_one_bill(rig: Rig) -> None:
    team = streaming(rig, exact=False)
    early = shared(rig, team, BODY, 3)
    rig.upstream.release.set()
    assert [events_of(sock) for sock in early] == [SEEN] * 3 and len(rig.upstream.received) == 1
    assert ended(rig, team, 3) == [("", "ok"), ("coalesced", "ok"), ("coalesced", "ok")]
    assert rig.balance(team)["spent_nusd"] == COST
    (level,) = [one for one in rig.status()["caches"]
                if one["policy"] == f"cache-{team}" and one["level"] == "coalesced"]  # fmt: skip
    assert (level["hits"], level["saved_nusd"], level["unpriced_hits"]) == (2, 2 * COST, 0)
    tokens = [span[semconv.USAGE_OUTPUT_TOKENS] for span in rig.spans(team)]
    assert len(set(tokens)) == 1 and all(semconv.RESPONSE_TTFC in span for span in rig.spans(team))


def test_the_official_client_reads_a_stream_that_another_one_asked_for(rig: Rig) -> None:
    team = streaming(rig)
    (first,) = shared(rig, team, BODY, 1)
    with rig.client(team).chat.completions.create(**asked(temperature=0), stream=True) as stream:
        assert stream.response.headers[semconv.HEADER_CACHE] == "coalesced"
        begun = next(iter(stream))
        rig.upstream.release.set()
        text = "".join([begun.choices[0].delta.content or "", *(one.choices[0].delta.content or "" for one in stream)])
    assert text == "hello" and events_of(first) == SEEN
    assert post(rig, team, BODY).headers[semconv.HEADER_CACHE] == "hit"  # and it was kept


@pytest.mark.parametrize(("ask", "events"), [
    (complete_stream, TEXT_EVENTS), (respond_stream, RESPONSE_EVENTS), (stream_claude, MESSAGE_EVENTS),
], ids=["completions", "responses", "messages"])  # fmt: skip
def test_every_api_s_official_client_reads_a_shared_stream(
    rig: Rig, ask: Callable[[Rig, str], None], events: bytes
) -> None:
    team = rig.budget()
    rig.cache(team, coalesce=True, allow_sampled=True)
    begun = events.index(b"\n\n") + 2

    async def ends(request: Any, reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(events[begun:])
        await writer.drain()
        writer.close()

    rig.upstream.next(waits(rig.upstream, ends, first=events[:begun]))
    with ThreadPoolExecutor(3) as pool:
        made = [pool.submit(ask, rig, team) for _ in range(3)]
        until(lambda: rig.status()["calls_sharing_a_stream"] == 3, "all read the first event")
        rig.upstream.release.set()
        for one in made:
            one.result()
    assert ended(rig, team, 3) == [("", "ok"), ("coalesced", "ok"), ("coalesced", "ok")]
    assert len(rig.upstream.received) == 1


def test_the_others_get_the_whole_stream_when_the_leader_s_client_goes_away(rig: Rig) -> None:
    team = streaming(rig)
    leader, *others = shared(rig, team, OWN, 3)
    leader.close()
    until(lambda: rig.status()["in_flight"] == 1, "the upstream goes on")
    rig.upstream.release.set()
    assert [events_of(sock) for sock in others] == [SEEN] * 2 and len(rig.upstream.received) == 1
    assert ended(rig, team, 3) == [("", "aborted"), ("coalesced", "ok"), ("coalesced", "ok")]


def test_a_stream_that_nobody_reads_any_more_is_stopped(rig: Rig) -> None:
    team = streaming(rig)
    for sock in shared(rig, team, OWN, 3):
        sock.close()
    assert rig.upstream.hung_up.wait(120)
    assert ended(rig, team, 3) == [("", "aborted"), ("coalesced", "aborted"), ("coalesced", "aborted")]


def test_a_stream_that_breaks_off_breaks_off_for_all_and_is_kept_for_nobody(rig: Rig) -> None:
    team = rig.budget()
    rig.cache(team, coalesce=True)
    rig.upstream.next(waits(rig.upstream, resets, first=DELTAS[: -len(DELTAS) // 3]))
    made = shared(rig, team, BODY, 2)
    rig.upstream.release.set()
    bodies = [events_of(sock) for sock in made]
    assert all(b'"upstream_error"' in body and DONE not in body for body in bodies)
    assert ended(rig, team, 2) == [("", "error"), ("coalesced", "error")]
    rig.upstream.next(waits(rig.upstream, ends_stream, first=DELTAS))
    rig.upstream.release.set()
    assert post(rig, team, BODY).headers[semconv.HEADER_CACHE] == "miss"


def test_a_stream_without_known_usage_is_shared_and_says_that_its_saving_is_unknown(rig: Rig) -> None:
    team = rig.budget()
    rig.cache(team, coalesce=True)

    async def ends_untold(request: Any, reader: Any, writer: Any) -> None:
        writer.write(DONE)
        await writer.drain()
        writer.close()

    rig.upstream.next(waits(rig.upstream, ends_untold, first=DELTAS))
    made = shared(rig, team, BODY, 2)
    rig.upstream.release.set()
    assert [events_of(sock) for sock in made] == [SEEN] * 2
    (level,) = [one for one in rig.status()["caches"]
                if one["policy"] == f"cache-{team}" and one["level"] == "coalesced"]  # fmt: skip
    assert (level["hits"], level["saved_nusd"], level["unpriced_hits"]) == (1, 0, 1)
