"""proxy/replay: a hit in the other form is what the official clients would have got from the upstream."""
from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from farthing import semconv
from farthing.prices import Usage
from proxy.replay import as_answer, as_events
from tests.proxy.rig import Rig, answer_of, answers, chunk, streams
from tests.proxy.test_formats import MESSAGE, MESSAGE_EVENTS, RESPONSE, TEXT_ANSWER

CALLS = [{"id": f"call_{n}", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}} for n in range(2)]
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "s"}
TOOL = {"type": "tool_use", "id": "t_1", "name": "f", "input": {"a": [1, 2]}}
MESSAGE_PARTS = MESSAGE | {"content": [THOUGHT, {"type": "redacted_thinking", "data": "x"}, *MESSAGE["content"], TOOL]}
FUNCTION = {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"}
REASONED = {"type": "reasoning", "id": "rs_1", "summary": []}
RESPONSE_PARTS = RESPONSE | {"output": [REASONED, *RESPONSE["output"], FUNCTION]}
ASK: dict[str, Any] = {"model": "gpt-plain", "temperature": 0, "max_tokens": 20}
MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]


def with_tools() -> bytes:
    answer = json.loads(answer_of())
    answer["choices"][0] |= {
        "message": {"role": "assistant", "content": None, "tool_calls": CALLS}, "finish_reason": "tool_calls",
        "logprobs": {"content": [{"token": "a", "logprob": -0.5, "bytes": None, "top_logprobs": []}], "refusal": None},
    }  # fmt: skip
    return json.dumps(answer).encode()


def chat_whole(rig: Rig, team: str) -> dict[str, Any]:
    with rig.client(team) as client:
        return client.chat.completions.create(messages=MESSAGES, **ASK).model_dump(exclude_none=True)


def chat_streamed(rig: Rig, team: str) -> dict[str, Any]:
    options: Any = {"include_usage": True}
    with rig.client(team) as client, client.chat.completions.stream(
        messages=MESSAGES, stream_options=options, **ASK
    ) as events:
        made = events.get_final_completion().model_dump(exclude_none=True)
    for call in made["choices"][0]["message"].get("tool_calls") or ():
        del call["index"]  # the client keeps the stream's own numbering
    return made


def text_whole(rig: Rig, team: str) -> str:
    with rig.client(team) as client:
        return client.completions.create(prompt="hi", **ASK).choices[0].text


def text_streamed(rig: Rig, team: str) -> str:
    with rig.client(team) as client:
        return "".join(one.choices[0].text for one in client.completions.create(prompt="hi", stream=True, **ASK))


def response_whole(rig: Rig, team: str) -> dict[str, Any]:
    with rig.client(team) as client:
        return client.responses.create(model="gpt-plain", input="hi", temperature=0).model_dump(exclude_none=True)


def response_streamed(rig: Rig, team: str) -> dict[str, Any]:
    with rig.client(team) as client, client.responses.stream(model="gpt-plain", input="hi", temperature=0) as events:
        told = [event.delta for event in events if event.type == "response.output_text.delta"]
        final = events.get_final_response()
    assert "".join(told) == final.output_text
    return _without_parsed(final.model_dump(exclude_none=True))


def _without_parsed(value: Any) -> Any:
    """Leave out what the client's helper adds beside the answer."""
    if isinstance(value, dict):
        return {name: _without_parsed(one) for name, one in value.items() if name not in ("parsed", "parsed_arguments")}
    return [_without_parsed(one) for one in value] if isinstance(value, list) else value


def message_whole(rig: Rig, team: str) -> dict[str, Any]:
    with rig.claude(team) as client:
        made = client.messages.create(model="claude", messages=MESSAGES, max_tokens=20, extra_body={"temperature": 0})
        return made.model_dump(exclude_none=True)


