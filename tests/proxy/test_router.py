"""proxy/router.py: each strategy chooses among real deployments, live by policy, and the row says what it saw."""
from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from contextlib import closing
from typing import Any

import pytest

from farthing import semconv
from farthing.deployments import named
from farthing.errors import SettingsError
from farthing.settings import Deployment
from proxy.prompt import text_of
from proxy.request import Asked
from tests.proxy.rig import (
    Received,
    Rig,
    answer_of,
    answers,
    asked,
    in_turn,
    post,
    send_only,
    until,
    waits,
)

_LATENCY = re.compile(r'^farthing_latency_seconds\{.*deployment="(east|west)ern".*\} (\S+)$', re.MULTILINE)


def ask(rig: Rig, team: str, model: str = "many", text: str = "hi", tags: str = "") -> str:
    """Ask once and return which deployment was asked, by its path."""
    body = json.dumps(asked(model) | {"messages": [{"role": "user", "content": text}]}).encode()
    answered = post(rig, team, body, **({semconv.HEADER_TAGS: f"team={team},{tags}"} if tags else {}))
    assert answered.status == 200, answered.whole  # type: ignore[attr-defined]
    return rig.upstream.received[-1].path.split("/")[1]


PICKS: list[tuple[str, dict[str, Any], str]] = [
    ("fixed", {"strategy": "fixed", "deployment": "western"}, "west"),
    ("weighted", {"strategy": "weighted", "weights": {"eastern": 0}}, "west"),
    ("cost", {"strategy": "cost"}, "west"),
    ("score", {"strategy": "score", "score": {"cost": 1, "load": 0, "performance": 0}}, "west"),
    ("region", {"strategy": "requirement", "need": {"region": "eu"}}, "east"),
    ("quality", {"strategy": "requirement", "need": {"min_quality": 0.8}}, "east"),
    ("max-cost", {"strategy": "requirement", "need": {"max_cost": "0.0001 USD"}}, "west"),
    ("models", {"strategy": "cost", "models": ["big", "small"]}, "west"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "action", "where"), PICKS, ids=[name for name, _, _ in PICKS])
def test_a_strategy_picks_its_deployment_and_the_row_says_why(
    rig: Rig, name: str, action: dict[str, Any], where: str
) -> None:
    team = rig.budget()
    rig.policy(team, route=action)
    assert [ask(rig, team) for _ in range(3)] == [where] * 3
    rig.quiet()
    for span in rig.spans(team):
        rig.agrees(span, team)
        assert span[semconv.ROUTE_STRATEGY] == action["strategy"] and span[semconv.ROUTE_REASON]
        assert len(span[semconv.ROUTE_CANDIDATES]) == 2 and "in flight" in span[semconv.ROUTE_CANDIDATES][0]


