"""Overload control through the real proxy: windows and priorities are live, and what was not begun costs nothing."""
from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import pytest

from farthing import semconv
from tests.proxy.rig import (
    EVENTS,
    Behaviour,
    Received,
    Rig,
    answer_of,
    answers,
    asked,
    post,
    send_only,
    streams,
    until,
    waits,
)

BODY = json.dumps(asked("many")).encode()


@pytest.fixture
def one_place(rig: Rig) -> Iterator[Rig]:
    """One place at each deployment of `many` and `claude` and a queue of two, undone by a policy that allows all."""
    windows(rig, max=1, queue=2, max_wait_ms=60_000)
    yield rig
    rig.upstream.release.set()
    windows(rig, min=1000, max=1000, queue=1000, max_wait_ms=60_000)


def windows(rig: Rig, **action: Any) -> None:
    rig.apply(
        "apiVersion: farthing/v1\nkind: Policy\nmetadata: {name: windows}\nmatch: {model: [many, claude]}\n"
        f"action: {{concurrency: {json.dumps(action)}}}\n"
    )


def counted(rig: Rig, name: str) -> int:
    return rig.status()["routing"][name]


@contextmanager
def asking(rig: Rig, team: str, count: int, behave: Behaviour, **headers: str) -> Iterator[list[Any]]:
    """Ask so often at the same time; the answers are there at the end."""
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(post(rig, team, BODY, **headers))) for _ in range(count)]
    rig.upstream.next(behave)
    for thread in threads:
        thread.start()
    yield found
    for thread in threads:
        thread.join()


def test_who_finds_no_place_waits_and_the_row_says_how_long(one_place: Rig) -> None:
    rig, team = one_place, one_place.budget()
    before = counted(rig, "queued")
    with asking(rig, team, 3, waits(rig.upstream, answers(answer_of()))) as found:
        until(lambda: counted(rig, "queued") == before + 1, "the third waits")
        until(lambda: len(rig.upstream.received) == 2, "two are there")
        rig.upstream.release.set()
    assert [answered.status for answered in found] == [200] * 3
    rig.quiet()
    waited = [span[semconv.WAITED_SECONDS] for span in rig.spans(team) if semconv.WAITED_SECONDS in span]
    assert len(waited) == 1 and waited[0] > 0
    assert rig.balance(team)["held_nusd"] == 0


def test_past_the_queue_requests_are_shed_with_retry_after_and_cost_nothing(one_place: Rig) -> None:
    rig, team, other = one_place, one_place.budget(), one_place.budget()
    before = counted(rig, "queued")
    with asking(rig, team, 4, waits(rig.upstream, answers(answer_of()))):
        until(lambda: counted(rig, "queued") == before + 2, "two wait")
        refused = post(rig, other, BODY)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert json.loads(refused.whole)["error"]["code"] == "overloaded"  # type: ignore[attr-defined]
        rig.upstream.release.set()
    span = rig.span(other)
    assert (span[semconv.OUTCOME], span[semconv.SETTLED_NUSD]) == ("refused", 0)


def test_a_priority_takes_the_last_place_as_far_as_the_policy_allows_it(one_place: Rig) -> None:
    rig, team, eager = one_place, one_place.budget(), one_place.budget()
    rig.policy(eager, "rank", priority={"level": 5, "most": 8})
    before = counted(rig, "queued")
    with asking(rig, team, 4, waits(rig.upstream, answers(answer_of()))) as found:
        until(lambda: counted(rig, "queued") == before + 2, "two wait")
        assert post(rig, team, BODY, **{semconv.HEADER_PRIORITY: "9"}).status == 503  # no policy lets it ask for more
        pushed = counted(rig, "pushed_out")
        first = threading.Thread(target=post, args=(rig, eager, BODY), kwargs={semconv.HEADER_PRIORITY: "9"})
        first.start()
        until(lambda: counted(rig, "pushed_out") == pushed + 1, "one gives way")
        rig.upstream.release.set()
        first.join()
    assert sorted(answered.status for answered in found) == [200, 200, 200, 429]
    rig.quiet()
    (row,) = rig.spans(eager)
    assert (row[semconv.PRIORITY], row[semconv.OUTCOME]) == (8, "ok")
    assert post(rig, team, BODY, **{semconv.HEADER_PRIORITY: "urgent"}).status == 400


def test_a_client_that_leaves_the_queue_is_never_sent_on(one_place: Rig) -> None:
    rig, team, gone = one_place, one_place.budget(), one_place.budget()
    before = counted(rig, "queued")
    with asking(rig, team, 2, waits(rig.upstream, answers(answer_of()))):
        until(lambda: len(rig.upstream.received) == 2, "both places are taken")
        sock = send_only(rig, gone, BODY)
        until(lambda: counted(rig, "queued") == before + 1, "it waits")
        sock.close()
        until(lambda: rig.spans(gone), "its span arrives")
        rig.upstream.release.set()
    span = rig.span(gone)
    assert (span[semconv.OUTCOME], span[semconv.SETTLED_NUSD]) == ("aborted", 0)
    assert len(rig.upstream.received) == 2


def test_a_fallback_serves_where_the_model_has_no_place(one_place: Rig) -> None:
    rig, team, other = one_place, one_place.budget(), one_place.budget()
    rig.policy(other, route={"fallbacks": ["gpt-plain"]})
    before = counted(rig, "queued")
    with asking(rig, team, 4, waits(rig.upstream, answers(answer_of()))):
        until(lambda: counted(rig, "queued") == before + 2, "two wait")
        with asking(rig, other, 1, waits(rig.upstream, answers(answer_of()))):
            until(lambda: [r for r in rig.upstream.received if r.path.startswith("/third")], "the fallback is asked")
            rig.upstream.release.set()
    assert rig.span(other)[semconv.REQUEST_MODEL] == "gpt-plain"


def test_a_fallback_that_breaks_off_is_paid_although_the_first_choice_had_no_place(one_place: Rig) -> None:
    rig, team, other = one_place, one_place.budget(), one_place.budget()
    rig.policy(other, route={"fallbacks": ["gpt-plain"]})
    waiting, broken = waits(rig.upstream, answers(answer_of())), streams(EVENTS, cut_at=100)

    async def behave(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (broken if request.path.startswith("/third") else waiting)(request, reader, writer)

    before = counted(rig, "queued")
    with asking(rig, team, 4, behave):
        until(lambda: counted(rig, "queued") == before + 2, "two wait")
        post(rig, other, json.dumps(asked("many", stream=True)).encode())
        rig.upstream.release.set()
    span = rig.span(other)
    assert (span[semconv.REQUEST_MODEL], span[semconv.USAGE_SOURCE]) == ("gpt-plain", "missing")
    assert span[semconv.SETTLED_NUSD] == span[semconv.HELD_NUSD] > 0


def test_anthropic_s_client_reads_an_overload_in_its_own_shape(one_place: Rig) -> None:
    rig = one_place
    windows(rig, max=1, queue=0, max_wait_ms=0)
    client = rig.claude("of-claude")
    message: Any = {"model": "claude", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    rig.upstream.next(waits(rig.upstream, answers(b"{}", status=400)))

    def hold() -> None:
        with pytest.raises(anthropic.BadRequestError):
            client.messages.create(**message)

    holder = threading.Thread(target=hold)
    holder.start()
    assert rig.upstream.arrived.wait(120)
    with pytest.raises(anthropic.InternalServerError) as raised:
        client.messages.create(**message)
    assert raised.value.status_code == 503
    assert raised.value.body["error"]["type"] == "overloaded_error"  # type: ignore[index]
    rig.upstream.release.set()
    holder.join()
