"""proxy/engine: the legacy completions and the responses API, asked by OpenAI's own client."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from farthing import semconv
from farthing.settings import Deployment, PriceOverride, Settings
from proxy.engine.chat import ChatTokenizer, Message
from tests.proxy.rig import Upstream, answer_of, answers, proxied, running, until

FAST = "smollm2-135m-bf16"
QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."


def test_a_prompt_is_gone_on_with_as_it_stands_and_usage_is_exact(client: OpenAI, chat: ChatTokenizer) -> None:
    prompt = "One, two, three, four,"
    asked: Any = {"model": FAST, "temperature": 0, "max_tokens": 4}
    answer = client.completions.create(prompt=prompt, **asked)
    assert answer.choices[0].text.startswith(" five") and answer.choices[0].finish_reason == "length"
    assert answer.usage and answer.usage.prompt_tokens == len(chat.encode(prompt))
    assert (answer.usage.completion_tokens, answer.object, answer.id[:5]) == (4, "text_completion", "cmpl-")
    by_tokens = client.completions.create(prompt=chat.encode(prompt), **asked)
    assert by_tokens.choices[0].text == answer.choices[0].text
    assert client.completions.create(prompt=[prompt], **asked).choices[0].text == answer.choices[0].text


def test_a_stream_of_a_completion_brings_its_text_and_its_usage_last(client: OpenAI) -> None:
    asked: Any = {"model": FAST, "prompt": "One, two, three, four,", "temperature": 0, "max_tokens": 6}
    whole = client.completions.create(**asked)
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage and whole.usage and not chunks[-1].choices
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 6
    assert chunks[-2].choices[0].finish_reason == "length" and (chunks[-1].model_extra or {})["timings"]["engine_s"] > 0
    plain = list(client.completions.create(**asked, stream=True))
    assert plain[-1].choices[0].finish_reason == "length" and "timings" in (plain[-1].model_extra or {})


def test_a_completion_stops_at_a_stop_string_and_at_sixteen_tokens(client: OpenAI) -> None:
    prompt = "One, two, three, four,"
    stopped = client.completions.create(model=FAST, prompt=prompt, temperature=0, stop=[" six"])
    assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == (" five,", "stop")
    unlimited = client.completions.create(model=FAST, prompt=prompt, temperature=0)
    assert unlimited.usage and unlimited.usage.completion_tokens == 16


def test_a_response_is_the_answer_of_the_chat(client: OpenAI, chat: ChatTokenizer) -> None:
    answer = client.responses.create(model=FAST, input=QUESTION, temperature=0)
    assert (answer.output_text, answer.status, answer.object) == (ANSWER, "completed", "response")
    assert answer.usage and answer.usage.input_tokens == len(chat.prompt([Message("user", QUESTION)]))
    assert answer.usage.output_tokens == len(chat.encode(ANSWER)) + 1  # and the end token
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    parts: Any = [{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}]
    assert client.responses.create(model=FAST, input=parts, temperature=0).output_text == ANSWER


def test_instructions_are_the_system_message_and_a_cut_response_says_why(client: OpenAI, chat: ChatTokenizer) -> None:
    answer = client.responses.create(
        model=FAST, input=QUESTION, instructions="Be kind.", max_output_tokens=2, temperature=0
    )
    prompt = chat.prompt([Message("system", "Be kind."), Message("user", QUESTION)])
    assert answer.usage and answer.usage.input_tokens == len(prompt)
    assert answer.status == "incomplete" and answer.incomplete_details
    assert answer.incomplete_details.reason == "max_output_tokens"


def test_a_streamed_response_is_numbered_typed_and_ends_with_the_whole(client: OpenAI) -> None:
    with client.responses.stream(model=FAST, input=QUESTION, temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == final.output_text == ANSWER and len(deltas) > 3
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added",
                         "response.content_part.added"]  # fmt: skip
    assert kinds[-4:] == ["response.output_text.done", "response.content_part.done", "response.output_item.done",
                          "response.completed"]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.usage and final.usage.output_tokens == 8


COMPLETION_REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"n": 2}, "n", "unsupported_parameter"),
    ({"best_of": 3}, "best_of", "unsupported_parameter"),
    ({"echo": True}, "echo", "unsupported_parameter"),
    ({"suffix": "end"}, "suffix", "unsupported_parameter"),
    ({"logprobs": 0}, "logprobs", "unsupported_parameter"),
    ({"prompt": ["a", "b"]}, "prompt", "unsupported_parameter"),
    ({"prompt": ""}, "prompt", "invalid_value"),
    ({"prompt": [10**6]}, "prompt", "invalid_value"),
    ({"prompt": {"a": 1}}, "prompt", "invalid_value"),
    ({"prompt": "word " * 600}, "prompt", "context_length_exceeded"),
    ({"stop": list("abcde")}, "stop", "invalid_value"),
]
RESPONSE_REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": [{"type": "function", "name": "f", "parameters": {}}]}, "tools", "unsupported_parameter"),
    ({"text": {"format": {"type": "json_object"}}}, "text", "unsupported_parameter"),
    ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_parameter"),
    ({"background": True}, "background", "unsupported_parameter"),
    ({"input": ""}, "input", "invalid_value"),
    ({"input": []}, "input", "invalid_value"),
    ({"input": [{"type": "function_call", "call_id": "a", "name": "f", "arguments": ""}]}, "input[0].type",
     "unsupported_content"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content",
     "unsupported_content"),
    ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
]  # fmt: skip


def refusal(call: Any, asked: dict[str, Any]) -> tuple[str, str, str]:
    with pytest.raises(openai.BadRequestError) as caught:
        call(**asked)
    body: Any = caught.value.body
    return body["param"], body["code"], body["message"]


def named(cases: list[tuple[dict[str, Any], str, str]]) -> list[str]:
    return [f"{code}-{param}-{number}" for number, (_, param, code) in enumerate(cases)]


@pytest.mark.parametrize(("change", "param", "code"), COMPLETION_REFUSED, ids=named(COMPLETION_REFUSED))
def test_what_a_completion_cannot_have_is_refused_by_name(
    client: OpenAI, change: dict[str, Any], param: str, code: str
) -> None:
    told = refusal(client.completions.create, {"model": FAST, "prompt": "x"} | change)
    assert told[:2] == (param, code) and (param in told[2] or code == "context_length_exceeded")


@pytest.mark.parametrize(("change", "param", "code"), RESPONSE_REFUSED, ids=named(RESPONSE_REFUSED))
def test_what_a_response_cannot_have_is_refused_by_name(
    client: OpenAI, change: dict[str, Any], param: str, code: str
) -> None:
    told = refusal(client.responses.create, {"model": FAST, "input": "x"} | change)
    assert told[:2] == (param, code) and param.split("[")[0] in told[2]


def test_every_api_of_the_engine_is_billed_through_the_proxy(engine_url: str, tmp_path: Path) -> None:
    collector = Upstream(answers(answer_of()))
    with running(collector):
        settings = Settings(
            data_dir=tmp_path, collector_url=f"http://127.0.0.1:{collector.port}", policies_url="http://127.0.0.1:9",
            serve_without_policies=True,
            deployments=(Deployment(FAST, f"{engine_url}/v1"),),
            prices=(PriceOverride("farthing", FAST, input="1", output="2"),),
        )  # fmt: skip
        with proxied(settings) as port, OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x") as client:
            asked: Any = {"model": FAST, "temperature": 0}
            client.completions.create(prompt="One, two,", max_tokens=4, **asked)
            list(client.completions.create(prompt="One, two,", max_tokens=4, stream=True, **asked))
            client.responses.create(input=QUESTION, **asked)
            list(client.responses.create(input=QUESTION, stream=True, **asked))
            until(lambda: len(collector.spans) == 4, "all spans arrive")
    usage = [(span[semconv.OPERATION_NAME], span[semconv.USAGE_OUTPUT_TOKENS]) for span in collector.spans]
    assert usage == [("text_completion", 4)] * 2 + [("responses", 8)] * 2
    assert all(span[semconv.USAGE_SOURCE] == "proxy" and span[semconv.ENGINE_SECONDS] > 0 for span in collector.spans)
