"""What one policy makes of one request: worked out from the fields alone, so that shadow and enforcement agree."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from farthing.policy.tokens import HistoryRule, TokensAction
from proxy.tokens.compress import squeezed, without
from proxy.tokens.count import measure_value
from proxy.tokens.cut import Cut
from proxy.tokens.history import kept_turns
from proxy.tokens.passages import Passages
from proxy.tokens.turns import Edit, Shape, Turn, edited, turns_of

_WRITTEN = frozenset(("system", "user", "assistant"))  # kinds of turns whose text may be shortened
_MIN_BUDGET = 1


@dataclass(slots=True)
class Plan:
    """A request's turns as they are to be sent, and what was left out."""

    cut: Cut
    turns: list[Turn] = field(default_factory=list[Turn])  # all of them, edited
    kept: list[int] | None = None  # indices of those that are sent; None = all
    edited: set[int] = field(default_factory=set[int])  # indices of those that are not as they came
    head: dict[str, Any] = field(default_factory=dict[str, Any])  # fields beside the turns that were edited
    limits: dict[str, int] = field(default_factory=dict[str, int])  # fields that name too high a limit -> the limit
    is_limit_missing: bool = False  # the request names none, and the policy sets one

    @property
    def left_out(self) -> list[Turn]:
        kept = set(self.kept or ())
        return [turn for index, turn in enumerate(self.turns) if index not in kept] if self.kept is not None else []


def plan(shape: Shape, fields: Mapping[str, Any], action: TokensAction) -> Plan:
    """Return what `action` makes of a request with these fields."""
    made = Plan(Cut())
    if action.max_output:
        _limit_output(made, shape, fields, action.max_output)
    if action.max_input or action.history or action.compress or action.retrieval:
        _limit_input(made, shape, fields, action)
    return made


def _limit_output(made: Plan, shape: Shape, fields: Mapping[str, Any], most: int) -> None:
    named = {name: fields[name] for name in shape.limits if fields.get(name)}
    made.limits = {name: most for name, value in named.items() if value > most}
    made.is_limit_missing = not named
    made.cut.max_output = most if made.limits or made.is_limit_missing else 0


def _limit_input(made: Plan, shape: Shape, fields: Mapping[str, Any], action: TokensAction) -> None:
    made.turns = turns_of(shape, fields)
    head = {name: measure_value(fields[name]).tokens for name in shape.head if fields.get(name)}
    made.cut.before = sum(head.values()) + _tokens(made.turns)
    _edit(made, shape, fields, head, action)
    _choose(made, shape, sum(head.values()), action)
    kept = made.turns if made.kept is None else [made.turns[index] for index in made.kept]
    made.cut.after = sum(head.values()) + _tokens(kept)
    made.cut.add("history", _tokens(made.turns) - _tokens(kept))
    made.cut.turns = len(made.turns) - len(kept)
    made.cut.is_refused = bool(action.max_input) and made.cut.after > (action.max_input or 0)


def _tokens(turns: Sequence[Turn]) -> int:
    return sum([turn.tokens for turn in turns])


def _edits(action: TokensAction) -> list[tuple[str, Edit]]:
    edits: list[tuple[str, Edit]] = []
    if action.retrieval:
        edits.append(("retrieval", Passages(action.retrieval).cap))
    if action.compress and action.compress.phrases:
        phrases = action.compress.phrases
        edits.append(("phrases", lambda text: without(text, phrases)))
    if action.compress and action.compress.whitespace:
        edits.append(("whitespace", squeezed))
    return edits


def _edit(
    made: Plan, shape: Shape, fields: Mapping[str, Any], head: dict[str, int], action: TokensAction
) -> None:
    """Shorten the texts, the newest first: what was retrieved last is what is asked about."""
    edits = _edits(action)
    if not edits:
        return
    for index in range(len(made.turns) - 1, -1, -1):
        turn = made.turns[index]
        if turn.kind in _WRITTEN and _edit_turn(turn, edits, made.cut):
            made.edited.add(index)
    for name in ("system", "instructions"):
        if name in head:
            value = Turn("system", fields[name], head[name])
            if _edit_turn(value, edits, made.cut):
                made.head[name], head[name] = value.value, value.tokens


def _edit_turn(turn: Turn, edits: Sequence[tuple[str, Edit]], cut: Cut) -> bool:
    came = turn.value
    for kind, edit in edits:
        new = edited(turn.value, edit)
        if new is not turn.value:
            tokens, words = measure_value(new)
            was = measure_value(turn.value).tokens
            cut.add(kind, was - tokens)
            turn.value, turn.tokens, turn.words = new, turn.tokens - was + tokens, words
    return turn.value is not came


def _choose(made: Plan, shape: Shape, head: int, action: TokensAction) -> None:
    """Choose the turns that are sent."""
    rule, budgets = action.history, [action.history.max_tokens] if action.history else []
    if action.max_input and action.on_long_input == "trim":
        budgets.append(action.max_input - head)
    if not budgets or shape.kind is None:
        return
    spared = rule.summary.max_tokens if rule and rule.summary else 0
    if _tokens(made.turns) <= min(budgets):
        return
    weight = (rule or HistoryRule(max_tokens=_MIN_BUDGET)).relevance
    made.kept = kept_turns(made.turns, max(_MIN_BUDGET, min(budgets) - spared), weight)
