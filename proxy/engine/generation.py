"""Answers one request for text, in whichever API it came: whole, or as a stream of events.

A client that goes away cancels its request; the engine then frees its slot at the next step.
"""
from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from farthing.semconv import HEADER_REQUEST_ID
from farthing.serving import Receive, Scope, Send
from proxy.engine.chat import ChatTokenizer
from proxy.engine.ended import Ended
from proxy.engine.fleet import Fleet, Served
from proxy.engine.protocol import RefusedError
from proxy.engine.sample import Sampling
from proxy.engine.scheduler import Output, Request
from proxy.engine.text import TextStream
from proxy.engine.wire import end_stream, read_body, send_json, send_part, start_events

MAX_WAITING = 1024  # requests queued per model; more are refused, as they would only time out
LARGE_BODY = 64 * 1024  # bytes; tokenizing more would hold up the event loop


class Asked(Protocol):
    """A request that was read and checked."""

    PROMPT_FIELD: ClassVar[str]  # what holds the prompt, for refusals

    @property
    def model(self) -> str: ...
    @property
    def stream(self) -> bool | None: ...
    @property
    def ignore_eos(self) -> bool | None: ...
    @property
    def stops(self) -> list[str]: ...
    @property
    def answer_tokens(self) -> int | None: ...
    def sampling(self) -> Sampling: ...
    def prompt(self, tokenizer: ChatTokenizer) -> tuple[int, ...]: ...


class Teller(Protocol):
    """Tells one answer in the words of an API; events come as bytes, several at once where that is due."""

    def whole(self, text: str, last: Output) -> dict[str, Any]: ...
    def begin(self) -> bytes: ...
    def piece(self, text: str) -> bytes: ...
    def end(self, last: Output) -> bytes: ...
    def broken(self, refusal: RefusedError) -> bytes: ...


@dataclass(frozen=True)
class Job:
    """One answer under way."""

    request_id: str
    created: int  # Unix seconds
    asked: Any  # the request of its API; an Asked
    prompt_tokens: int
    served: Served
    outputs: asyncio.Queue[Output]
    ended: Ended
    caller_id: str  # the caller's own name for the request, or empty


@dataclass(frozen=True)
class Api:
    """How one API is read and told."""

    parse: Callable[[bytes], Asked]
    teller: Callable[[Job], Teller]
    prefix: str  # of the ids of its answers


