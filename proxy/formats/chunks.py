"""What OpenAI's chat and legacy completions share: how usage is reported, whole or in a stream of chunks."""
from __future__ import annotations

import re
from typing import Any

import msgspec

from farthing import tariff
from farthing.prices import Usage
from proxy.formats.format import Told
from proxy.stream import EventRelay, Tokens, data_of, events_of, tier_of

_USAGE = re.compile(rb'"usage":\s*\{')
_REASON = b'"finish_reason":'
_NULL = (b"null", b" null")
_FINISH = re.compile(rb'"finish_reason":\s*"([a-z_]+)"')
_ID = re.compile(rb'"id":\s*"([^"]{1,200})"')
_DONE = re.compile(rb"^data:\s*\[DONE\]", re.MULTILINE)
_FAILED = re.compile(rb'^data:\s*\{\s*"error":\s*[^n\s]', re.MULTILINE)


class _CachedDetails(msgspec.Struct):
    audio_tokens: Tokens = None


class _Details(msgspec.Struct):
    cached_tokens: Tokens = None
    cached_tokens_details: _CachedDetails | None = None
    cache_write_tokens: Tokens = None
    audio_tokens: Tokens = None
    reasoning_tokens: Tokens = None


_NO_DETAILS = _Details()


class Reported(msgspec.Struct):
    """Usage as the API reports it."""

    prompt_tokens: Tokens = None
    completion_tokens: Tokens = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None

    def usage(self) -> Usage | None:
        """Return the tokens, None where the input is not told; an answer may have no output."""
        if self.prompt_tokens is None:
            return None
        if self.prompt_tokens_details is None and self.completion_tokens_details is None:
            return Usage(self.prompt_tokens, output=self.completion_tokens or 0)
        sent = self.prompt_tokens_details or _NO_DETAILS
        came = self.completion_tokens_details or _NO_DETAILS
        cached_details = sent.cached_tokens_details
        return tariff.Reported(
            input=self.prompt_tokens,
            output=self.completion_tokens or 0,
            cached=sent.cached_tokens or 0,
            written=sent.cache_write_tokens or 0,
            audio=sent.audio_tokens or 0,
            cached_audio=(cached_details.audio_tokens or 0) if cached_details else 0,
            output_audio=came.audio_tokens or 0,
        ).usage()

    @property
    def reasoning(self) -> int:
        return self.completion_tokens_details.reasoning_tokens or 0 if self.completion_tokens_details else 0


class Timings(msgspec.Struct):
    """What the bundled engine says of a request, seconds."""

    queue_s: float = 0.0
    engine_s: float = 0.0


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    id: str | None = None
    choices: list[_Choice] | None = None
    usage: Reported | None = None
    timings: Timings | None = None
    service_tier: Any = None
    error: Any = None

    def told(self) -> Told:
        return Told(
            id=self.id or "",
            usage=self.usage.usage() if self.usage else None,
            reasoning=self.usage.reasoning if self.usage else 0,
            service_tier=tier_of(self.service_tier),
            finish_reason=(self.choices[0].finish_reason or "") if self.choices else "",
            is_complete=bool(self.choices) and bool(self.choices[0].finish_reason),
            is_error=self.error is not None,
            engine_s=self.timings.engine_s if self.timings else None,
            engine_queue_s=self.timings.queue_s if self.timings else None,
        )


_decode = msgspec.json.Decoder(_Answer).decode


def read_answer(body: bytes) -> Told | None:
    """Return what a JSON answer says of itself, None where it is not an answer."""
    answer = _read(body)
    return answer.told() if answer else None


def _read(body: bytes) -> _Answer | None:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class ChunkRelay(EventRelay):
    """A stream of chunks, the last of them perhaps with usage, closed by [DONE]."""

    def __init__(self, hide_usage: bool, content: bytes) -> None:
        super().__init__()
        self._hide_usage = hide_usage  # the client had not asked for the usage event
        self._content = content  # what an event with content holds

    def _noticed(self, whole: bytes) -> bytes:
        self.events += whole.count(self._content)
        if not self.response_id and (found := _ID.search(whole)):
            self.response_id = found.group(1).decode("utf-8", "replace")
        if _tells_reason(whole) and (found := _FINISH.search(whole)):
            self.finish_reason = found.group(1).decode()
        self.is_done = self.is_done or (b"[DONE]" in whole and _DONE.search(whole) is not None)
        self.has_failed = self.has_failed or (b'"error"' in whole and _FAILED.search(whole) is not None)
        return self._without_usage(whole) if b'"usage"' in whole and _USAGE.search(whole) else whole

    def _without_usage(self, whole: bytes) -> bytes:
        return b"".join([event for event in events_of(whole) if not self._is_hidden(event)])

    def _is_hidden(self, event: bytes) -> bool:
        return _USAGE.search(event) is not None and self._is_usage_event(event) and self._hide_usage

    def _is_usage_event(self, event: bytes) -> bool:
        """Read an event that reports usage; True where it carries nothing else."""
        answer = _read(data_of(event))
        if answer is None or answer.usage is None:
            return False
        told = answer.told()
        self.usage, self.reasoning, self.is_usage_last = told.usage, told.reasoning, not answer.choices
        self.service_tier = told.service_tier
        self.response_id = told.id or self.response_id
        self.engine_s, self.engine_queue_s = told.engine_s, told.engine_queue_s
        return not answer.choices


def _tells_reason(whole: bytes) -> bool:
    """Tell whether why it ended may be told: nearly every event says null, which is quicker seen than searched."""
    at = whole.find(_REASON)
    return at >= 0 and (not whole.startswith(_NULL, at + len(_REASON)) or whole.find(_REASON, at + 1) >= 0)
