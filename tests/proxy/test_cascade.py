"""proxy/cascade.py and judge.py: the cheap model first, the dear one where its answer is weak; each is paid alone."""
from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from farthing import http_json, semconv
from farthing.policy.facts import Facts
from farthing.settings import Deployment
from proxy.call import Call
from proxy.judge import quality_of
from proxy.request import Asked
from proxy.spend import Hold
from proxy.withheld import Withheld
from tests.proxy.rig import (
    COST,
    EVENTS,
    Rig,
    answer_of,
    answers,
    asked,
    chunk,
    in_turn,
    post,
    streams,
    until,
    waits,
)

GOOD, UNSURE = answers(answer_of()), answers(answer_of("I'm not sure, sorry."))
LAST = chunk({}, finish="stop") + chunk(None, {"prompt_tokens": 10, "completion_tokens": 5}) + b"data: [DONE]\n\n"
UNSURE_EVENTS = chunk({"role": "assistant", "content": "I do not"}) + chunk({"content": " know."}) + LAST


@pytest.fixture
def team(rig: Rig) -> str:
    made = rig.budget()
    rig.policy(made, route={"strategy": "cascade", "models": ["small", "big"]})
    return made


def ask(rig: Rig, team: str, status: int = 200, **more: Any) -> bytes:
    answered = post(rig, team, json.dumps(asked("any", **more)).encode())
    assert answered.status == status, answered.whole  # type: ignore[attr-defined]
    return answered.whole  # type: ignore[attr-defined]


def rows(rig: Rig, team: str, count: int) -> list[dict[str, Any]]:
    until(lambda: len(rig.spans(team)) >= count, "all rows are here")
    rig.quiet()
    assert len(rig.spans(team)) == count == len(rig.settlements(team))
    for span in rig.spans(team):
        rig.agrees(span, team)
    return rig.spans(team)


@pytest.mark.parametrize("stream", [False, True])
def test_a_good_answer_of_the_cheap_model_is_the_answer(rig: Rig, team: str, stream: bool) -> None:
    rig.upstream.next(streams(EVENTS) if stream else GOOD)
    assert b"lo" in ask(rig, team, stream=stream)
    (row,) = rows(rig, team, 1)
    assert (row[semconv.REQUEST_MODEL], row[semconv.SETTLED_NUSD]) == ("small", COST)
    assert row[semconv.ANSWER_QUALITY] == 1.0 and semconv.DISCARDED not in row


@pytest.mark.parametrize("stream", [False, True])
def test_a_weak_answer_is_paid_and_kept_back_and_the_next_model_answers(rig: Rig, team: str, stream: bool) -> None:
    before = rig.status()["routing"]["escalated"]
    weak, good = (streams(UNSURE_EVENTS), streams(EVENTS)) if stream else (UNSURE, GOOD)
    rig.upstream.next(in_turn(weak, good))
    told = ask(rig, team, stream=stream)
    assert b"sure" not in told and b"know" not in told and (b"[DONE]" in told) == stream
    first, second = rows(rig, team, 2)
    assert (first[semconv.REQUEST_MODEL], first[semconv.DISCARDED]) == ("small", "cascade")
    assert (second[semconv.REQUEST_MODEL], second[semconv.ATTEMPT_OF]) == ("big", first[semconv.REQUEST_ID])
    assert (first[semconv.SETTLED_NUSD], second[semconv.SETTLED_NUSD]) == (COST, 4 * COST)
    assert rig.status()["routing"]["escalated"] == before + 1


def test_a_cheap_model_that_fails_is_followed_by_the_next(rig: Rig, team: str) -> None:
    rig.upstream.next(in_turn(*[answers(b"{}", status=500)] * 3, GOOD))
    ask(rig, team)
    first, second = rows(rig, team, 2)
    assert (first[semconv.OUTCOME], first[semconv.SETTLED_NUSD]) == ("error", 0)
    assert (second[semconv.OUTCOME], second[semconv.SETTLED_NUSD]) == ("ok", 4 * COST)


def test_a_stream_that_breaks_off_before_it_is_judged_is_never_seen(rig: Rig, team: str) -> None:
    rig.upstream.next(in_turn(streams(EVENTS, cut_at=120), streams(EVENTS)))
    told = ask(rig, team, stream=True)
    assert told.count(b'"role"') == 1 and b"[DONE]" in told
    first, second = rows(rig, team, 2)
    assert first[semconv.SETTLED_NUSD] == first[semconv.HELD_NUSD]  # a third party's broken stream: nobody knows
    assert second[semconv.SETTLED_NUSD] == 4 * COST


def test_an_error_that_is_the_request_s_own_is_not_asked_of_the_dear_model(rig: Rig, team: str) -> None:
    rig.upstream.next(answers(b'{"error": {"message": "no"}}', status=400))
    ask(rig, team, status=400)
    assert len(rig.upstream.received) == 1


