"""Answers one chat completion: as one JSON object, or as a stream of events.

A client that goes away cancels its request; the engine then frees its slot at the next step.
"""
from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from farthing.semconv import HEADER_REQUEST_ID
from farthing.serving import Receive, Scope, Send
from proxy.engine.ended import Ended
from proxy.engine.fleet import Fleet, Served
from proxy.engine.protocol import ChatRequest, RefusedError, parse_chat
from proxy.engine.scheduler import Output, Request
from proxy.engine.text import TextStream
from proxy.engine.wire import end_events, error_body, read_body, send_event, send_json, start_events

MAX_WAITING = 1024  # requests queued per model; more are refused, as they would only time out
LARGE_BODY = 64 * 1024  # bytes; tokenizing more would hold up the event loop


@dataclass(frozen=True)
class Job:
    """One completion under way."""

    request_id: str
    created: int  # Unix seconds
    chat: ChatRequest
    prompt_tokens: int
    served: Served
    outputs: asyncio.Queue[Output]
    ended: Ended
    caller_id: str  # the caller's own name for the request, or empty

    def body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """Return an answer object of `kind`."""
        head = {"id": self.request_id, "object": kind, "created": self.created, "model": self.chat.model}
        return head | {"choices": choices}

    def usage(self, last: Output) -> dict[str, Any]:
        """Return OpenAI's usage object."""
        cached = last.timings.cached_tokens if last.timings else 0
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": last.completion_tokens,
            "total_tokens": self.prompt_tokens + last.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


async def answer_chat(fleet: Fleet, ended: Ended, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve POST /v1/chat/completions.

    Raises:
        RefusedError: the request is refused, and nothing was sent.
        DisconnectedError: the client went away before its request was complete.
    """
    body = await read_body(receive, fleet.settings.max_request_bytes)
    chat = parse_chat(body)
    served = find_model(fleet, chat.model)
    if len(body) > LARGE_BODY:
        prompt = await asyncio.to_thread(served.chat.prompt, chat.chat())
    else:
        prompt = served.chat.prompt(chat.chat())
    caller_id = dict(scope["headers"]).get(HEADER_REQUEST_ID.encode(), b"").decode("latin-1")
    job = submit(fleet, served, chat, prompt, (ended, caller_id))
    watch = asyncio.create_task(_cancel_when_gone(job, receive))
    try:
        await (_stream(job, send) if chat.stream else _whole(job, send))
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
    fleet: Fleet, served: Served, chat: ChatRequest, prompt: tuple[int, ...], told: tuple[Ended, str]
) -> Job:
    """Queue the completion of `prompt`; `told` is whom to tell its end, under which id.

    Raises:
        RefusedError: the prompt is too long, or too many requests wait.
    """
    scheduler = served.worker.scheduler
    if len(prompt) >= scheduler.max_tokens:
        message = f"the prompt has {len(prompt)} tokens; this engine takes {scheduler.max_tokens - 1} at most"
        raise RefusedError(400, message, "messages", "context_length_exceeded")
    if scheduler.waiting >= MAX_WAITING:
        raise RefusedError(429, f"{scheduler.waiting} requests wait already; slow down", code="engine_overloaded")
    loop = asyncio.get_running_loop()
    outputs: asyncio.Queue[Output] = asyncio.Queue()

    def deliver(output: Output) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server is gone, and so is the client
            loop.call_soon_threadsafe(outputs.put_nowait, output)

    request = Request(
        request_id=f"chatcmpl-{uuid.uuid4().hex}",
        prompt=prompt,
        text=TextStream(served.chat.table, chat.stops),
        on_output=deliver,
        max_tokens=chat.answer_tokens or fleet.settings.max_output_tokens,
        sampling=chat.sampling(),
        stop_tokens=frozenset() if chat.ignore_eos else served.chat.stop_tokens,
    )
    served.worker.submit(request)
    return Job(request.request_id, int(time.time()), chat, len(prompt), served, outputs, *told)


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
    usage = job.usage(last) if began else {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    return job.body("chat.completion", []) | {"usage": usage, "timings": timings(last)}


async def _whole(job: Job, send: Send) -> None:
    parts: list[str] = []
    last = Output("", 0)
    async for last in _outputs(job):
        parts.append(last.text)
    if last.finish == "cancelled":
        return  # nobody listens
    if last.finish == "error":
        raise RefusedError(500, last.error, code="engine_error")
    message = {"role": "assistant", "content": "".join(parts)}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": last.finish}
    body = job.body("chat.completion", [choice])
    await send_json(send, 200, body | {"usage": job.usage(last), "timings": timings(last)})


async def _stream(job: Job, send: Send) -> None:
    is_started = False
    async for output in _outputs(job):
        if output.finish == "cancelled":
            return
        if output.finish == "error" and not is_started:
            raise RefusedError(500, output.error, code="engine_error")
        if not is_started:
            is_started = True
            await start_events(send)
            await send_event(send, _chunk(job, {"role": "assistant", "content": ""}))
        if output.text:
            await send_event(send, _chunk(job, {"content": output.text}))
        if output.finish:
            await _send_tail(job, output, send)


async def _send_tail(job: Job, last: Output, send: Send) -> None:
    """Send the reason, the usage where it was asked for, and the timings on whichever object is the last."""
    if last.finish == "error":
        await send_event(send, error_body(RefusedError(500, last.error, code="engine_error")))
        return await end_events(send)
    times = {"timings": timings(last)}
    if job.chat.wants_usage:
        await send_event(send, _chunk(job, {}, last.finish))
        await send_event(send, job.body("chat.completion.chunk", []) | {"usage": job.usage(last)} | times)
    else:
        await send_event(send, _chunk(job, {}, last.finish) | times)
    await end_events(send)


def _chunk(job: Job, delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = job.body("chat.completion.chunk", [choice])
    return chunk | {"usage": None} if job.chat.wants_usage else chunk


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
