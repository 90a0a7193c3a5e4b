"""proxy: tools, JSON mode and images go through untouched in every API, and so do the answers that use them."""
from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest

from farthing import semconv
from tests.proxy.rig import USAGE, Rig, answers, chunk, streams
from tests.proxy.test_formats import MESSAGE, RESPONSE, TEXT_ANSWER, typed
from tests.proxy.test_tokens_control import govern

PIXEL = "data:image/png;base64,iVBORw0KGgo="
SCHEMA: dict[str, Any] = {
    "type": "object", "properties": {"city": {"type": "string", "description": "Ünïcode  and   blanks"}},
    "required": ["city"], "additionalProperties": False,
}  # fmt: skip
ASKED: dict[str, dict[str, Any]] = {
    "chat/completions": {
        "model": "gpt-plain", "max_tokens": 50, "temperature": 0.10, "seed": 7, "logit_bias": {"50256": -100},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Where?"},
                                         {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}]},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"city":  "Köln"}'}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": '{"found":   [1.0, 2.50]}'},
        ],
        "tools": [{"type": "function", "function": {"name": "find", "strict": True, "parameters": SCHEMA}}],
        "tool_choice": {"type": "function", "function": {"name": "find"}}, "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": SCHEMA}},
    },
    "responses": {
        "model": "gpt-plain", "max_output_tokens": 50, "store": False,
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Where?"},
                                         {"type": "input_image", "image_url": PIXEL, "detail": "low"}]},
            {"type": "function_call", "call_id": "call_1", "name": "find", "arguments": '{"city":  "Köln"}'},
            {"type": "function_call_output", "call_id": "call_1", "output": '{"found":   [1.0, 2.50]}'},
        ],
        "tools": [{"type": "function", "name": "find", "strict": True, "parameters": SCHEMA}],
        "tool_choice": "required",
        "text": {"format": {"type": "json_schema", "name": "place", "strict": True, "schema": SCHEMA}},
        "reasoning": {"effort": "low"},
    },
    "messages": {
        "model": "claude", "max_tokens": 50, "system": [{"type": "text", "text": "Be  brief.",
                                                         "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Where?"}, {"type": "image", "source": {
                "type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "find",
                                               "input": {"city": "Köln", "at": 2.50}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "is_error": False,
                                          "content": '{"found":   [1.0, 2.50]}'}]},
        ],
        "tools": [{"name": "find", "description": "Finds.", "input_schema": SCHEMA}],
        "tool_choice": {"type": "tool", "name": "find", "disable_parallel_tool_use": True},
    },
    "completions": {
        "model": "gpt-plain", "max_tokens": 50, "prompt": '{"city":  "', "suffix": '"}', "logprobs": 2, "echo": True,
        "stop": ["\n"], "logit_bias": {"50256": -100},
    },
}  # fmt: skip
CALL = {"id": "call_2", "type": "function", "function": {"name": "find", "arguments": '{"city":  "Bonn"}'}}
ANSWERED: dict[str, bytes] = {
    "chat/completions": json.dumps({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "x", "usage": USAGE, "choices": [
            {"index": 0, "finish_reason": "tool_calls", "message": {"role": "assistant", "content": None,
                                                                    "refusal": None, "tool_calls": [CALL]}}]},
        indent=1).encode(),
    "responses": json.dumps(RESPONSE | {"output": [
        {"type": "function_call", "id": "fc_1", "call_id": "call_2", "name": "find", "arguments": '{"city":  "Bonn"}',
         "status": "completed"}]}, indent=1).encode(),
    "messages": json.dumps(MESSAGE | {"stop_reason": "tool_use", "content": [
        {"type": "tool_use", "id": "toolu_2", "name": "find", "input": {"city": "Bonn"}}]}, indent=1).encode(),
    "completions": TEXT_ANSWER,
}  # fmt: skip


def post(rig: Rig, team: str, path: str, body: bytes) -> bytes:
    headers = {semconv.HEADER_TAGS: f"team={team}", "content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{rig.proxy}/v1/{path}", body, headers), timeout=120) as answer:
        return answer.read()


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize("governed", [False, True], ids=["ungoverned", "budgeted"])
def test_every_byte_of_tools_json_mode_and_images_goes_through_both_ways(rig: Rig, path: str, governed: bool) -> None:
    team = rig.budget() if governed else f"free-{path.replace('/', '-')}"
    rig.upstream.next(answers(ANSWERED[path]))
    body = json.dumps(ASKED[path], ensure_ascii=False, indent=1).encode()
    assert post(rig, team, path, body) == ANSWERED[path]
    assert rig.upstream.received[0].body == body
    rig.quiet()
    assert [span[semconv.OUTCOME] for span in rig.spans(team)] == ["ok"]