def test_without_money_for_the_next_model_the_weak_answer_is_given(rig: Rig) -> None:
    team = rig.budget("0.0006 USD")  # one hold of `small` and not one of `big`
    rig.policy(team, route={"strategy": "cascade", "models": ["small", "big"]})
    before = rig.status()["routing"]["kept_weak"]
    rig.upstream.next(UNSURE)
    assert b"not sure" in ask(rig, team)
    (row,) = rows(rig, team, 1)
    assert row[semconv.ANSWER_QUALITY] < 0.5 and rig.status()["routing"]["kept_weak"] == before + 1


def test_a_good_cheap_answer_is_cached_and_a_weak_one_is_not(rig: Rig, team: str) -> None:
    rig.cache(team)
    rig.upstream.next(in_turn(UNSURE, GOOD))
    ask(rig, team, temperature=0)
    rig.upstream.next(GOOD)
    ask(rig, team, temperature=0)
    assert len(rig.upstream.received) == 1  # the weak answer was not kept
    ask(rig, team, temperature=0)
    assert len(rig.upstream.received) == 1


JUDGED: list[tuple[str, dict[str, Any], dict[str, Any], float, float]] = [
    ("good", answer := json.loads(answer_of("Paris.")), {}, 1.0, 1.0),
    ("empty", json.loads(answer_of("  ")), {}, 0.0, 0.0),
    ("json", json.loads(answer_of('{"a": 1}')), {"response_format": {"type": "json_object"}}, 1.0, 1.0),
    ("no-json", answer, {"response_format": {"type": "json_schema"}}, 0.1, 0.1),
    ("tool", {"choices": [{"message": {"content": None, "tool_calls": [{"id": "1"}]}}]}, {}, 1.0, 1.0),
    ("unsure", {"choices": [{"logprobs": {"content": [{"logprob": -2.0}]}, "text": "Paris"}]}, {}, 0.1, 0.2),
    ("messages", {"content": [{"type": "text", "text": "Paris"}]}, {}, 1.0, 1.0),
    ("responses", {"output": [{"content": [{"type": "output_text", "text": "I cannot say"}]}]}, {}, 0.3, 0.3),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "fields", "least", "most"), JUDGED, ids=[case[0] for case in JUDGED])
def test_an_answer_is_judged_by_what_it_says_of_itself(
    name: str, answer: dict[str, Any], fields: dict[str, Any], least: float, most: float
) -> None:
    withheld = Withheld()
    withheld.answer(200, json.dumps(answer).encode(), b"application/json")
    call = Call("req_1", b"t" * 16, b"s" * 8, b"", Facts("default"))
    assert least <= quality_of(call, Asked(b"", {}, fields, "m"), withheld) <= most


@pytest.mark.parametrize(("reason", "quality"), [("length", 0.2), ("max_tokens", 0.2), ("content_filter", 0.0)])
def test_an_answer_that_was_cut_off_is_weak(reason: str, quality: float) -> None:
    withheld = Withheld()
    withheld.answer(200, answer_of("Paris"), b"application/json")
    call = Call("req_1", b"t" * 16, b"s" * 8, b"", Facts("default"))
    call.finish_reason = reason
    assert quality_of(call, Asked(b"", {}, {}, "m"), withheld) == quality


def test_what_is_kept_of_a_call_is_what_every_attempt_at_it_shares() -> None:
    first = Call("req_1", b"t" * 16, b"s" * 8, b"p" * 8, Facts("default"))
    first.asked_model, first.deployment, first.hold = "m", Deployment("m"), Hold("req_1", 7, 1)
    second = first.again()
    assert (second.asked_model, second.trace_id, second.parent_span_id) == ("m", first.trace_id, first.parent_span_id)
    assert second.request_id != "req_1" and second.span_id != first.span_id and second.attempt_of == "req_1"
    assert (second.deployment, second.hold) == (None, None)
    own = second.request_id
    first.swap(second)
    assert (first.request_id, second.request_id, second.held_nusd) == (own, "req_1", 7)


def test_a_call_keeps_its_place_in_a_limit_while_the_next_model_answers(rig: Rig, team: str) -> None:
    rig.apply(f"apiVersion: farthing/v1\nkind: Limit\nmetadata: {{name: one}}\nscope: {{team: {team}}}\nin_flight: 1\n")
    rig.upstream.next(in_turn(UNSURE, waits(rig.upstream, GOOD)))
    body = json.dumps(asked("any")).encode()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, rig, team, body)
        until(lambda: len(rig.upstream.received) == 2, "the next model is asked")
        second = post(rig, team, body)
        rig.upstream.release.set()
        assert (first.result().status, second.status) == (200, 429)
    until(lambda: post(rig, team, body).status == 200, "the place is free again")
    http_json.call("DELETE", f"{rig.policies}/v1/objects/Limit/one")
