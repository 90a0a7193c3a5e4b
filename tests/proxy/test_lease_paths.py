"""proxy/lease.py under every way out of a call: in the end nothing is held and nothing leased."""
from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from farthing import semconv
from tests.proxy.rig import (
    COST,
    DELTAS,
    EVENTS,
    Behaviour,
    Rig,
    answer_of,
    answers,
    asked,
    ends_stream,
    hangs,
    in_turn,
    post,
    send_only,
    streams,
    until,
    waits,
)
from tests.proxy.test_exchange import CASES
from tests.proxy.test_hedge import by_place
from tests.proxy.test_overload import BODY, asking, counted, windows

GOOD = answers(answer_of())


def test_every_way_out_of_a_call_leaves_no_hold_and_no_lease(rig: Rig) -> None:
    team = leasing(rig)
    rig.cache(team, ttl_s=60)
    for behave, more, (status, _, _) in CASES.values():
        rig.upstream.next(behave)
        assert post(rig, team, json.dumps(asked(**more)).encode()).status == status
    rig.upstream.next(GOOD)
    cached = [post(rig, team, json.dumps(asked(temperature=0)).encode()) for _ in range(2)]
    assert cached[1].headers[semconv.HEADER_CACHE] == "hit"
    assert rig.balance(team)["leased_nusd"] > 0
    until(lambda: not rig.status()["leased_nusd"], "leases that nobody uses go back")
    rig.quiet()
    until(lambda: len(rig.spans(team)) >= 8 + len(CASES) + 2, "every call is recorded")
    balance = rig.balance(team)
    settled = sum(span.get(semconv.SETTLED_NUSD, 0) for span in rig.spans(team))
    assert (balance["held_nusd"], balance["leased_nusd"]) == (0, 0)
    assert (balance["spent_nusd"], balance["overrun_nusd"], balance["refused"]) == (settled, 0, 0)
    assert sum(row["charged_nusd"] for row in rig.settlements(team)) == settled


def leasing(rig: Rig) -> str:
    """Make a budget of which the proxy has a lease in hand."""
    team = rig.budget()
    for _ in range(8):
        post(rig, team, json.dumps(asked()).encode())
    until(lambda: rig.status()["leased_nusd"].get(team, 0) > 100 * 1000, "a lease is in hand")
    return team


def answered(behave: Behaviour, status: int, rig: Rig, team: str, **more: Any) -> None:
    rig.upstream.next(behave)
    assert post(rig, team, json.dumps(asked(**more)).encode()).status == status


def retried(rig: Rig, team: str) -> None:
    # of a deployment that no other test here has asked to leave alone for a while
    answered(in_turn(answers(b"{}", status=503), GOOD), 200, rig, team, model="gpt")
    assert len(rig.upstream.received) == 2


def cached(rig: Rig, team: str) -> None:
    rig.cache(team, ttl_s=60)
    for _ in range(2):
        answered(GOOD, 200, rig, team, temperature=0)
    assert rig.upstream.received == []


def left(model: str, rig: Rig, team: str) -> None:
    """A client leaves in the middle of a stream; a third party's is read to its end all the same."""
    rig.upstream.next(waits(rig.upstream, ends_stream, DELTAS))
    sock = send_only(rig, team, json.dumps(asked(model, stream=True)).encode())
    until(lambda: b"llo" in sock.recv(4096), "the stream has begun")
    sock.close()
    if model == "own":
        assert rig.upstream.hung_up.wait(20)
    rig.upstream.release.set()


def timed_out(rig: Rig, team: str) -> None:
    rig.upstream.next(hangs)
    assert post(rig, team, json.dumps(asked()).encode(), rig.hasty).status == 504


def hedged(rig: Rig, team: str) -> None:
    rig.policy(team, route={"strategy": "fixed", "deployment": "eastern", "hedge": {"after_ms": 30, "max_share": 1}})
    rig.upstream.next(by_place(waits(rig.upstream, GOOD), GOOD))
    assert post(rig, team, BODY).status == 200
    rig.upstream.release.set()


def full(wait_ms: int, rig: Rig, team: str) -> None:
    """Both places and, where nobody waits long, the queue are taken: the next is shed at once, or after its wait."""
    windows(rig, max=1, queue=2, max_wait_ms=wait_ms)
    try:
        before, other = counted(rig, "queued"), rig.budget()
        with asking(rig, other, 4 if wait_ms > 1000 else 2, waits(rig.upstream, GOOD)):
            until(lambda: len(rig.upstream.received) == 2, "both places are taken")
            if wait_ms > 1000:
                until(lambda: counted(rig, "queued") == before + 2, "two wait")
            assert post(rig, team, BODY).status == 503
            rig.upstream.release.set()
    finally:
        rig.upstream.release.set()
        windows(rig, min=1000, max=1000, queue=1000, max_wait_ms=10_000)


def refused(rig: Rig, team: str) -> None:
    answered(GOOD, 429, rig, team, max_tokens=10**6)


WAYS: dict[str, tuple[Callable[[Rig, str], None], int]] = {  # with the calls that it adds to the ledger
    "success": (partial(answered, GOOD, 200), 1),
    "4xx": (partial(answered, answers(b"{}", status=400), 400), 1),
    "5xx": (partial(answered, answers(b"{}", status=500), 500), 1),
    "retry": (retried, 1),
    "fallback": (partial(answered, GOOD, 200, model="pair"), 1),
    "cached hit": (cached, 1),
    "cut stream": (partial(answered, streams(EVENTS, cut_at=len(DELTAS) // 2), 200, stream=True), 1),
    "abort": (partial(left, "gpt-plain"), 1),
    "cancel": (partial(left, "own"), 1),
    "timeout": (timed_out, 1),
    "hedge": (hedged, 2),
    "shed": (partial(full, 10_000), 1),
    "queue timeout": (partial(full, 50), 1),
    "over budget": (refused, 0),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_call_out_of_a_lease_ends_with_its_hold_settled_once(rig: Rig, way: str) -> None:
    team = leasing(rig)
    act, calls = WAYS[way]
    act(rig, team)
    until(lambda: len(rig.settlements(team)) == 8 + calls, "the ledger has heard of every call")
    rig.quiet()
    for url in (rig.proxy, rig.hasty):
        assert rig.status(url)["held_nusd"] == {}
    balance = rig.balance(team)
    settled = sum(span.get(semconv.SETTLED_NUSD, 0) for span in rig.spans(team))
    assert (balance["held_nusd"], balance["overrun_nusd"], balance["spent_nusd"]) == (0, 0, settled)
    assert settled >= 8 * COST and sum(row["charged_nusd"] for row in rig.settlements(team)) == settled
