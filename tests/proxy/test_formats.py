"""proxy/formats: each API is served to its official client, billed by its own usage, and refused in its own shape."""
from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import anthropic
import openai
import pytest

from farthing import semconv
from farthing.prices import Usage
from proxy.api_error import ApiError
from proxy.formats import FORMATS, Format
from tests.proxy.rig import SECRET, Behaviour, Rig, answers, streams

CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS, MESSAGES = FORMATS
TEXT = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "x"}
TEXT_USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
RESPONSE: dict[str, Any] = {
    "id": "resp_1", "object": "response", "created_at": 1, "model": "x", "status": "completed", "error": None,
    "incomplete_details": None, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
    "output": [{"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
                "content": [{"type": "output_text", "text": "hello", "annotations": []}]}],
    "usage": {"input_tokens": 10, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 5,
              "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 15},
}  # fmt: skip
EMBEDDING = {"object": "list", "model": "x", "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}],
             "usage": {"prompt_tokens": 10, "total_tokens": 10}}  # fmt: skip
MESSAGE: dict[str, Any] = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "x", "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn", "stop_sequence": None,
    "usage": {"input_tokens": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 3, "output_tokens": 5},
}  # fmt: skip


def typed(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in events)


RESPONSE_EVENTS = typed(
    {"type": "response.created", "sequence_number": 0, "response": RESPONSE | {"status": "in_progress", "usage": None}},
    {"type": "response.output_text.delta", "sequence_number": 1, "item_id": "msg_1", "output_index": 0,
     "content_index": 0, "delta": 'x "type": "response.completed"', "logprobs": []},
    {"type": "response.completed", "sequence_number": 2, "response": RESPONSE},
)  # fmt: skip
MESSAGE_EVENTS = typed(
    {"type": "message_start", "message": MESSAGE | {"content": [], "stop_reason": None, "usage": {
        "input_tokens": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 3, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 'he "type": "message_stop"'}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
    {"type": "message_stop"},
)  # fmt: skip
TEXT_EVENTS = b"".join(
    b"data: " + json.dumps(TEXT | more).encode() + b"\n\n"
    for more in (
        {"choices": [{"index": 0, "text": "hel", "finish_reason": None}]},
        {"choices": [{"index": 0, "text": "lo", "finish_reason": "stop"}]},
        {"choices": [], "usage": TEXT_USAGE},
    )
) + b"data: [DONE]\n\n"  # fmt: skip
TEXT_ANSWER = json.dumps(TEXT | {"choices": [{"index": 0, "text": "hello", "finish_reason": "stop"}],
                                 "usage": TEXT_USAGE}).encode()  # fmt: skip


def complete(rig: Rig, team: str) -> None:
    with rig.client(team) as client:
        made = client.completions.create(model="gpt-plain", prompt="say hello", max_tokens=20)
        assert made.choices[0].text == "hello"


def complete_stream(rig: Rig, team: str) -> None:
    with rig.client(team) as client:
        chunks = list(client.completions.create(model="gpt-plain", prompt="say", max_tokens=20, stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks) == "hello"  # the usage event was not asked for


def respond(rig: Rig, team: str) -> None:
    with rig.client(team) as client:
        assert client.responses.create(model="gpt-plain", input="hi", max_output_tokens=20).output_text == "hello"


def respond_stream(rig: Rig, team: str) -> None:
    with rig.client(team) as client:
        events = list(client.responses.create(model="gpt-plain", input="hi", max_output_tokens=20, stream=True))
        assert [event.type for event in events][-1] == "response.completed"


def embed(rig: Rig, team: str) -> None:
    with rig.client(team) as client:
        made = client.embeddings.create(model="gpt-plain", input="ten tokens", encoding_format="float")
        assert made.data[0].embedding == [0.5, -0.5]


def ask_claude(rig: Rig, team: str) -> None:
    with rig.claude(team) as client:
        made = client.messages.create(model="claude", max_tokens=20, messages=[{"role": "user", "content": "hi"}])
        assert made.content[0].type == "text" and made.content[0].text == "hello"


def stream_claude(rig: Rig, team: str) -> None:
    with rig.claude(team) as client, client.messages.stream(
        model="claude", max_tokens=20, messages=[{"role": "user", "content": "hi"}]
    ) as stream:
        assert stream.get_final_message().usage.output_tokens == 5


@pytest.mark.parametrize(("ask", "behave", "operation", "tokens"), [
    (complete, answers(TEXT_ANSWER), "text_completion", (10, 5)),
    (complete_stream, streams(TEXT_EVENTS), "text_completion", (10, 5)),
    (respond, answers(json.dumps(RESPONSE).encode()), "responses", (10, 5)),
    (respond_stream, streams(RESPONSE_EVENTS), "responses", (10, 5)),
    (embed, answers(json.dumps(EMBEDDING).encode()), "embeddings", (10, 0)),
    (ask_claude, answers(json.dumps(MESSAGE).encode()), "chat", (10, 5)),
    (stream_claude, streams(MESSAGE_EVENTS), "chat", (10, 5)),
])  # fmt: skip
def test_each_api_is_served_and_charged_what_it_used(
    rig: Rig, ask: Callable[[Rig, str], None], behave: Behaviour, operation: str, tokens: tuple[int, int]
) -> None:
    team = rig.budget()
    rig.upstream.next(behave)
    ask(rig, team)
    span = rig.span(team)
    assert span[semconv.OPERATION_NAME] == operation
    assert (span[semconv.USAGE_INPUT_TOKENS], span[semconv.USAGE_OUTPUT_TOKENS]) == tokens
    assert span[semconv.OUTCOME] == "ok" and span[semconv.USAGE_SOURCE] == "proxy"


def test_a_cut_stream_of_responses_ends_with_the_api_s_error_event_and_is_charged_its_hold(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(streams(RESPONSE_EVENTS, cut_at=RESPONSE_EVENTS.index(b"event: response.completed")))
    with rig.client(team) as client:
        events = list(client.responses.create(model="gpt-plain", input="hi", max_output_tokens=20, stream=True))
    assert events[-1].type == "error"
    span = rig.span(team)
    assert (span[semconv.OUTCOME], span[semconv.USAGE_SOURCE]) == ("error", "missing")


def test_a_cut_stream_of_messages_raises_in_the_client_and_is_charged_its_hold(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(streams(MESSAGE_EVENTS, cut_at=MESSAGE_EVENTS.index(b"event: message_delta")))
    with pytest.raises(anthropic.APIError):
        stream_claude(rig, team)
    span = rig.span(team)
    assert (span[semconv.OUTCOME], span[semconv.USAGE_SOURCE]) == ("error", "missing")


def test_anthropic_sees_its_own_key_header_and_the_client_s_version_and_nothing_of_the_caller(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(answers(json.dumps(MESSAGE).encode()))
    ask_claude(rig, team)
    (received,) = rig.upstream.received
    assert received.path == "/anthropic/v1/messages" and received.headers["x-api-key"] == SECRET
    assert received.headers["anthropic-version"] and "authorization" not in received.headers
    assert team not in str(received.headers) and "of-the-client" not in str(received.headers)


def test_azure_takes_its_key_in_a_header_of_its_own(rig: Rig) -> None:
    team = rig.budget()
    with rig.client(team) as client:
        client.chat.completions.create(model="azured", messages=[{"role": "user", "content": "hi"}], max_tokens=20)
    assert rig.upstream.received[0].headers["api-key"] == SECRET
    assert "authorization" not in rig.upstream.received[0].headers


def test_a_model_asked_for_over_the_wrong_api_is_refused_and_named_with_the_right_one(rig: Rig) -> None:
    team = rig.budget()
    with rig.claude(team) as client, pytest.raises(anthropic.BadRequestError) as raised:
        client.messages.create(model="gpt-plain", max_tokens=20, messages=[{"role": "user", "content": "hi"}])
    assert raised.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]
    assert "gpt-plain" in str(raised.value) and rig.span(team)[semconv.OUTCOME] == "refused"


def test_a_budget_refuses_in_the_shape_of_the_api_that_was_asked(rig: Rig) -> None:
    team = rig.budget("0.00000001 USD")
    with rig.claude(team) as client, pytest.raises(anthropic.RateLimitError) as raised:
        client.messages.create(model="claude", max_tokens=20, messages=[{"role": "user", "content": "hi"}])
    assert raised.value.body["error"]["type"] == "rate_limit_error"  # type: ignore[index]
    with rig.client(team) as client, pytest.raises(openai.RateLimitError) as refused:
        client.responses.create(model="gpt-plain", input="hi")
    assert refused.value.code == "budget_exceeded"


def test_a_limit_that_the_request_does_not_name_is_capped_in_the_api_s_own_field(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(answers(json.dumps(RESPONSE).encode()))
    with rig.client(team) as client:
        client.responses.create(model="gpt-plain", input="hi")
        assert rig.upstream.received[-1].json["max_output_tokens"] == rig.settings.max_output_tokens
        rig.upstream.next(answers(TEXT_ANSWER))
        client.completions.create(model="gpt-plain", prompt="hi")
        assert rig.upstream.received[-1].json["max_tokens"] == rig.settings.max_output_tokens


def test_another_version_or_beta_of_the_api_is_another_answer(rig: Rig) -> None:
    team = rig.budget()
    rig.cache(team, coalesce=True)
    rig.upstream.next(answers(json.dumps(MESSAGE).encode()))
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    said = [{"anthropic-beta": "a"}, {"anthropic-beta": "b"}, {"anthropic-version": "2000-01-01"}]
    for headers in (*said, *said):
        rig.claude(team).messages.create(
            model="claude", max_tokens=9, messages=messages, extra_body={"temperature": 0}, extra_headers=headers
        )
    assert len(rig.upstream.received) == 3


def test_embeddings_are_cached_whatever_the_temperature_rule(rig: Rig) -> None:
    team = rig.budget()
    rig.cache(team)
    rig.upstream.next(answers(json.dumps(EMBEDDING).encode()))
    embed(rig, team)
    embed(rig, team)
    rig.quiet()
    first, second = rig.spans(team)
    assert semconv.CACHE_HIT not in first and second[semconv.CACHE_HIT] == "embedding"
    assert len(rig.upstream.received) == 1


STREAMS: list[tuple[Format, bytes, Usage]] = [
    (RESPONSES, RESPONSE_EVENTS, Usage(6, 4, 0, 5)),
    (MESSAGES, MESSAGE_EVENTS, Usage(3, 4, 3, 5)),
    (COMPLETIONS, TEXT_EVENTS, Usage(10, 0, 0, 5)),
]


@pytest.mark.parametrize(("form", "stream", "usage"), STREAMS)
def test_a_stream_s_usage_is_found_wherever_it_is_cut(form: Format, stream: bytes, usage: Usage) -> None:
    body = {"model": "m", "messages": [1], "input": "x", "prompt": "x", "max_tokens": 9, "stream": True,
            "stream_options": {"include_usage": True}}  # fmt: skip
    for cut in range(0, len(stream), 7):
        relay = form.relay(form.read(json.dumps(body).encode()))
        out = b"".join(relay.feed(stream[start:end]) for start, end in pairwise((0, cut, len(stream)))) + relay.finish()
        assert (out, relay.usage) == (stream, usage)
        assert relay.is_done and relay.is_usage_last and relay.finish_reason and not relay.has_failed


@pytest.mark.parametrize(("form", "stream", "usage"), STREAMS)
def test_a_stream_s_usage_is_found_beside_comments_and_ids(form: Format, stream: bytes, usage: Usage) -> None:
    body = {"model": "m", "messages": [1], "input": "x", "prompt": "x", "max_tokens": 9, "stream": True}
    relay = form.relay(form.read(json.dumps(body).encode()))
    relay.feed(b": {wait}\n" + stream.replace(b"\n\n", b"\nid: 1\n\n: {wait}\n"))
    relay.finish()
    assert relay.usage == usage and relay.is_done and relay.finish_reason


UNBOUNDED: list[tuple[Format, dict[str, Any]]] = [
    (RESPONSES, {"input": "x", "tools": [{"type": "web_search"}]}),
    (RESPONSES, {"input": "x", "previous_response_id": "resp_1"}),
    (RESPONSES, {"input": "x", "background": True}),
    (RESPONSES, {"prompt": {"id": "p"}}),
    (RESPONSES, {"input": [{"type": "item_reference", "id": "x"}]}),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}),
    (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "url"}}]}]}),
    (MESSAGES, {"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "web_search_20250305"}]}),
    (MESSAGES, {"messages": [{"role": "user", "content": "x"}], "service_tier": "auto"}),
    (MESSAGES, {"messages": [{"role": "user", "content": "x"}], "mcp_servers": [{"url": "x"}]}),
    (COMPLETIONS, {"prompt": "x", "models": ["a"]}),
]


@pytest.mark.parametrize(("form", "fields"), UNBOUNDED)
def test_what_nobody_can_bound_is_refused_on_a_call_with_a_budget(form: Format, fields: dict[str, Any]) -> None:
    asked = form.read(json.dumps({"model": "m", "max_tokens": 5} | fields).encode())
    with pytest.raises(ApiError, match="bounded beforehand"):
        form.bound(asked, 5)


ODD: tuple[Any, ...] = (["text"], {"a": 1}, 5, True)  # where a word is to stand


@pytest.mark.parametrize(("form", "field"), [(CHAT, "messages"), (RESPONSES, "input"), (MESSAGES, "messages")],
                         ids=["chat", "responses", "messages"])  # fmt: skip
def test_a_part_whose_kind_is_no_word_is_refused_like_one_that_nobody_knows(form: Format, field: str) -> None:
    for odd in ODD:
        parts = [[{"type": odd, "text": "x"}], [{"type": "tool_result", "content": [{"type": odd}]}]]
        turns = [{"type": odd}, *({"role": "user", "content": part} for part in parts)]
        for turn in turns if form is RESPONSES else turns[1:]:
            asked = form.read(json.dumps({"model": "m", "max_tokens": 5, field: [turn]}).encode())
            with pytest.raises(ApiError, match="bounded beforehand"):
                form.bound(asked, 5)


def test_every_prompt_and_choice_of_a_completion_counts_in_its_bound() -> None:
    asked = COMPLETIONS.read(json.dumps({"model": "m", "prompt": ["a", "b", "c"], "n": 2, "best_of": 4}).encode())
    assert COMPLETIONS.bound(asked, 10)[1] == 3 * 4 * 10
    tokens = COMPLETIONS.read(json.dumps({"model": "m", "prompt": [1, 2, 3]}).encode())
    assert COMPLETIONS.bound(tokens, 10) == (len(tokens.body) + 128, 10)


def test_an_image_of_a_tool_s_result_counts_as_an_image() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 1000}}
    content = [{"type": "tool_result", "tool_use_id": "t", "content": [image]}]
    body = json.dumps({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": content}]}).encode()
    inputs, _ = MESSAGES.bound(MESSAGES.read(body), 5)
    assert inputs == len(body) - 1000 + 50_000 + 1060


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.path)
def test_a_body_that_is_none_of_an_api_s_requests_is_refused(form: Format) -> None:
    for body in (b"", b"[]", b"{}", b'{"model": "m"}', b'{"model": 5, "messages": [1], "input": "x", "prompt": "x"}'):
        with pytest.raises(ApiError):
            form.read(body)
