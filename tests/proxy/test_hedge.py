"""proxy/hedge.py: a second deployment is asked when the first is slow, and both are paid for what they did, once."""
from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from farthing import semconv
from farthing.policy.route import Hedge
from farthing.settings import Deployment
from proxy.counters import Counters
from proxy.dispatch import Target
from proxy.health import Health
from proxy.hedge import Hedges
from proxy.upstream import Timeouts
from tests.proxy.rig import (
    COST,
    EVENTS,
    Behaviour,
    Received,
    Rig,
    answer_of,
    answers,
    asked,
    hangs,
    post,
    resets,
    streams,
    until,
    waits,
)

ANSWER = answers(answer_of())


def by_place(east: Behaviour, west: Behaviour) -> Behaviour:
    async def behave(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (east if request.path.startswith("/east") else west)(request, reader, writer)

    return behave


@pytest.fixture
def hedged(rig: Rig) -> Iterator[tuple[Rig, str]]:
    """A team whose requests go to `eastern` first, which bills started work, and to `western` after 30 ms."""
    team = rig.budget()
    hedge = {"after_ms": 30, "max_share": 1}
    rig.policy(team, route={"strategy": "fixed", "deployment": "eastern", "hedge": hedge})
    yield rig, team
    rig.upstream.release.set()


def ask(rig: Rig, team: str, **more: Any) -> bytes:
    answered = post(rig, team, json.dumps(asked("many", **more)).encode())
    assert answered.status == 200, answered.whole  # type: ignore[attr-defined]
    return answered.whole  # type: ignore[attr-defined]


def rows(rig: Rig, team: str, count: int) -> list[dict[str, Any]]:
    """Return the rows of a team, the one that answered first, each held against the ledger."""
    until(lambda: len(rig.spans(team)) >= count, "all rows are here")
    rig.quiet()
    found = rig.spans(team)
    assert len(found) == count == len(rig.settlements(team))
    for span in found:
        rig.agrees(span, team)
    return sorted(found, key=lambda span: semconv.DISCARDED in span)


def test_a_quick_answer_is_asked_for_once(rig: Rig) -> None:
    team = rig.budget()
    rig.policy(team, route={"strategy": "fixed", "deployment": "eastern", "hedge": {"after_ms": 60_000}})
    ask(rig, team)
    (row,) = rows(rig, team, 1)
    assert row[semconv.DEPLOYMENT_NAME] == "eastern" and semconv.ATTEMPT_OF not in row


def test_a_slow_third_party_is_overtaken_and_still_read_to_its_end_and_paid(hedged: tuple[Rig, str]) -> None:
    rig, team = hedged
    before = rig.status()["routing"]
    rig.upstream.next(by_place(waits(rig.upstream, ANSWER), ANSWER))
    ask(rig, team)
    assert rig.status()["routing"]["hedges_won"] == before["hedges_won"] + 1
    rig.upstream.release.set()
    won, lost = rows(rig, team, 2)
    assert (won[semconv.DEPLOYMENT_NAME], won[semconv.SETTLED_NUSD]) == ("western", COST)
    assert (lost[semconv.DEPLOYMENT_NAME], lost[semconv.SETTLED_NUSD]) == ("eastern", 4 * COST)
    assert lost[semconv.DISCARDED] == "hedge" and won[semconv.ATTEMPT_OF] == lost[semconv.REQUEST_ID]
    assert not rig.upstream.hung_up.is_set()


def test_a_stream_is_overtaken_before_its_first_byte_and_never_after(hedged: tuple[Rig, str]) -> None:
    rig, team = hedged
    rig.upstream.next(by_place(waits(rig.upstream, streams(EVENTS)), streams(EVENTS)))
    assert b"[DONE]" in ask(rig, team, stream=True)
    rig.upstream.release.set()
    won, lost = rows(rig, team, 2)
    assert (won[semconv.DEPLOYMENT_NAME], lost[semconv.SETTLED_NUSD]) == ("western", 4 * COST)


def test_our_own_loser_is_cancelled(rig: Rig) -> None:
    team = rig.budget()
    hedge = {"after_ms": 30, "max_share": 1}
    rig.policy(team, route={"strategy": "fixed", "deployment": "western", "hedge": hedge})
    rig.upstream.next(by_place(ANSWER, waits(rig.upstream, ANSWER)))
    ask(rig, team, stream=True)
    assert rig.upstream.hung_up.wait(120)
    won, lost = rows(rig, team, 2)
    assert won[semconv.DEPLOYMENT_NAME] == "eastern"
    assert (lost[semconv.OUTCOME], lost[semconv.USAGE_SOURCE]) == ("aborted", "estimate")  # it read, and wrote nothing
    assert lost.get(semconv.USAGE_OUTPUT_TOKENS) == 0


@pytest.mark.parametrize("failing", [answers(b"{}", status=503), resets], ids=["refuses", "resets"])
def test_a_second_that_fails_costs_no_answer(hedged: tuple[Rig, str], failing: Behaviour) -> None:
    rig, team = hedged

    async def fails(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await failing(request, reader, writer)
        rig.upstream.release.set()

    rig.upstream.next(by_place(waits(rig.upstream, ANSWER), fails))
    ask(rig, team)
    until(lambda: len(rig.spans(team)) == 2, "both rows are here")
    rig.quiet()
    won = next(span for span in rig.spans(team) if semconv.DISCARDED not in span)
    assert (won[semconv.DEPLOYMENT_NAME], won[semconv.SETTLED_NUSD]) == ("eastern", 4 * COST)
    assert rig.balance(team)["held_nusd"] == 0


def test_a_budget_that_holds_one_attempt_only_is_not_overspent_for_a_second(rig: Rig) -> None:
    team = rig.budget("0.0015 USD")
    hedge = {"after_ms": 20, "max_share": 1}
    rig.policy(team, route={"strategy": "fixed", "deployment": "eastern", "hedge": hedge})

    async def slowly(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        await ANSWER(request, reader, writer)

    rig.upstream.next(slowly)
    ask(rig, team)
    (row,) = rows(rig, team, 1)
    assert row[semconv.DEPLOYMENT_NAME] == "eastern"


def test_a_client_that_goes_ends_both(hedged: tuple[Rig, str]) -> None:
    rig, team = hedged
    rig.upstream.next(hangs)
    body = json.dumps(asked("many")).encode()
    assert post(rig, team, body, **{semconv.HEADER_DEADLINE: "3000"}).status == 504
    until(lambda: len(rig.spans(team)) == 2, "both rows are here")
    rig.quiet()
    assert rig.balance(team)["held_nusd"] == 0


def test_a_percentile_waits_until_enough_is_known_and_shares_bound_how_often() -> None:
    hedges = Hedges(None, None, Counters())  # type: ignore[arg-type] # neither is asked here
    target, rule = Target(Deployment("m"), "openai", (), Timeouts(), Health(0)), Hedge(percentile=90, max_share=0.1)
    for number in range(19):
        hedges._note(target, number / 100)
    assert hedges._delay_s(rule, target) is None
    hedges._note(target, 0.19)
    assert hedges._delay_s(rule, target) == pytest.approx(0.18)
    hedges._credit = 0.5
    assert hedges._delay_s(rule, target) is None
