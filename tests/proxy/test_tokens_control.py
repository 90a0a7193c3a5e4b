"""proxy/tokens: a policy on tokens decides what is sent, held and cached, in every API; without one no byte changes."""
from __future__ import annotations

import json
import re
import urllib.request
from typing import Any

import pytest

from farthing import semconv
from tests.proxy.rig import COST, EVENTS, RATES, Received, Rig, answer_of, answers, asked, post, reply, streams
from tests.proxy.test_formats import MESSAGE, RESPONSE, TEXT_ANSWER

LONG = [{"role": "user", "content": "tea " * 200}, {"role": "assistant", "content": "ok"}]
LAST = {"role": "user", "content": "how  heavy is the anchor?"}


def govern(rig: Rig, team: str, action: dict[str, Any], mode: str = "enforce") -> None:
    rig.apply(
        f"apiVersion: farthing/v1\nkind: Policy\nmetadata: {{name: tokens-{team}}}\nmatch: {{team: {team}}}\n"
        f"action: {{tokens: {json.dumps(action)}}}\nmode: {mode}\n"
    )


def test_without_a_policy_the_bytes_go_through_untouched(rig: Rig) -> None:
    team = rig.budget()
    govern(rig, "somebody-else", {"max_output": 1})
    body = json.dumps(asked(messages=[*LONG, LAST]), indent=1).encode()
    assert post(rig, team, body).headers[semconv.HEADER_TOKENS] is None
    assert rig.upstream.received[0].body == body
    assert not [name for name in rig.span(team) if name.startswith("farthing.tokens.")]


def ask_chat(rig: Rig, team: str) -> Any:
    rig.client(team).chat.completions.create(model="gpt-plain", messages=[*LONG, LAST], max_tokens=90)  # type: ignore[list-item]
    return rig.upstream.received[0].json["messages"]


def ask_responses(rig: Rig, team: str) -> Any:
    rig.upstream.next(answers(json.dumps(RESPONSE).encode()))
    rig.client(team).responses.create(model="gpt-plain", input=[*LONG, LAST], max_output_tokens=90)  # type: ignore[list-item]
    return rig.upstream.received[0].json["input"]


def ask_messages(rig: Rig, team: str) -> Any:
    rig.upstream.next(answers(json.dumps(MESSAGE).encode()))
    with rig.claude(team) as client:
        client.messages.create(model="claude", messages=[*LONG, LAST], max_tokens=90)  # type: ignore[list-item]
    return rig.upstream.received[0].json["messages"]


@pytest.mark.parametrize(
    ("ask", "limit"), [(ask_chat, "max_tokens"), (ask_responses, "max_output_tokens"), (ask_messages, "max_tokens")]
)
def test_history_blanks_and_output_are_cut_in_every_api_before_the_hold(rig: Rig, ask: Any, limit: str) -> None:
    team = rig.budget()
    govern(rig, team, {"history": {"max_tokens": 50}, "compress": {}, "max_output": 30})
    assert ask(rig, team) == [LAST | {"content": "how heavy is the anchor?"}]
    sent = rig.upstream.received[0]
    assert sent.json[limit] == 30
    span = rig.span(team)
    assert span["farthing.tokens.cut.history"] > 150 and span["farthing.tokens.turns_cut"] == 2
    assert span[semconv.TOKENS_BEFORE] - span[semconv.TOKENS_AFTER] == sum(
        value for name, value in span.items() if name.startswith(semconv.TOKENS_CUT_PREFIX)
    )
    with urllib.request.urlopen(f"{rig.proxy}/metrics") as answer:
        page = answer.read().decode()
    told = re.search(rf'farthing_tokens_cut_total{{policy="tokens-{team}",kind="history"}} (\d+)', page)
    assert told and int(told[1]) == span["farthing.tokens.cut.history"]
    assert span[semconv.TOKENS_MAX_OUTPUT] == span[semconv.REQUEST_MAX_TOKENS] == 30
    assert span[semconv.HELD_NUSD] * 1_000_000 <= (len(sent.body) + 1060) * RATES[0] + 30 * RATES[1]


@pytest.mark.parametrize(("model", "name"), [("gpt-plain", "max_completion_tokens"), ("own", "max_tokens")])
def test_a_request_without_a_limit_gets_the_policys_under_the_name_that_its_upstream_knows(
    rig: Rig, model: str, name: str
) -> None:
    team = f"unlimited-{model}"  # no budget, which would set a limit too
    govern(rig, team, {"max_output": 7})
    response = post(rig, team, json.dumps({"model": model, "messages": [LAST]}).encode())
    assert (response.status, response.headers[semconv.HEADER_TOKENS]) == (200, "max_output=7")
    assert rig.upstream.received[0].json[name] == 7


def test_both_names_of_a_limit_are_capped_and_a_lower_one_stands(rig: Rig) -> None:
    team = rig.budget()
    govern(rig, team, {"max_output": 10})
    post(rig, team, json.dumps(asked(max_tokens=5, max_completion_tokens=50)).encode())
    assert [rig.upstream.received[0].json[name] for name in ("max_tokens", "max_completion_tokens")] == [5, 10]


