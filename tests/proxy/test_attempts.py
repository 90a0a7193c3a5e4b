"""proxy/attempts.py and proxy/health.py: what is tried again, where, and when a deployment is left alone."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

import proxy.attempts
from farthing import semconv
from farthing.settings import Deployment, Settings
from proxy.api_error import ApiError
from proxy.attempts import Attempts
from proxy.dispatch import Deployments, Target
from proxy.health import COOLDOWN_S, MAX_COOLDOWN_S, Health
from proxy.upstream import Timeouts
from tests.proxy.rig import (
    COST,
    SECRET,
    Rig,
    answer_of,
    answers,
    asked,
    hangs,
    in_turn,
    post,
    rig_in,
    send_only,
    until,
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def targets(count: int, limit: int = 2) -> list[Target]:
    return [Target(Deployment(f"m{n}"), "openai", (), Timeouts(), Health(limit)) for n in range(count)]


def attempts(pool: list[Target], most: int = 3, clock: Clock | None = None) -> Attempts:
    return Attempts(pool, most, clock or Clock(), chance=lambda: 0.5)


def test_each_stage_has_the_time_that_its_deployment_says_else_the_whole_call_s() -> None:
    own = Deployment("a", "http://x/v1", connect_timeout_s=1.0, first_byte_timeout_s=2.0, between_timeout_s=3.0)
    made = Deployments(Settings(deployments=(own, Deployment("b", "http://x/v1")), request_timeout_s=9.0))
    assert [target.timeouts for target in made.targets] == [Timeouts(1.0, 2.0, 3.0), Timeouts(5.0, 9.0, 9.0)]


def test_others_are_tried_at_once_and_the_same_one_after_a_growing_wait() -> None:
    pool = targets(2)
    made = attempts(pool, most=4)
    order = [made.first()]
    waits: list[float] = []
    made.begin(order[0])
    while (following := made.after()) is not None:
        waits.append(following[0])
        order.append(following[1])
        made.begin(following[1])
    assert order[:2] == pool and len(order) == 4
    assert waits == [0.0, pytest.approx(0.2), pytest.approx(0.4)]


def test_a_wait_that_is_too_long_is_left_to_the_client() -> None:
    made = attempts(targets(1))
    made.begin(made.first())
    assert made.after(wait_asked_s=1.5) is not None
    assert made.after(wait_asked_s=30.0) is None


def test_a_deployment_that_asked_for_a_pause_comes_after_the_others_and_is_still_there() -> None:
    clock, pool = Clock(), targets(2)
    pool[0].health.pause(clock.now, 10)
    assert attempts(pool, clock=clock).first() is pool[1]
    pool[1].health.pause(clock.now, 5)
    assert attempts(pool, clock=clock).first() is pool[0]


def test_a_breaker_opens_after_its_failures_lets_one_trial_through_and_doubles_its_cooldown() -> None:
    clock, health = Clock(), Health(limit=2)
    health.failed(clock.now)
    assert health.wait_s(clock.now) == 0
    health.failed(clock.now)
    assert health.wait_s(clock.now) == COOLDOWN_S
    clock.now += COOLDOWN_S
    assert health.wait_s(clock.now) == 0
    health.began(clock.now)
    assert health.wait_s(clock.now) > 0  # one at a time
    health.failed(clock.now)
    health.ended()
    assert health.wait_s(clock.now) == 2 * COOLDOWN_S
    health.failed(clock.now)  # it had begun before
    assert health.wait_s(clock.now) == 2 * COOLDOWN_S
    for _ in range(10):
        clock.now += health.wait_s(clock.now)
        health.began(clock.now)
        health.failed(clock.now)
        health.ended()
    assert health.wait_s(clock.now) == MAX_COOLDOWN_S
    health.succeeded(0.1)
    health.failed(clock.now + 100)
    assert health.wait_s(clock.now + 100) == 0


def test_a_trial_that_is_given_up_leaves_the_way_free_for_the_next() -> None:
    clock, health = Clock(), Health(limit=1)
    health.failed(clock.now)
    clock.now += COOLDOWN_S
    health.began(clock.now)
    health.ended()
    assert health.wait_s(clock.now) == 0 and health.in_flight == 0


def test_when_all_are_left_alone_the_client_hears_when_to_come_back() -> None:
    clock, pool = Clock(), targets(2, limit=1)
    for target in pool:
        target.health.failed(clock.now)
    with pytest.raises(ApiError, match="left alone") as raised:
        attempts(pool, clock=clock).first()
    assert (raised.value.status, raised.value.retry_after_s) == (503, round(COOLDOWN_S))


@pytest.mark.parametrize("status", [429, 500, 503, 529])
def test_an_error_that_is_not_charged_is_tried_again_under_the_same_hold(rig: Rig, status: int) -> None:
    team = rig.budget()
    rig.upstream.next(in_turn(answers(b"{}", status=status), answers(answer_of())))
    assert post(rig, team, json.dumps(asked()).encode()).status == 200
    span = rig.span(team)
    assert span[semconv.OUTCOME] == "ok" and span[semconv.ATTEMPTS] == 2
    assert len(rig.upstream.received) == 2 and len(rig.settlements(team)) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_where_our_key_is_refused_another_deployment_answers_and_nobody_is_asked_twice(rig: Rig, status: int) -> None:
    team = rig.budget()
    rig.policy(team, route={"fallbacks": ["gpt"]})
    rig.upstream.next(in_turn(answers(SECRET.encode(), status=status), answers(answer_of())))
    assert post(rig, team, json.dumps(asked("flexible")).encode()).status == 200
    span = rig.span(team)
    assert (span[semconv.REQUEST_MODEL], span[semconv.ATTEMPTS], span[semconv.SETTLED_NUSD]) == ("gpt", 2, COST)
    rig.upstream.next(answers(SECRET.encode(), status=status))
    refused = post(rig, team, json.dumps(asked("flexible")).encode())
    assert refused.status == 502 and SECRET not in refused.whole.decode()  # type: ignore[attr-defined]
    assert len(rig.upstream.received) == 2


def test_a_wait_in_milliseconds_is_kept_and_told(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(answers(b"{}", "retry-after: 1", "retry-after-ms: 20000", status=429))
    answered = post(rig, team, json.dumps(asked("azured")).encode())
    assert (answered.status, answered.headers["retry-after-ms"], len(rig.upstream.received)) == (429, "20000", 1)


@pytest.mark.parametrize("status", [400, 404, 422])
def test_an_error_that_is_the_request_s_own_is_not_tried_again(rig: Rig, status: int) -> None:
    team = rig.budget()
    rig.upstream.next(answers(b"{}", status=status))
    assert post(rig, team, json.dumps(asked()).encode()).status == status
    assert len(rig.upstream.received) == 1 and semconv.ATTEMPTS not in rig.span(team)


@pytest.mark.parametrize("model", ["gpt-plain", "own"])
def test_a_client_that_goes_between_two_attempts_pays_nothing_and_nobody_is_asked_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.setattr(proxy.attempts, "_FIRST_WAIT_S", 250.0)  # until the client goes
    monkeypatch.setattr(proxy.attempts, "_MAX_WAIT_S", 500.0)
    team = rig.budget()
    rig.upstream.next(answers(b"{}", status=503))
    with send_only(rig, team, json.dumps(asked(model)).encode()):
        until(lambda: rig.upstream.received and not rig.status()["in_flight"], "it waits for its second attempt")
    span = rig.span(team)
    assert (span[semconv.OUTCOME], span[semconv.SETTLED_NUSD]) == ("aborted", 0)
    assert len(rig.upstream.received) == 1


def test_the_last_error_reaches_the_client_with_its_retry_after(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(answers(b'{"error": "slow down"}', "retry-after: 30", status=429))
    answered = post(rig, team, json.dumps(asked("secretive")).encode())
    assert (answered.status, answered.headers["retry-after"]) == (429, "30")
    assert len(rig.upstream.received) == 1  # a wait of 30 s is the client's


def test_a_fallback_answers_for_a_model_that_cannot_and_is_billed_at_its_own_price(rig: Rig) -> None:
    team = rig.budget()
    rig.apply(
        f"apiVersion: farthing/v1\nkind: Policy\nmetadata: {{name: fall-{team}}}\nmatch: {{team: {team}}}\n"
        "action: {route: {fallbacks: [unserved, gpt]}}\n"
    )
    rig.upstream.next(in_turn(answers(b"{}", status=503), answers(answer_of())))
    assert post(rig, team, json.dumps(asked()).encode()).status == 200
    span = rig.span(team)
    assert span[semconv.REQUEST_MODEL] == "gpt" and span[semconv.ROUTED_FROM] == "gpt-plain"
    assert rig.upstream.received[-1].json["model"] == "gpt-real"


def test_a_deadline_of_the_caller_ends_the_call_and_frees_what_it_can(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(hangs)
    answered = post(rig, team, json.dumps(asked()).encode(), **{semconv.HEADER_DEADLINE: "1500"})
    assert answered.status == 504 and b"1.5 s" in answered.whole  # type: ignore[attr-defined]
    assert rig.span(team)[semconv.OUTCOME] == "error"
    for wrong in ("", "0", "-5", "soon", "1.5"):
        assert post(rig, team, json.dumps(asked()).encode(), **{semconv.HEADER_DEADLINE: wrong}).status == 400


def test_a_deployment_that_keeps_failing_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "x")
    monkeypatch.setenv("OTHER_KEY", "x")
    with rig_in(tmp_path, breaker_failures=3, max_attempts=1) as rig:
        team = rig.budget()
        rig.upstream.next(answers(b"{}", status=500))
        body = json.dumps(asked()).encode()
        assert [post(rig, team, body).status for _ in range(4)] == [500, 500, 500, 503]
        assert len(rig.upstream.received) == 3
        rig.upstream.next(answers(answer_of()))
        until(lambda: post(rig, team, body).status == 200, "the trial succeeds")
        assert post(rig, team, body).status == 200
        rig.quiet()
        assert rig.balance(team)["held_nusd"] == 0