def test_a_model_of_another_name_upstream_changes_that_field_alone(rig: Rig) -> None:
    team = rig.budget()
    asked = ASKED["chat/completions"] | {"model": "gpt"}
    rig.upstream.next(answers(ANSWERED["chat/completions"]))
    post(rig, team, "chat/completions", json.dumps(asked).encode())
    sent = rig.upstream.received[0]
    assert sent.json == asked | {"model": "gpt-real"}
    assert b'"arguments": "{\\"city\\":  \\"K' in sent.body and b"2.50]}" in sent.body  # values keep their spelling


@pytest.mark.parametrize("path", ["chat/completions", "responses", "messages"])
def test_compression_leaves_tools_their_arguments_and_results_and_images_alone(rig: Rig, path: str) -> None:
    team = rig.budget()
    govern(rig, team, {"compress": {"phrases": ["Köln", "found"]}, "history": {"max_tokens": 100_000}})
    rig.upstream.next(answers(ANSWERED[path]))
    post(rig, team, path, json.dumps(ASKED[path]).encode())
    expected = json.loads(json.dumps(ASKED[path]).replace("Be  brief.", "Be brief."))
    assert rig.upstream.received[0].json == expected


TOOL_DELTAS = (
    chunk({"role": "assistant", "tool_calls": [{"index": 0, **CALL, "function": {"name": "find", "arguments": ""}}]})
    + chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":  '}}]})
    + chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"Bonn"}'}}]})
    + chunk({}, finish="tool_calls")
)
RESPONSE_CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_2", "name": "find", "arguments": "",
                 "status": "in_progress"}  # fmt: skip
RESPONSE_EVENTS = typed(
    {"type": "response.created", "sequence_number": 0, "response": RESPONSE | {"status": "in_progress", "usage": None}},
    {"type": "response.output_item.added", "sequence_number": 1, "output_index": 0, "item": RESPONSE_CALL},
    {"type": "response.function_call_arguments.delta", "sequence_number": 2, "item_id": "fc_1", "output_index": 0,
     "delta": '{"city":  "Bonn"}'},
    {"type": "response.function_call_arguments.done", "sequence_number": 3, "item_id": "fc_1", "output_index": 0,
     "arguments": '{"city":  "Bonn"}'},
    {"type": "response.completed", "sequence_number": 4, "response": RESPONSE | {"output": [
        RESPONSE_CALL | {"arguments": '{"city":  "Bonn"}', "status": "completed"}]}},
)  # fmt: skip
MESSAGE_EVENTS = typed(
    {"type": "message_start", "message": MESSAGE | {"content": [], "stop_reason": None}},
    {"type": "content_block_start", "index": 0,
     "content_block": {"type": "tool_use", "id": "toolu_2", "name": "find", "input": {}}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"city":  '}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '"Bonn"}'}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}},
    {"type": "message_stop"},
)  # fmt: skip


def without(path: str, *names: str) -> dict[str, Any]:
    return {name: value for name, value in ASKED[path].items() if name not in names}


def test_the_official_client_reads_a_streamed_tool_call_of_a_chat(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(streams(TOOL_DELTAS + chunk(None, USAGE) + b"data: [DONE]\n\n"))
    with rig.client(team) as client:
        chunks = list(client.chat.completions.create(**ASKED["chat/completions"], stream=True))
    calls = [call for one in chunks for call in one.choices[0].delta.tool_calls or []]
    assert "".join(call.function.arguments or "" for call in calls if call.function) == '{"city":  "Bonn"}'
    assert calls[0].id == "call_2" and chunks[-1].choices[0].finish_reason == "tool_calls"
    assert rig.upstream.received[0].json["tools"] == ASKED["chat/completions"]["tools"]
    assert rig.span(team)[semconv.RESPONSE_FINISH_REASONS] == "tool_calls"


def test_the_official_client_reads_a_streamed_tool_call_of_a_response(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(streams(RESPONSE_EVENTS))
    with rig.client(team) as client:
        events = list(client.responses.create(**ASKED["responses"], stream=True))
    (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert done.arguments == '{"city":  "Bonn"}' and events[-1].type == "response.completed"
    assert rig.upstream.received[0].json["input"] == ASKED["responses"]["input"]
    assert rig.span(team)[semconv.OUTCOME] == "ok"


def test_the_official_client_reads_a_streamed_tool_call_of_a_message(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(streams(MESSAGE_EVENTS))
    with rig.claude(team) as client, client.messages.stream(**without("messages")) as stream:
        message = stream.get_final_message()
    assert message.content[0].type == "tool_use" and message.content[0].input == {"city": "Bonn"}
    assert rig.upstream.received[0].json["messages"] == ASKED["messages"]["messages"]
    assert rig.span(team)[semconv.RESPONSE_FINISH_REASONS] == "tool_use"