def test_a_legacy_prompt_is_compressed_and_capped_and_never_trimmed(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(answers(TEXT_ANSWER))
    govern(rig, team, {"history": {"max_tokens": 1}, "compress": {"phrases": ["Kind regards"]}, "max_output": 10})
    rig.client(team).completions.create(model="gpt-plain", prompt=["say  it", "and Kind regards"], max_tokens=20)
    sent = rig.upstream.received[0].json
    assert (sent["prompt"], sent["max_tokens"]) == (["say it", "and "], 10)


@pytest.mark.parametrize("policy", ["refuse", "trim"])
def test_a_request_too_long_is_refused_before_anything_is_held_or_sent(rig: Rig, policy: str) -> None:
    team = rig.budget()
    govern(rig, team, {"max_input": 100, "on_long_input": policy})
    messages = [*LONG, LAST] if policy == "refuse" else [LONG[0]]
    response = post(rig, team, json.dumps(asked(messages=messages)).encode())
    error = json.loads(response.whole)["error"]  # type: ignore[attr-defined]
    assert (response.status, error["code"]) == (400, "input_too_long")
    assert f"tokens-{team}" in error["message"] and "100" in error["message"]
    span = rig.span(team)
    assert span[semconv.TOKENS_REFUSED] and semconv.HELD_NUSD not in span and not rig.upstream.received


def test_the_cache_knows_what_is_sent_and_not_what_was_asked(rig: Rig) -> None:
    team = rig.budget()
    rig.cache(team)
    govern(rig, team, {"history": {"max_tokens": 50}, "max_output": 10})
    ask = {"temperature": 0, "max_tokens": None}
    first = post(rig, team, json.dumps(asked(messages=[*LONG, LAST], **ask)).encode())
    second = post(rig, team, json.dumps(asked(messages=[LAST], **ask)).encode())
    govern(rig, team, {"max_output": 11})
    third = post(rig, team, json.dumps(asked(messages=[LAST], **ask)).encode())
    assert [one.headers[semconv.HEADER_CACHE] for one in (first, second, third)] == ["miss", "hit", "miss"]


def test_a_policy_in_shadow_mode_changes_nothing_and_records_what_it_would_have_cut(rig: Rig) -> None:
    team = rig.budget()
    govern(rig, team, {"history": {"max_tokens": 50}, "max_input": 5, "max_output": 3}, mode="shadow")
    body = json.dumps(asked(messages=[*LONG, LAST])).encode()
    response = post(rig, team, body)
    assert (response.status, response.headers[semconv.HEADER_TOKENS]) == (200, None)
    assert rig.upstream.received[0].body == body
    span = rig.span(team)
    assert span["farthing.tokens.shadow.cut.history"] > 150 and span["farthing.tokens.shadow.refused"]
    assert span["farthing.tokens.shadow.max_output"] == 3 and semconv.TOKENS_BEFORE not in span


def summing(status: int = 200) -> Any:
    async def behave(request: Received, reader: Any, writer: Any) -> None:
        if request.json["model"] == "second":
            writer.write(reply(answer_of("They drank tea."), "content-type: application/json", status=status))
        else:
            writer.write(reply(answer_of(), "content-type: application/json"))

    return behave


SUMMED = {"history": {"max_tokens": 50, "summary": {"model": "pair", "max_tokens": 20}}}


def test_a_summary_of_what_was_cut_is_a_call_of_its_own_that_is_charged(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(summing())
    govern(rig, team, SUMMED)
    response = post(rig, team, json.dumps(asked(messages=[*LONG, LAST])).encode())
    small, own = rig.upstream.received
    assert (small.json["model"], small.json["max_tokens"]) == ("second", 20)
    assert "tea tea" in small.json["messages"][1]["content"]
    assert own.json["messages"] == [
        LAST | {"content": f"Earlier in this conversation, summed up: They drank tea.\n\n{LAST['content']}"}
    ]
    assert response.headers[semconv.HEADER_TOKENS].endswith("summary=4")
    rig.quiet()
    spans = rig.spans(team)
    assert [span.get("farthing.tag.purpose") for span in spans] == ["history-summary", None]
    assert [span[semconv.SETTLED_NUSD] for span in spans] == [COST, COST]
    assert rig.balance(team)["spent_nusd"] == 2 * COST


def test_a_summary_that_fails_lets_the_call_go_on_without_it(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(summing(status=400))
    govern(rig, team, SUMMED)
    response = post(rig, team, json.dumps(asked(messages=[*LONG, LAST])).encode())
    assert (response.status, rig.upstream.received[-1].json["messages"]) == (200, [LAST])
    assert response.headers[semconv.HEADER_TOKENS].endswith("summary=0")


def test_turns_that_stay_keep_their_bytes(rig: Rig) -> None:
    team = rig.budget()
    govern(rig, team, {"history": {"max_tokens": 60}})
    tool = '{"role":"tool","tool_call_id":"a","content":"{\\"n\\":  1.50}"}'
    call = '{"role":"assistant","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{ }"}}]}'
    turns = f'{json.dumps(LONG[0])}, {{"role":"user","content":"go"}} , {call},  {tool}'
    post(rig, team, b'{"model": "gpt-plain", "max_tokens": 5, "messages": [%b]}' % turns.encode())
    assert rig.upstream.received[0].body.endswith(f'{call},{tool}]}}'.encode())


def test_a_stream_is_governed_like_an_answer(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(streams(EVENTS))
    govern(rig, team, {"max_output": 9})
    post(rig, team, json.dumps(asked(stream=True)).encode())
    sent = rig.upstream.received[0].json
    assert (sent["max_tokens"], sent["stream_options"]) == (9, {"include_usage": True})
