"""POST /v1/completions: a prompt goes on as it is, without the chat template; OpenAI's legacy API."""
from __future__ import annotations

import contextlib
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from proxy.engine.chat import ChatTokenizer
from proxy.engine.generation import Api, Job, head, timings, usage
from proxy.engine.protocol import (
    RefusedError,
    SampledRequest,
    check_stops,
    decode_body,
    refuse_asked,
)
from proxy.engine.scheduler import Output
from proxy.engine.wire import DONE, error_body, event

DEFAULT_TOKENS = 16  # OpenAI's, of this API alone

Tokens = list[Annotated[int, Meta(ge=0)]]


class CompletionRequest(SampledRequest, kw_only=True):
    """The body of POST /v1/completions; fields that are not named here change nothing and are ignored."""

    PROMPT_FIELD: ClassVar[str] = "prompt"

    prompt_given: Any = msgspec.field(name="prompt")  # text or tokens, alone or as a list of one
    best_of: int | None = None
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = None

    @property
    def answer_tokens(self) -> int:
        return self.max_tokens or DEFAULT_TOKENS

    def prompt(self, tokenizer: ChatTokenizer) -> tuple[int, ...]:
        """Return the tokens of the prompt.

        Raises:
            RefusedError: there is not exactly one, or it holds tokens that the model does not know.
        """
        given = _one_prompt(self.prompt_given)
        tokens = tokenizer.encode(given) if isinstance(given, str) else given
        unknown = next((token for token in tokens if token >= len(tokenizer.table)), None)
        if unknown is not None:
            message = f"prompt holds the token {unknown}; this model knows 0 to {len(tokenizer.table) - 1}"
            raise RefusedError(400, message, "prompt", "invalid_value")
        return tuple(tokens)


def _one_prompt(given: Any) -> str | Tokens:
    if isinstance(given, list) and given and type(given[0]) is not int:
        if len(given) > 1:
            message = f"prompt holds {len(given)} prompts; the bundled engine takes one a request"
            raise RefusedError(400, message, "prompt", "unsupported_parameter")
        given = given[0]
    for kind in (str, Tokens):
        with contextlib.suppress(msgspec.ValidationError):
            if read := msgspec.convert(given, kind, strict=True):
                return read
    raise RefusedError(400, "prompt is neither a text nor a list of tokens, or it is empty", "prompt", "invalid_value")


_decoder = msgspec.json.Decoder(CompletionRequest)


def parse_completion(body: bytes) -> CompletionRequest:
    """Return the request in `body`.

    Raises:
        RefusedError: it is not valid, or asks for something that the engine does not do.
    """
    request = decode_body(_decoder, body)
    refuse_asked(request, {
        "n": request.n not in (None, 1),
        "best_of": request.best_of not in (None, 1),
        "suffix": bool(request.suffix),
        "echo": bool(request.echo),
        "logprobs": request.logprobs is not None,
        "logit_bias": bool(request.logit_bias),
        "frequency_penalty": bool(request.frequency_penalty),
        "presence_penalty": bool(request.presence_penalty),
    })  # fmt: skip
    check_stops(request.stops)
    return request


class CompletionTeller:
    """One text; a stream of pieces of it, its reason, usage and timings last."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def whole(self, text: str, last: Output) -> dict[str, Any]:
        return self._object(text, last.finish) | {"usage": usage(self._job, last), "timings": timings(last)}

    def begin(self) -> bytes:
        return b""

    def piece(self, text: str) -> bytes:
        return event(self._chunk(text))

    def end(self, last: Output) -> bytes:
        """Tell the reason, the usage where it was asked for, and the timings on whichever object is the last."""
        times, finished = {"timings": timings(last)}, self._chunk("", last.finish)
        if not self._job.asked.wants_usage:
            return event(finished | times) + DONE
        used = head(self._job, "text_completion", []) | {"usage": usage(self._job, last)}
        return event(finished) + event(used | times) + DONE

    def broken(self, refusal: RefusedError) -> bytes:
        return event(error_body(refusal)) + DONE

    def _chunk(self, text: str, finish: str | None = None) -> dict[str, Any]:
        chunk = self._object(text, finish)
        return chunk | {"usage": None} if self._job.asked.wants_usage else chunk

    def _object(self, text: str, finish: str | None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return head(self._job, "text_completion", [choice])


COMPLETIONS = Api(parse_completion, CompletionTeller, "cmpl-")
