"""POST /v1/responses: OpenAI's newer API over the same chat.

Nothing of a response is kept, so none can be gone on with by its id.
"""
from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from proxy.engine.chat import ChatTokenizer, Message
from proxy.engine.generation import Api, Job, timings
from proxy.engine.protocol import (
    Count,
    Part,
    RefusedError,
    Temperature,
    TopP,
    Turn,
    decode_body,
    message_of,
    refuse_asked,
    sampling,
)
from proxy.engine.sample import Sampling
from proxy.engine.scheduler import Output
from proxy.engine.wire import event

_TEXTS = ("input_text", "output_text", "text")


class Item(Struct):
    """One item of the input; only messages are taken."""

    role: str = ""
    content: str | list[Part] | None = None
    type: str = "message"


class ResponseRequest(Struct):
    """The body of POST /v1/responses; fields that are not named here change nothing and are ignored."""

    PROMPT_FIELD: ClassVar[str] = "input"

    model: str
    input: str | list[Item]
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    ignore_eos: bool | None = None  # go on to max_output_tokens whatever comes, for load tests
    tools: list[Any] | None = None
    text: dict[str, Any] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt_template: Any = msgspec.field(default=None, name="prompt")
    background: bool | None = None
    top_logprobs: int | None = None

    @property
    def stops(self) -> list[str]:
        return []

    @property
    def answer_tokens(self) -> int | None:
        return self.max_output_tokens

    def sampling(self) -> Sampling:
        return sampling(self.temperature, self.top_p, None)

    def prompt(self, tokenizer: ChatTokenizer) -> tuple[int, ...]:
        items = [Item("user", self.input)] if isinstance(self.input, str) else self.input
        messages = [_message(f"input[{index}]", item) for index, item in enumerate(items)]
        if not messages or (len(messages) == 1 and not messages[0].content):
            raise RefusedError(400, "input is empty; send a text or at least one message", "input", "invalid_value")
        system = [Message("system", self.instructions)] if self.instructions else []
        return tokenizer.prompt([*system, *messages])


def _message(where: str, item: Item) -> Message:
    if item.type != "message":
        message = f"{where}.type={item.type!r} is not supported; the bundled engine takes messages alone"
        raise RefusedError(400, message, f"{where}.type", "unsupported_content")
    return message_of(where, Turn(item.role, item.content), _TEXTS)


_decoder = msgspec.json.Decoder(ResponseRequest)


def parse_response(body: bytes) -> ResponseRequest:
    """Return the request in `body`.

    Raises:
        RefusedError: it is not valid, or asks for something that the engine does not do.
    """
    request = decode_body(_decoder, body)
    format_type = ((request.text or {}).get("format") or {}).get("type", "text")
    if request.prompt_template is not None:
        message = "prompt is not supported by the bundled engine, which keeps no templates; send `input`"
        raise RefusedError(400, message, "prompt", "unsupported_parameter")
    refuse_asked(request, {
        "tools": bool(request.tools),
        "text": format_type != "text",
        "previous_response_id": request.previous_response_id is not None,
        "conversation": request.conversation is not None,
        "background": bool(request.background),
        "top_logprobs": bool(request.top_logprobs),
    })  # fmt: skip
    return request


class ResponseTeller:
    """One message in typed, numbered events; the last of them repeats the whole response."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._item_id = f"msg_{job.request_id.removeprefix('resp_')}"
        self._place = {"item_id": self._item_id, "output_index": 0, "content_index": 0}
        self._text: list[str] = []
        self._number = 0

    def whole(self, text: str, last: Output) -> dict[str, Any]:
        is_cut = last.finish == "length"
        status = "incomplete" if is_cut else "completed"
        usage = {
            "input_tokens": self._job.prompt_tokens,
            "input_tokens_details": {"cached_tokens": last.timings.cached_tokens if last.timings else 0},
            "output_tokens": last.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self._job.prompt_tokens + last.completion_tokens,
        }
        return self._response(status) | {
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": [self._item(status, [_part(text)])],
            "usage": usage,
            "timings": timings(last),
        }

    def begin(self) -> bytes:
        return b"".join((
            self._event("response.created", response=self._response("in_progress")),
            self._event("response.in_progress", response=self._response("in_progress")),
            self._event("response.output_item.added", output_index=0, item=self._item("in_progress", [])),
            self._event("response.content_part.added", part=_part(""), **self._place),
        ))  # fmt: skip

    def piece(self, text: str) -> bytes:
        self._text.append(text)
        return self._event("response.output_text.delta", delta=text, logprobs=[], **self._place)

    def end(self, last: Output) -> bytes:
        text = "".join(self._text)
        whole = self.whole(text, last)
        status = whole["status"]
        return b"".join((
            self._event("response.output_text.done", text=text, logprobs=[], **self._place),
            self._event("response.content_part.done", part=_part(text), **self._place),
            self._event("response.output_item.done", output_index=0, item=self._item(status, [_part(text)])),
            self._event(f"response.{status}", response=whole),
        ))  # fmt: skip

    def broken(self, refusal: RefusedError) -> bytes:
        error = {"code": "server_error", "message": str(refusal)}
        return self._event("response.failed", response=self._response("failed") | {"error": error})

    def _event(self, kind: str, **content: Any) -> bytes:
        said = {"type": kind, "sequence_number": self._number, **content}
        self._number += 1
        return event(said, kind)

    def _response(self, status: str) -> dict[str, Any]:
        asked: ResponseRequest = self._job.asked
        return {
            "id": self._job.request_id, "object": "response", "created_at": self._job.created, "status": status,
            "model": asked.model, "background": False, "error": None, "incomplete_details": None,
            "instructions": asked.instructions, "max_output_tokens": asked.max_output_tokens, "metadata": {},
            "output": [], "parallel_tool_calls": False, "previous_response_id": None, "store": False,
            "temperature": 1.0 if asked.temperature is None else asked.temperature,
            "text": {"format": {"type": "text"}}, "tool_choice": "none", "tools": [],
            "top_p": 1.0 if asked.top_p is None else asked.top_p, "truncation": "disabled", "usage": None,
        }  # fmt: skip

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._item_id, "type": "message", "status": status, "role": "assistant", "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


RESPONSES = Api(parse_response, ResponseTeller, "resp_")
