"""POST /v1/embeddings: OpenAI's shape in and out; what the encoder cannot do is refused by name, never cut silently."""
from __future__ import annotations

import asyncio
import base64
import contextlib
from array import array
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from farthing.errors import EngineError
from farthing.serving import Receive, Scope, Send
from proxy.engine.embedder import Embedded, EmbedRequest
from proxy.engine.fleet import Fleet, ServedEncoder
from proxy.engine.protocol import RefusedError, decode_body
from proxy.engine.wire import read_body, send_json

MAX_INPUTS = 2048  # OpenAI's limit
MAX_WAITING_TOKENS = 262_144  # about half a minute of one core; more are refused, as they would only time out
LARGE_BODY = 16 * 1024  # bytes; tokenizing more would hold up the event loop

Tokens = list[Annotated[int, Meta(ge=0)]]
Row = tuple[int, ...]


class EmbeddingRequest(Struct):
    """The body of POST /v1/embeddings; `user` and other fields that change nothing are ignored."""

    model: str
    input: Any  # str | list[str] | list[int] | list[list[int]]; msgspec takes no such union, `inputs` reads it
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None

    def inputs(self) -> list[str] | list[Tokens]:
        """Return the inputs, one an entry.

        Raises:
            RefusedError: they are of no allowed kind, empty or too many.
        """
        found = self.input
        if isinstance(found, str) or (isinstance(found, list) and found and type(found[0]) is int):
            found = [found]
        for kind in (list[str], list[Tokens]):
            with contextlib.suppress(msgspec.ValidationError):
                return _checked(msgspec.convert(found, kind, strict=True))
        message = "input is neither a string, a list of strings, a list of tokens, nor a list of such lists"
        raise RefusedError(400, message, "input", "invalid_value")


def _checked(inputs: Any) -> Any:
    if not 0 < len(inputs) <= MAX_INPUTS:
        message = f"input has {len(inputs)} entries; allowed are 1 to {MAX_INPUTS}"
        raise RefusedError(400, message, "input", "invalid_value")
    empty = next((i for i, one in enumerate(inputs) if not one), None)
    if empty is not None:
        raise RefusedError(400, f"input[{empty}] is empty; leave it out", "input", "invalid_value")
    return inputs


_decoder = msgspec.json.Decoder(EmbeddingRequest)


async def answer_embeddings(fleet: Fleet, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve POST /v1/embeddings.

    Raises:
        RefusedError: the request is refused, and nothing was sent.
        DisconnectedError: the client went away before its request was complete.
    """
    body = await read_body(receive, fleet.settings.max_request_bytes)
    asked = decode_body(_decoder, body)
    served = find_encoder(fleet, asked.model)
    _check_dimensions(asked, served)
    if len(body) > LARGE_BODY:
        rows = await asyncio.to_thread(tokenize, served, asked.inputs())
    else:
        rows = tokenize(served, asked.inputs())
    found = await _embed(served, rows, receive)
    if found is None:
        return  # nobody listens
    if found.error:
        raise RefusedError(500, found.error, code="engine_error")
    await send_json(send, 200, _body(asked, rows, found))


def find_encoder(fleet: Fleet, model: str) -> ServedEncoder:
    """Return the encoder that serves `model`.

    Raises:
        RefusedError: no deployment of an encoder has that name, or it is not loaded.
    """
    served = next((encoder for encoder in fleet.encoders if model in encoder.names), None)
    if served is not None:
        return served
    if model in fleet.encoder_names:
        message = fleet.error or f"the engine is {fleet.state}; ask again in a moment"
        raise RefusedError(503, message, code=f"engine_{fleet.state}")
    names = ", ".join(fleet.encoder_names) or "none"
    if model in fleet.names:
        message = f"the model {model!r} does not embed; those that do: {names}"
        raise RefusedError(400, message, "model", "invalid_value")
    message = f"the model {model!r} is not served here; those that embed: {names}"
    raise RefusedError(404, message, "model", "model_not_found")


def tokenize(served: ServedEncoder, inputs: list[str] | list[Tokens]) -> list[Row]:
    """Return the token rows of `inputs`.

    Raises:
        RefusedError: one is too long, or holds a token that does not exist.
    """
    rows: list[Row] = []
    most = served.embedder.encoder.shape.max_tokens
    for i, one in enumerate(inputs):
        try:
            row = served.tokenizer.encode(one) if isinstance(one, str) else served.tokenizer.frame(one)
        except EngineError as error:
            raise RefusedError(400, f"input[{i}]: {error}", "input", "invalid_value") from None
        if len(row) > most:
            message = f"input[{i}] has {len(row)} tokens; this model takes {most} at most, so cut it into pieces"
            raise RefusedError(400, message, "input", "context_length_exceeded")
        rows.append(row)
    return rows


def _check_dimensions(asked: EmbeddingRequest, served: ServedEncoder) -> None:
    size = served.embedder.encoder.shape.hidden
    if asked.dimensions not in (None, size):
        message = f"dimensions={asked.dimensions}: {asked.model} has {size} and cannot be cut; leave it out"
        raise RefusedError(400, message, "dimensions", "unsupported_parameter")


async def _embed(served: ServedEncoder, rows: list[Row], receive: Receive) -> Embedded | None:
    """Return what came of `rows`, or None where the client went away first."""
    embedder = served.embedder
    if embedder.waiting_tokens > MAX_WAITING_TOKENS:
        message = f"{embedder.waiting_tokens} tokens wait already; slow down"
        raise RefusedError(429, message, code="engine_overloaded")
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Embedded] = loop.create_future()
    request = EmbedRequest(rows, _deliver_to(loop, done))
    embedder.submit(request)
    gone = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait((done, gone), return_when=asyncio.FIRST_COMPLETED)
        return done.result() if done.done() else None
    finally:
        gone.cancel()
        embedder.cancel(request)  # no-op where it is over


def _deliver_to(loop: asyncio.AbstractEventLoop, done: asyncio.Future[Embedded]) -> Callable[[Embedded], None]:
    def settle(found: Embedded) -> None:
        if not done.done():
            done.set_result(found)

    def deliver(found: Embedded) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server is gone, and so is the client
            loop.call_soon_threadsafe(settle, found)

    return deliver


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _body(asked: EmbeddingRequest, rows: list[Row], found: Embedded) -> dict[str, Any]:
    is_text = asked.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": i, "embedding": base64.b64encode(one).decode() if is_text else _floats(one)}
        for i, one in enumerate(found.vectors)
    ]
    tokens = sum(len(row) for row in rows)
    return {
        "object": "list",
        "data": data,
        "model": asked.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "timings": {"queue_s": found.queue_ns / 1e9, "engine_s": found.engine_ns / 1e9},
    }


def _floats(vector: bytes) -> list[float]:
    """Return the numbers of a vector; the machines that run this are little-endian, as is the format."""
    return array("f", vector).tolist()