def test_the_less_busy_and_the_quicker_one_are_asked_as_they_stand(rig: Rig) -> None:
    busy, idle, quick = rig.budget(), rig.budget(), rig.budget()
    rig.policy(busy, route={"strategy": "fixed", "deployment": "eastern"})
    rig.policy(idle, route={"strategy": "least_in_flight"})
    rig.policy(quick, route={"strategy": "latency"})
    held = waits(rig.upstream, answers(answer_of()))

    async def behave(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (held if request.path.startswith("/east") else answers(answer_of()))(request, reader, writer)

    rig.upstream.next(behave)
    with closing(send_only(rig, busy, json.dumps(asked("many")).encode())) as waiting:
        until(lambda: rig.status()["in_flight"] == 1, "the eastern one is at work")
        assert [ask(rig, idle) for _ in range(3)] == ["west"] * 3
        rig.upstream.release.set()
        assert waiting.recv(100).startswith(b"HTTP/1.1 200")
    rig.quiet()
    rig.upstream.next(answers(answer_of()))
    for _ in range(3):
        with urllib.request.urlopen(f"{rig.proxy}/metrics") as page:
            told = dict(_LATENCY.findall(page.read().decode()))
        assert ask(rig, quick) == min(told, key=lambda name: float(told[name]))


def test_a_pushed_policy_changes_the_strategy_of_the_next_request(rig: Rig) -> None:
    team = rig.budget()
    rig.policy(team, route={"strategy": "fixed", "deployment": "western"})
    assert ask(rig, team) == "west"
    rig.policy(team, route={"strategy": "fixed", "deployment": "eastern"})
    assert ask(rig, team) == "east"


def test_weights_of_a_policy_share_the_requests_out(rig: Rig) -> None:
    team = rig.budget()
    rig.policy(team, route={"strategy": "weighted"})  # 3 to 1, by the settings
    found = [ask(rig, team) for _ in range(40)]
    assert 18 <= found.count("east") <= 39  # 30 expected; outside of it once in 30,000 runs


def test_a_session_stays_where_it_began_and_sessions_spread(rig: Rig) -> None:
    team = rig.budget()
    rig.policy(team, route={"strategy": "sticky"})
    found = {n: {ask(rig, team, tags=f"session=s-{n}") for _ in range(2)} for n in range(12)}
    assert all(len(places) == 1 for places in found.values())
    assert set.union(*found.values()) == {"east", "west"}


def test_conversations_with_one_beginning_meet_in_one_place(rig: Rig) -> None:
    team = rig.budget()
    rig.policy(team, route={"strategy": "prefix_affinity"})
    places: dict[int, set[str]] = {}
    for n in range(12):
        for turn in ("one", "two"):
            messages = [{"role": "system", "content": f"manual {n}"}, {"role": "user", "content": turn}]
            assert post(rig, team, json.dumps(asked("many") | {"messages": messages}).encode()).status == 200
            places.setdefault(n, set()).add(rig.upstream.received[-1].path.split("/")[1])
    assert all(len(found) == 1 for found in places.values())
    assert set.union(*places.values()) == {"east", "west"}


def test_a_tier_takes_the_task_and_the_row_has_its_class_and_complexity(rig: Rig) -> None:
    team = rig.budget()
    tiers = [{"model": "small", "tasks": ["translation"]}, {"model": "big"}]
    rig.policy(team, route={"strategy": "tier", "tiers": tiers})
    assert ask(rig, team, text="Translate to French: the sky is blue and the sea is calm.") == "west"
    assert ask(rig, team, text="Prove step by step that the square root of 2 is irrational.") == "east"
    rig.quiet()
    first, second = rig.spans(team)
    assert (first[semconv.TASK], second[semconv.TASK]) == ("translation", "reasoning")
    assert first[semconv.TASK_COMPLEXITY] < second[semconv.TASK_COMPLEXITY]
    assert "translation" in first[semconv.ROUTE_REASON] and first[semconv.ROUTED_FROM] == "many"


def test_a_used_budget_moves_requests_to_the_cheaper_model(rig: Rig) -> None:
    team = rig.budget("0.03 USD")
    rig.policy(team, route={"strategy": "budget_fallback", "models": ["big", "small"], "budget": {"at": [0.05]}})
    rig.upstream.next(answers(answer_of()))
    until(lambda: ask(rig, team) == "east", "the budget's share is known")
    until(lambda: ask(rig, team) == "west", "the watch sees what was spent")
    rig.quiet()
    assert f"of {team} is used: small" in rig.spans(team)[-1][semconv.ROUTE_REASON]


def test_where_the_chosen_one_cannot_answer_the_others_do(rig: Rig) -> None:
    team = rig.budget()
    rig.policy(team, route={"strategy": "fixed", "deployment": "eastern"})
    rig.upstream.next(in_turn(answers(b"{}", status=503), answers(answer_of())))
    assert ask(rig, team) == "west"
    assert rig.span(team)[semconv.DEPLOYMENT_NAME] == "western"


def test_a_required_region_is_never_left(rig: Rig) -> None:
    team = rig.budget()
    rig.policy(team, route={"strategy": "requirement", "need": {"region": "eu"}})
    rig.upstream.next(answers(b"{}", status=503))
    assert post(rig, team, json.dumps(asked("many")).encode()).status == 503
    assert {request.path.split("/")[1] for request in rig.upstream.received} == {"east"}
    rig.policy(team, route={"strategy": "requirement", "need": {"region": "moon"}})
    answered = post(rig, team, json.dumps(asked("many")).encode())
    assert answered.status == 503 and b"'moon'" in answered.whole  # type: ignore[attr-defined]


def test_deployments_have_names_of_their_own() -> None:
    made = named([Deployment("a"), Deployment("b", name="x"), Deployment("a")])
    assert [one.name for one in made] == ["a/1", "x", "a/2"]
    with pytest.raises(SettingsError, match="two are called 'x'"):
        named([Deployment("a", name="x"), Deployment("b", name="x")])
    with pytest.raises(SettingsError, match=r"quality = 2; allowed is 0 to 1"):
        named([Deployment("a", quality=2)])


def test_a_prompt_s_text_is_found_in_every_api() -> None:
    def read(fields: dict[str, Any], turns: list[Any]) -> tuple[str, str, int]:
        text = text_of(Asked(b"", {}, fields, "m", turns=turns))
        return text.user, text.system, text.tools

    turns = [{"role": role, "content": role[0]} for role in ("system", "user", "assistant")]
    assert read({"tools": [{}, {}]}, turns) == ("u", "s", 2)
    parts = [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "image_url"}, "two"]}]
    assert read({"system": [{"type": "text", "text": "s"}]}, parts) == ("one\ntwo", "s", 0)
    assert read({"prompt": "p", "instructions": "i"}, []) == ("p", "i", 0)
    assert read({"input": 3, "tools": "none"}, [7]) == ("", "", 0)