async def answer(fleet: Fleet, ended: Ended, api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one POST.

    Raises:
        RefusedError: the request is refused, and nothing was sent.
        DisconnectedError: the client went away before its request was complete.
    """
    body = await read_body(receive, fleet.settings.max_request_bytes)
    asked = api.parse(body)
    served = find_model(fleet, asked.model)
    if len(body) > LARGE_BODY:
        prompt = await asyncio.to_thread(asked.prompt, served.chat)
    else:
        prompt = asked.prompt(served.chat)
    caller_id = dict(scope["headers"]).get(HEADER_REQUEST_ID.encode(), b"").decode("latin-1")
    job = submit(fleet, served, asked, prompt, (api.prefix + uuid.uuid4().hex, ended, caller_id))
    watch = asyncio.create_task(_cancel_when_gone(job, receive))
    try:
        await (_stream if asked.stream else _whole)(job, api.teller(job), send)
    finally:
        watch.cancel()
        served.worker.cancel(job.request_id)  # no-op where the answer is complete


def find_model(fleet: Fleet, model: str) -> Served:
    """Return the instance that serves `model`.

    Raises:
        RefusedError: no deployment has that name, or it is not loaded.
    """
    served = fleet.find(model)
    if served is not None:
        return served
    if model not in fleet.names:
        raise unknown_model(fleet, model)
    if model in fleet.encoder_names:
        message = f"the model {model!r} embeds and does not write; POST /v1/embeddings asks it"
        raise RefusedError(400, message, "model", "invalid_value")
    message = fleet.error or f"the engine is {fleet.state}; ask again in a moment"
    raise RefusedError(503, message, code=f"engine_{fleet.state}")


def unknown_model(fleet: Fleet, model: str) -> RefusedError:
    """Return the refusal of a name that no deployment has."""
    message = f"the model {model!r} is not served here; served are: {', '.join(fleet.names)}"
    return RefusedError(404, message, "model", "model_not_found")


def submit(
    fleet: Fleet, served: Served, asked: Asked, prompt: tuple[int, ...], told: tuple[str, Ended, str]
) -> Job:
    """Queue the answer to `prompt`; `told` is its id, whom to tell its end, and under which id of the caller's.

    Raises:
        RefusedError: the prompt is too long, or too many requests wait.
    """
    scheduler = served.worker.scheduler
    if len(prompt) >= scheduler.max_tokens:
        message = f"the prompt has {len(prompt)} tokens; this engine takes {scheduler.max_tokens - 1} at most"
        raise RefusedError(400, message, asked.PROMPT_FIELD, "context_length_exceeded")
    if scheduler.waiting >= MAX_WAITING:
        raise RefusedError(429, f"{scheduler.waiting} requests wait already; slow down", code="engine_overloaded")
    loop = asyncio.get_running_loop()
    outputs: asyncio.Queue[Output] = asyncio.Queue()

    def deliver(output: Output) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server is gone, and so is the client
            loop.call_soon_threadsafe(outputs.put_nowait, output)

    request_id, ended, caller_id = told
    request = Request(
        request_id=request_id,
        prompt=prompt,
        text=TextStream(served.chat.table, asked.stops),
        on_output=deliver,
        max_tokens=asked.answer_tokens or fleet.settings.max_output_tokens,
        sampling=asked.sampling(),
        stop_tokens=frozenset() if asked.ignore_eos else served.chat.stop_tokens,
    )
    served.worker.submit(request)
    return Job(request_id, int(time.time()), asked, len(prompt), served, outputs, ended, caller_id)


async def _cancel_when_gone(job: Job, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    job.served.worker.cancel(job.request_id)


async def _outputs(job: Job) -> AsyncIterator[Output]:
    """Yield what the engine sends, up to the last."""
    while True:
        output = await job.outputs.get()
        if output.finish:
            await job.ended.put(job.caller_id, _end_of(job, output))
        yield output
        if output.finish:
            return


def _end_of(job: Job, last: Output) -> dict[str, Any]:
    """Return what the request used; one that ended before its first step used nothing."""
    began = last.timings is not None and last.timings.engine_s > 0
    used = usage(job, last) if began else {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    return head(job, "chat.completion", []) | {"usage": used, "timings": timings(last)}


async def _whole(job: Job, teller: Teller, send: Send) -> None:
    parts: list[str] = []
    last = Output("", 0)
    async for last in _outputs(job):
        parts.append(last.text)
    if last.finish == "cancelled":
        return  # nobody listens
    if last.finish == "error":
        raise RefusedError(500, last.error, code="engine_error")
    await send_json(send, 200, teller.whole("".join(parts), last))


async def _stream(job: Job, teller: Teller, send: Send) -> None:
    is_started = False
    async for output in _outputs(job):
        if output.finish == "cancelled":
            return
        if output.finish == "error" and not is_started:
            raise RefusedError(500, output.error, code="engine_error")
        if not is_started:
            is_started = True
            await start_events(send)
            if first := teller.begin():
                await send_part(send, first)
        if output.text:
            await send_part(send, teller.piece(output.text))
        if output.finish:
            failed = RefusedError(500, output.error, code="engine_error")
            await end_stream(send, teller.broken(failed) if output.finish == "error" else teller.end(output))


def head(job: Job, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an answer object of `kind`, as both of the completions APIs have it."""
    return {
        "id": job.request_id, "object": kind, "created": job.created, "model": job.asked.model, "choices": choices,
    }  # fmt: skip


def usage(job: Job, last: Output) -> dict[str, Any]:
    """Return the usage object of the completions APIs."""
    return {
        "prompt_tokens": job.prompt_tokens,
        "completion_tokens": last.completion_tokens,
        "total_tokens": job.prompt_tokens + last.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": last.timings.cached_tokens if last.timings else 0},
    }


def timings(last: Output) -> dict[str, float]:
    """Return where the request's time went, as the answer tells it."""
    times = last.timings
    if times is None:
        return {}
    return {
        "queue_s": times.queue_s,
        "prefill_s": times.prefill_s,
        "decode_s": times.decode_s,
        "engine_s": times.engine_s,
        "cached_tokens": times.cached_tokens,
    }
