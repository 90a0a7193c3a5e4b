"""proxy/tokens: what is kept of a conversation, what is taken out of a text, and what is never touched."""
from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from farthing.policy.tokens import RetrievalRule, TokensAction
from proxy.engine.chat import ChatTokenizer
from proxy.tokens.compress import squeezed, without
from proxy.tokens.count import MEDIA_TOKENS, measure, measure_value
from proxy.tokens.passages import Passages
from proxy.tokens.plan import Plan, plan
from proxy.tokens.turns import SHAPES
from tests.conftest import REPOSITORY

CHAT, RESPONSES, MESSAGES = SHAPES["chat/completions"], SHAPES["responses"], SHAPES["messages"]


def planned(turns: list[Any], path: str = "chat/completions", /, **action: Any) -> Plan:
    shape = SHAPES[path]
    return plan(shape, {shape.turns: turns}, TokensAction.model_validate(action))


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def called(name: str, api: str) -> list[dict[str, Any]]:
    """Return one step with a tool: its call and its result, as each API writes them."""
    if api == "chat/completions":
        function = {"name": "find", "arguments": '{"of": "x"}'}
        calls = [{"id": name, "type": "function", "function": function}]
        return [{"role": "assistant", "content": None, "tool_calls": calls},
                {"role": "tool", "tool_call_id": name, "content": "found " * 20}]  # fmt: skip
    if api == "responses":
        return [{"type": "reasoning", "id": f"rs_{name}", "summary": []},
                {"type": "function_call", "call_id": name, "name": "find", "arguments": "{}"},
                {"type": "function_call_output", "call_id": name, "output": "found " * 20}]  # fmt: skip
    return [{"role": "assistant", "content": [{"type": "tool_use", "id": name, "name": "find", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": name, "content": "found " * 20}]}]


WORDS = ("harbour", "tariff", "invoice", "anchor", "lantern", "ledger", "cargo", "crane")


@some.composite
def conversations(draw: some.DrawFn, api: str) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = [] if api == "messages" else [said("system", "be brief")]
    for number in range(draw(some.integers(1, 8))):
        turns.append(said("user", " ".join(draw(some.lists(some.sampled_from(WORDS), min_size=1, max_size=30)))))
        for step in range(draw(some.integers(0, 3))):
            turns += called(f"c{number}-{step}", api)
        if draw(some.booleans()):
            turns.append(said("assistant", "answer " * draw(some.integers(1, 40))))
    return turns


def steps_of(turns: list[Any]) -> set[str]:
    """Return the ids of the calls among `turns`."""
    text = json.dumps(turns)
    return {f"c{a}-{b}" for a in range(8) for b in range(3) if f'"c{a}-{b}"' in text}


@pytest.mark.parametrize("api", ["chat/completions", "responses", "messages"])
@settings(max_examples=40, deadline=None)
@given(data=some.data(), budget=some.integers(1, 600))
def test_a_trimmed_history_keeps_system_last_turn_order_and_whole_steps(
    api: str, data: some.DataObject, budget: int
) -> None:
    turns = data.draw(conversations(api))
    made = planned(turns, api, history={"max_tokens": budget})
    kept = list(range(len(turns))) if made.kept is None else made.kept
    assert kept == sorted(set(kept))
    assert kept[-1] == len(turns) - 1
    assert all(index in kept for index, turn in enumerate(turns) if turn.get("role") == "system")
    sent, gone = [turns[i] for i in kept], [turn for i, turn in enumerate(turns) if i not in kept]
    assert not steps_of(sent) & steps_of(gone)
    first = next(turn for turn in sent if turn.get("role") != "system")
    assert first.get("role") == "user" and "tool_result" not in json.dumps(first)
    users = [index for index, turn in enumerate(turns) if turn.get("role") == "user" and "tool" not in json.dumps(turn)]
    always = {index for index, turn in enumerate(turns) if turn.get("role") == "system"} | {users[-1]}
    if made.cut.after > budget:  # then nothing is left that might have gone
        assert {index for index in kept if index < users[-1]} <= always


def test_the_turn_that_shares_words_with_the_question_stays_before_a_newer_one_that_does_not() -> None:
    turns = [said("user", "the anchor of the Mary weighs nine tons"), said("assistant", "noted"),
             said("user", "my sister likes tea in the morning"), said("assistant", "noted"),
             said("user", "how heavy is the anchor of the Mary?")]  # fmt: skip
    made = planned(turns, history={"max_tokens": 45, "relevance": 0.8})
    assert made.kept == [0, 1, 4]
    assert planned(turns, history={"max_tokens": 45, "relevance": 0}).kept == [2, 3, 4]


def test_relevance_is_seen_in_scripts_that_part_no_words() -> None:
    turns = [said("user", "玛丽号的船锚重九吨"), said("assistant", "好的"),
             said("user", "我妹妹早上喜欢喝茶"), said("assistant", "好的"),
             said("user", "玛丽号的船锚有多重?")]  # fmt: skip
    assert planned(turns, history={"max_tokens": 60, "relevance": 0.8}).kept == [0, 1, 4]
    assert planned(turns, history={"max_tokens": 60, "relevance": 0}).kept == [2, 3, 4]


def test_a_result_that_comes_late_stays_with_its_call() -> None:
    call, result = called("c0-0", "chat/completions")
    turns = [said("user", "a " * 90), call, said("user", "wait"), result, said("user", "and now?")]
    for budget in range(1, 160, 7):
        kept = planned(turns, history={"max_tokens": budget}).kept
        assert kept is None or (1 in kept) == (3 in kept)


def test_a_history_with_items_of_unknown_kinds_is_left_as_it_is() -> None:
    turns = [said("user", "a " * 90), {"type": "item_reference", "id": "x"}, said("user", "b")]
    assert planned(turns, "responses", history={"max_tokens": 10}).kept is None


def test_long_input_is_trimmed_where_the_policy_says_so_and_refused_where_that_is_not_enough() -> None:
    turns = [said("user", "tea " * 50), said("assistant", "ok"), said("user", "cargo " * 30)]
    assert planned(turns, max_input=60).cut.is_refused
    trimmed = planned(turns, max_input=60, on_long_input="trim")
    assert (trimmed.kept, trimmed.cut.is_refused) == ([2], False)
    assert planned(turns, max_input=20, on_long_input="trim").cut.is_refused


SQUEEZED = {
    "blanks  within   a line \t here": "blanks within a line here",
    "one\n\n\n\ntwo  \nthree": "one\n\ntwo\nthree",
    "  - an  item of a list": "  - an item of a list",
    "ends with a blank ": "ends with a blank ",
}
UNTOUCHED = [
    "```python\nx  =  1\n\n\n\ny = 2\n```\n",
    "    x  =  1   # indented code\n",
    "\tx  =  1\n",
    '{\n  "a":  "b   c",\n\n\n\n  "d":  [1,   2]\n}',
    'The row is {"a":  "b   c"} as sent',
    "Call `f(a,  b)` now",
    "| a   |  b |\n",
    "~~~\nopen  fence",
]


@pytest.mark.parametrize("text", SQUEEZED)
def test_blanks_that_say_nothing_go(text: str) -> None:
    assert squeezed(text) == SQUEEZED[text]


@pytest.mark.parametrize("text", UNTOUCHED)
def test_code_json_and_tables_keep_every_blank(text: str) -> None:
    assert squeezed(text) == text
    assert squeezed(f"say  it\n{text}") == f"say it\n{text}"


@settings(max_examples=60, deadline=None)
@given(some.text(alphabet=' \t\n`~{}[]":,ab|', max_size=80))
def test_squeezing_twice_changes_nothing_more_and_loses_no_word(text: str) -> None:
    once = squeezed(text)
    assert squeezed(once) == once
    assert once.split() == text.split()


def test_a_phrase_goes_wherever_it_stands_but_not_out_of_code() -> None:
    text = "Hello. Sent from my phone\n```\nSent from my phone\n```\n"
    assert without(text, ("Sent from my phone",)) == "Hello. \n```\nSent from my phone\n```\n"


def passages(*texts: str) -> str:
    return "".join(f"<document id=1>{text}</document>" for text in texts)


def test_passages_past_the_cap_go_whole_and_what_is_around_them_stays() -> None:
    text = f"<documents>{passages('one', 'two', 'three')}</documents> which?"
    kept = Passages(RetrievalRule(max_passages=2)).cap(text)
    assert kept == f"<documents>{passages('one', 'two')}</documents> which?"
    assert Passages(RetrievalRule(max_characters=40)).cap(text) == f"<documents>{passages('one')}</documents> which?"


def test_a_marker_without_an_end_begins_a_passage_that_lasts_to_the_next_one() -> None:
    rule = RetrievalRule.model_validate({"markers": [["## Source", ""]], "max_passages": 2})
    text = "Answer from:\n## Source 1\none\n## Source 2\ntwo\n## Source 3\nthree"
    assert Passages(rule).cap(text) == text[: text.index("## Source 3")]


def test_the_newest_message_has_its_passages_first() -> None:
    turns = [said("user", passages("old")), said("assistant", "ok"), said("user", passages("new"))]
    made = planned(turns, retrieval={"max_passages": 1})
    assert [turn.value["content"] for turn in made.turns] == ["", "ok", passages("new")]
    assert made.cut.kinds["retrieval"] > 0


HOSTILE = ["[" * 20_000, "{" * 20_000, " " * 200_000, "<document" * 20_000, passages("x") * 5_000, "a  b\n" * 30_000,
           '["a",\n' * 10_000]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=[text[:12].strip() or "blanks" for text in HOSTILE])
def test_a_hostile_text_is_worked_through_and_refused_for_its_length(text: str) -> None:
    shorter = {"compress": {"phrases": ["zz"]}, "retrieval": {"max_passages": 1}}
    action = {"max_input": 10, "on_long_input": "trim"} | shorter
    made = planned([said("user", "a"), said("user", text)], **action)
    assert made.cut.is_refused == (measure_value(made.turns[1].value).tokens > 2)


@pytest.mark.parametrize("file", ["README.md", "CHANGELOG.md", "proxy/exchange.py", "analyzer/task_passages.txt"])
def test_the_estimate_of_tokens_is_within_a_quarter_of_a_tokenizer(chat: ChatTokenizer, file: str) -> None:
    text = (REPOSITORY / file).read_text()
    assert 0.75 < measure(text).tokens / len(chat.encode(text)) < 1.25


@pytest.mark.parametrize("path", ["chat/completions", "responses", "messages"])
@pytest.mark.parametrize("odd", [["text"], {"a": 1}, 5, None], ids=str)
def test_what_has_no_known_kind_is_counted_and_left_as_it_is(path: str, odd: Any) -> None:
    turns = [{"role": "user", "content": [{"type": odd, "text": "a  b"}, odd]}, {"type": odd, "role": odd}]
    made = planned(turns, path, max_input=1000, history={"max_tokens": 5}, compress={"whitespace": True})
    assert made.edited == set() and made.cut.before > 0


def test_an_image_counts_as_a_constant_and_not_by_its_bytes() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    assert measure_value(said("user", "x") | {"content": [image]}).tokens == MEDIA_TOKENS
