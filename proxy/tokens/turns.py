"""A request's conversation as turns, in any of the APIs: who speaks, which turns are one step, and where text stands.

A tool's call and its results are one step and are never parted; a step belongs to the exchange that it stands in. What
is not of a known kind makes the history one that is left as it is.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from proxy.tokens.count import TURN_TOKENS, measure_value

_TEXT_TYPES = frozenset(("text", "input_text", "output_text"))
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

Edit = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Shape:
    """Where one API has its conversation, what else of it is input, and how it names the limit of the answer."""

    turns: str
    head: tuple[str, ...]  # fields that are input beside the turns
    limits: tuple[str, ...]
    kind: Callable[[Mapping[str, Any]], str] | None  # of a turn; None: there are no turns, only prompts


@dataclass(slots=True)
class Turn:
    """One turn as it was sent."""

    kind: str  # system | user | assistant | call | result | thought | other
    value: Any
    tokens: int = 0
    words: list[bytes] = field(default_factory=list[bytes])


@dataclass(eq=False, slots=True)
class Unit:
    """Turns that go or stay together: what two people said to each other, or one step with tools inside of it."""

    turns: list[int] = field(default_factory=list[int])
    head: Unit | None = None  # of a step: the exchange without which it means nothing


def turns_of(shape: Shape, fields: Mapping[str, Any]) -> list[Turn]:
    """Return the turns of a request; prompts are texts of the user, and may be lists of tokens."""
    given: Any = fields.get(shape.turns)
    values = cast("list[Any]", given) if isinstance(given, list) else [given]
    if values and isinstance(values[0], int):
        return [Turn("other", values, len(values))]
    return [_turn(shape, value) for value in values]


def _turn(shape: Shape, value: Any) -> Turn:
    if isinstance(value, list):
        return Turn("other", value, len(cast("list[Any]", value)))
    kind = shape.kind(cast("dict[str, Any]", value)) if shape.kind and isinstance(value, dict) else "user"
    tokens, words = measure_value(value)
    return Turn(kind, value, tokens + TURN_TOKENS, words)


def units_of(turns: list[Turn]) -> list[Unit] | None:
    """Return what of a conversation goes or stays together, oldest first; None where some of it is of no known kind.

    System turns are in none of them, since they always stay.
    """
    if any(turn.kind == "other" for turn in turns):
        return None
    groups = _Groups()
    for index, turn in enumerate(turns):
        groups.add(index, turn)
    return groups.closed()


class _Groups:
    """Files one turn after the other."""

    def __init__(self) -> None:
        self._units: list[Unit] = []
        self._head = Unit()
        self._step: Unit | None = None  # the last step of this exchange
        self._owners: dict[str, Unit] = {}  # id of a call -> its step
        self._thoughts: list[int] = []  # reasoning belongs to what follows it
        self._before = ""  # kind of the turn before

    def add(self, index: int, turn: Turn) -> None:
        if turn.kind == "system":
            return
        if turn.kind == "thought":
            self._thoughts.append(index)
            return
        unit = self._unit_of(turn)
        unit.turns += [*self._thoughts, index]
        self._thoughts = []
        self._before = turn.kind

    def _unit_of(self, turn: Turn) -> Unit:
        if turn.kind == "call":
            return self._step_of(turn.value)
        if turn.kind == "result":
            known = [self._owners[name] for name in _ids(turn.value) if name in self._owners]
            return known[0] if known else self._step or self._begun()
        if turn.kind == "user":
            self._head, self._step = Unit(), None
        return self._begun()

    def _begun(self) -> Unit:
        if self._head not in self._units:
            self._units.append(self._head)
        return self._head

    def _step_of(self, value: Any) -> Unit:
        """Return the step of a call; calls in a row are made at once, and their results come together."""
        if self._step is None or self._before != "call":
            self._step = Unit(head=self._begun())
            self._units.append(self._step)
        self._owners |= dict.fromkeys(_ids(value), self._step)
        return self._step

    def closed(self) -> list[Unit]:
        if self._thoughts:
            self._begun().turns += self._thoughts
        return self._units


def _ids(value: Any) -> list[str]:
    """Return the ids of the calls that a turn makes or answers."""
    if not isinstance(value, dict):
        return []
    turn = cast("dict[str, Any]", value)
    found = [turn.get("tool_call_id"), turn.get("call_id")]
    for one in _parts(turn.get("tool_calls")):
        found.append(one.get("id"))
    for one in _parts(turn.get("content")):
        found.append(one.get("tool_use_id") or (one.get("id") if one.get("type") == "tool_use" else None))
    return [name for name in found if isinstance(name, str)]


def _parts(value: object) -> list[dict[str, Any]]:
    return [one for one in cast("list[Any]", value) if isinstance(one, dict)] if isinstance(value, list) else []


def edited(value: Any, edit: Edit) -> Any:
    """Return a turn, or a text, with `edit` done to what was written in it; the same object where nothing changes."""
    if isinstance(value, str):
        new = edit(value)
        return value if new == value else new
    if isinstance(value, list):
        parts = [_edited_part(part, edit) for part in cast("list[Any]", value)]
        return value if all(new is old for new, old in zip(parts, value, strict=True)) else parts
    if not isinstance(value, dict) or "content" not in value:
        return value
    turn = cast("dict[str, Any]", value)
    content = edited(turn["content"], edit) if isinstance(turn["content"], str | list) else turn["content"]
    return turn if content is turn["content"] else {**turn, "content": content}


def _edited_part(part: Any, edit: Edit) -> Any:
    if isinstance(part, str):
        return edited(part, edit)
    if not isinstance(part, dict) or str(part.get("type")) not in _TEXT_TYPES or not isinstance(part.get("text"), str):
        return part
    text = edited(part["text"], edit)
    return part if text is part["text"] else {**part, "text": text}


def _chat_kind(turn: Mapping[str, Any]) -> str:
    role = turn.get("role")
    if role == "assistant" and (turn.get("tool_calls") or turn.get("function_call")):
        return "call"
    return "result" if role in ("tool", "function") else _ROLES.get(str(role), "other")


def _message_kind(turn: Mapping[str, Any]) -> str:
    types = [part.get("type") for part in _parts(turn.get("content"))]  # of whatever kind; a set takes words alone
    if "tool_use" in types:
        return "call"
    return "result" if "tool_result" in types else _ROLES.get(str(turn.get("role")), "other")


def _item_kind(item: Mapping[str, Any]) -> str:
    kinds = {
        "function_call": "call", "custom_tool_call": "call", "function_call_output": "result",
        "custom_tool_call_output": "result", "reasoning": "thought",
    }  # fmt: skip
    kind = item.get("type")
    return _ROLES.get(str(item.get("role")), "other") if kind in (None, "message") else kinds.get(str(kind), "other")


SHAPES: Mapping[str, Shape] = {
    "chat/completions": Shape("messages", ("tools", "functions"), ("max_completion_tokens", "max_tokens"), _chat_kind),
    "completions": Shape("prompt", ("suffix",), ("max_tokens",), None),
    "responses": Shape("input", ("instructions", "tools"), ("max_output_tokens",), _item_kind),
    "messages": Shape("messages", ("system", "tools"), ("max_tokens",), _message_kind),
}
