"""POST /v1/chat/completions as the engine tells it."""
from __future__ import annotations

from typing import Any

from proxy.engine.generation import Api, Job, head, timings, usage
from proxy.engine.protocol import RefusedError, parse_chat
from proxy.engine.scheduler import Output
from proxy.engine.wire import DONE, error_body, event


class ChatTeller:
    """One message; a stream says its role first, and its reason, usage and timings last."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def whole(self, text: str, last: Output) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": last.finish}
        body = head(self._job, "chat.completion", [choice])
        return body | {"usage": usage(self._job, last), "timings": timings(last)}

    def begin(self) -> bytes:
        return event(self._chunk({"role": "assistant", "content": ""}))

    def piece(self, text: str) -> bytes:
        return event(self._chunk({"content": text}))

    def end(self, last: Output) -> bytes:
        """Tell the reason, the usage where it was asked for, and the timings on whichever object is the last."""
        times, finished = {"timings": timings(last)}, self._chunk({}, last.finish)
        if not self._job.asked.wants_usage:
            return event(finished | times) + DONE
        used = head(self._job, "chat.completion.chunk", []) | {"usage": usage(self._job, last)}
        return event(finished) + event(used | times) + DONE

    def broken(self, refusal: RefusedError) -> bytes:
        return event(error_body(refusal)) + DONE

    def _chunk(self, delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk = head(self._job, "chat.completion.chunk", [choice])
        return chunk | {"usage": None} if self._job.asked.wants_usage else chunk


CHAT = Api(parse_chat, ChatTeller, "chatcmpl-")