def message_streamed(rig: Rig, team: str) -> dict[str, Any]:
    with rig.claude(team) as client, client.messages.stream(
        model="claude", messages=MESSAGES, max_tokens=20, extra_body={"temperature": 0}
    ) as events:
        return events.get_final_message().model_dump(exclude_none=True)


Ask = Callable[[Rig, str], Any]
APIS: list[tuple[Ask, Ask, bytes]] = [
    (chat_whole, chat_streamed, answer_of()),
    (chat_whole, chat_streamed, with_tools()),
    (text_whole, text_streamed, TEXT_ANSWER),
    (response_whole, response_streamed, json.dumps(RESPONSE_PARTS).encode()),
    (message_whole, message_streamed, json.dumps(MESSAGE_PARTS).encode()),
]
API_IDS = ["chat", "chat-tools", "completions", "responses", "messages"]


@pytest.mark.parametrize(("whole", "streamed", "answer"), APIS, ids=API_IDS)
def test_a_stream_and_a_whole_answer_stand_in_for_one_another(
    rig: Rig, whole: Ask, streamed: Ask, answer: bytes
) -> None:
    team = rig.budget()
    rig.cache(team)
    rig.upstream.next(answers(answer))
    first = whole(rig, team)
    assert streamed(rig, team) == first and len(rig.upstream.received) == 1
    path = rig.upstream.received[0].path.partition("/v1/")[2]
    events = as_events(path, answer, wants_usage=True)
    assert events is not None
    again = rig.budget()
    rig.cache(again)
    rig.upstream.next(streams(events))
    assert streamed(rig, again) == first == whole(rig, again) and len(rig.upstream.received) == 1
    rig.quiet()
    assert [span.get(semconv.CACHE_HIT) for span in rig.spans(team) + rig.spans(again)] == [None, "exact"] * 2


def test_a_hidden_usage_is_told_again_as_it_was_counted(rig: Rig) -> None:
    team = rig.budget()
    rig.cache(team)
    hidden = chunk(None, {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}})
    body = chunk({"content": "hello"}) + chunk({}, finish="stop") + hidden + b"data: [DONE]\n\n"
    rig.upstream.next(streams(body))
    with rig.client(team) as client:
        sent = list(client.chat.completions.create(messages=MESSAGES, stream=True, **ASK))
    assert not any(one.usage for one in sent)
    usage = chat_whole(rig, team)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (10, 5, 15)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4} and len(rig.upstream.received) == 1


UNTOLD: list[tuple[str, dict[str, Any]]] = [
    ("chat/completions", json.loads(answer_of()) | {"choices": [{"index": 0, "message": {"audio": {}}}]}),
    ("messages", MESSAGE | {"content": [{"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}}]}),
    ("messages", MESSAGE | {"content": [{"type": "text", "text": "x", "citations": [{"type": "page_location"}]}]}),
    ("responses", RESPONSE | {"output": [{"type": "web_search_call", "id": "ws_1"}]}),
    ("embeddings", {"data": []}),
    ("messages", {"nothing": 1}),
]


@pytest.mark.parametrize(("path", "answer"), UNTOLD)
def test_what_cannot_be_told_whole_as_events_is_not_told(path: str, answer: dict[str, Any]) -> None:
    assert as_events(path, json.dumps(answer).encode(), wants_usage=True) is None


@pytest.mark.parametrize(("path", "stream"), [
    ("chat/completions", chunk({"audio": {"id": "a"}})),
    ("chat/completions", b"data: {half\n\n"),
    ("chat/completions", b""),
    ("messages", MESSAGE_EVENTS.replace(b"text_delta", b"citations_delta")),
    ("messages", MESSAGE_EVENTS.partition(b"event: message_delta")[0]),
    ("responses", b'data: {"type": "response.incomplete", "response": {}}\n\n'),
])  # fmt: skip
def test_a_stream_that_cannot_be_put_together_whole_is_not(path: str, stream: bytes) -> None:
    assert as_answer(path, stream, Usage(1, output=1)) is None
