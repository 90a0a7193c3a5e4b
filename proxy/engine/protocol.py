"""OpenAI's chat request, read and checked; what the engine cannot do is refused by name, never ignored silently."""
from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
from msgspec import Meta, Struct

from farthing.errors import EngineError
from proxy.engine.chat import ChatTokenizer, Message
from proxy.engine.sample import Sampling

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MAX_STOPS = 4  # OpenAI's limit

T = TypeVar("T")
Count = Annotated[int, Meta(ge=1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(ge=0, le=1)]


class RefusedError(EngineError):
    """A request is refused; carries what OpenAI's error object says."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status  # HTTP
        self.param = param  # the field at fault
        self.code = code


class Part(Struct):
    """One part of a message's content."""

    type: str
    text: str | None = None


class Turn(Struct):
    """One message as it was sent."""

    role: str
    content: str | list[Part] | None = None


class StreamOptions(Struct):
    """What a stream should carry beside the text."""

    include_usage: bool | None = None


class SampledRequest(Struct, kw_only=True):
    """What the bodies of chat and of plain completions have in common."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None  # go on to max_tokens whatever comes, for load tests; vLLM has the same
    n: int | None = None
    logit_bias: dict[str, float] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self) -> Sampling:
        return sampling(self.temperature, self.top_p, self.seed)


class ChatRequest(SampledRequest, kw_only=True):
    """The body of POST /v1/chat/completions; fields that are not named here change nothing and are ignored."""

    PROMPT_FIELD: ClassVar[str] = "messages"

    messages: Annotated[list[Turn], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    modalities: list[str] | None = None

    @property
    def answer_tokens(self) -> int | None:
        """The longest answer, tokens; None = the server's own limit."""
        return self.max_completion_tokens or self.max_tokens

    def prompt(self, tokenizer: ChatTokenizer) -> tuple[int, ...]:
        return tokenizer.prompt(self.chat())

    def chat(self) -> list[Message]:
        """Return the messages as text.

        Raises:
            RefusedError: a role or a kind of content is not supported.
        """
        return [message_of(f"messages[{i}]", turn) for i, turn in enumerate(self.messages)]


_decoder = msgspec.json.Decoder(ChatRequest)


def parse_chat(body: bytes) -> ChatRequest:
    """Return the request in `body`.

    Raises:
        RefusedError: it is not valid, or asks for something that the engine does not do.
    """
    request = decode_body(_decoder, body)
    _refuse_unsupported(request)
    return request


def decode_body(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Return what `decoder` reads in `body`.

    Raises:
        RefusedError: it is not JSON, or not of that shape.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        found = re.search(r"at `\$\.(\w+)", str(error)) or re.search(r"required field `(\w+)`", str(error))
        raise RefusedError(400, f"invalid request: {error}", found and found[1], "invalid_value") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusedError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None


def _refuse_unsupported(request: ChatRequest) -> None:
    format_type = (request.response_format or {}).get("type", "text")
    unsupported = {
        "n": request.n not in (None, 1),
        "tools": bool(request.tools),
        "functions": bool(request.functions),
        "logprobs": bool(request.logprobs),
        "top_logprobs": bool(request.top_logprobs),
        "response_format": format_type != "text",
        "modalities": request.modalities not in (None, [], ["text"]),
        "logit_bias": bool(request.logit_bias),
        "frequency_penalty": bool(request.frequency_penalty),
        "presence_penalty": bool(request.presence_penalty),
    }
    refuse_asked(request, unsupported)
    check_stops(request.stops)


def refuse_asked(request: object, unsupported: Mapping[str, bool]) -> None:
    """Refuse the first field that asks for what the engine does not do; `unsupported` tells which do.

    Raises:
        RefusedError: there is one.
    """
    for name, is_asked in unsupported.items():
        if is_asked:
            value = getattr(request, name)
            message = f"{name}={value!r} is not supported by the bundled engine; leave it out"
            raise RefusedError(400, message, name, "unsupported_parameter")


def check_stops(stops: list[str]) -> None:
    """Refuse more stop strings than OpenAI takes."""
    if len(stops) > MAX_STOPS:
        raise RefusedError(400, f"{len(stops)} stop strings; at most {MAX_STOPS}", "stop", "invalid_value")


def sampling(temperature: float | None, top_p: float | None, seed: int | None) -> Sampling:
    """Return how to choose tokens; OpenAI's defaults where the request names none."""
    return Sampling(1.0 if temperature is None else temperature, 1.0 if top_p is None else top_p, seed)


def message_of(where: str, turn: Turn, text_types: tuple[str, ...] = ("text",)) -> Message:
    """Return one message as text; `where` names it in a refusal.

    Raises:
        RefusedError: its role or a kind of its content is not supported.
    """
    if turn.role not in ROLES:
        message = f"{where}.role={turn.role!r} is not supported; use one of {', '.join(ROLES)}"
        raise RefusedError(400, message, f"{where}.role", "invalid_value")
    if isinstance(turn.content, str):
        return Message(ROLES[turn.role], turn.content)
    if turn.content is None:
        raise RefusedError(400, f"{where}.content is missing", f"{where}.content", "invalid_value")
    for part in turn.content:
        if part.type not in text_types or part.text is None:
            message = f"{where}.content has a part of type {part.type!r}; the bundled engine reads text alone"
            raise RefusedError(400, message, f"{where}.content", "unsupported_content")
    return Message(ROLES[turn.role], "".join(part.text or "" for part in turn.content))
