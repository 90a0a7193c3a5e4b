"""What OpenAI's two completion APIs have in common: choices, each of which is told, ends, and is put together again."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from farthing.prices import Usage
from proxy.replay.event import DONE, plain

Choice = dict[str, Any]
_HEAD = ("id", "created", "model", "system_fingerprint", "service_tier")


def told(answer: dict[str, Any], chunk: str, begun: Callable[[Choice], Choice], ends_with: Choice, wants_usage: bool
         ) -> list[bytes]:  # fmt: skip
    """Return a chunk for each choice, one that says why it ended, and the usage where it was asked for.

    Args:
        chunk: what the API calls its chunks.
        begun: returns a choice with all of its text and no end.
        ends_with: the field of the last chunk that would hold a text.
    """
    head, choices = _head_of(answer, chunk), answer["choices"]
    events = [plain(head | {"choices": [begun(choice)]}) for choice in choices]
    events += [plain(head | {"choices": [_ended(choice) | ends_with]}) for choice in choices]
    if wants_usage:
        events.append(plain(head | {"choices": [], "usage": answer["usage"]}))
    return [*events, DONE]


def put_together(events: list[dict[str, Any]], name: str, choices: dict[int, Choice], usage: Usage) -> dict[str, Any]:
    """Return the answer that the API calls `name` of choices that were added up."""
    ordered = [choices[index] for index in sorted(choices)]
    return _head_of(events[0], name) | {"choices": ordered, "usage": _usage_of(events, usage)}


def add_end(made: Choice, choice: Choice) -> None:
    """Add to a choice what a chunk says beside its text: the tokens' probabilities, and why it ended."""
    made["finish_reason"] = choice.get("finish_reason") or made.get("finish_reason")
    chances = choice.get("logprobs")
    if chances and made["logprobs"]:
        for name, values in chances.items():
            made["logprobs"][name] = (made["logprobs"].get(name) or []) + values if values else values
    elif chances:
        made["logprobs"] = dict(chances)


def _head_of(answer: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return what every chunk says as well as the whole answer."""
    return {name: answer[name] for name in _HEAD if name in answer} | {"object": kind}


def _ended(choice: Choice) -> Choice:
    """Return why a choice ended."""
    return {"index": choice["index"], "logprobs": None, "finish_reason": choice["finish_reason"]}


def _usage_of(events: Sequence[dict[str, Any]], usage: Usage) -> dict[str, Any]:
    """Return the usage as the stream told it, else as it was counted: its event may have been hidden."""
    reported = next((event["usage"] for event in reversed(events) if event.get("usage")), None)
    if reported is not None:
        return reported
    counts = {"prompt_tokens": usage.input, "completion_tokens": usage.output_total}
    cached = {"cached_tokens": usage.cache_read + usage.cache_audio}
    return counts | {"total_tokens": usage.input + usage.output_total, "prompt_tokens_details": cached}
