"""What a token policy would have left of a stored call, whose text nobody kept.

The limits of input, history and output are held against the call's own tokens. What compressing and capping retrieved
passages would cut is known where the same policy ran in shadow, which wrote that down; else it is not predicted.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from farthing.policy import Policy
from farthing.policy.tokens import TokensAction
from farthing.prices import Usage

KINDS = ("input_uncached", "cache_read_tokens", "cache_write_tokens")  # disjoint; cut in this order


@dataclass(frozen=True)
class Left:
    """A call's tokens, after a policy."""

    usage: Usage
    is_cut: bool = False
    is_refused: bool = False


def usage(row: Mapping[str, Any]) -> Usage:
    """Return the tokens of a call as they were."""
    fresh, read, written = (int(row[kind]) for kind in KINDS)
    return Usage(fresh, read, written, int(row["output_tokens"]))


def left(row: Mapping[str, Any], policy: Policy | None, was_in_shadow: bool) -> Left:
    """Return what is left of a call's tokens; `was_in_shadow` says that its figures of a shadow are this policy's."""
    was = usage(row)
    action = policy.action.tokens if policy is not None else None
    if action is None or not row["has_usage"]:
        return Left(was)
    most = was.input if action.max_input is None else action.max_input
    if was.input > most and action.on_long_input == "refuse":
        return Left(was, is_refused=True)
    target = _recorded(row, was.input) if was_in_shadow else None
    kept = min(target if target is not None else _history(action, was.input), most)
    output = was.output_total if action.max_output is None else min(was.output_total, action.max_output)
    if kept == was.input and output == was.output_total:
        return Left(was)
    return Left(_with(was, was.input - kept, output), is_cut=True)


def is_predicted(action: TokensAction) -> bool:
    """Tell whether all that a policy cuts can be told from the numbers of tokens alone."""
    return action.compress is None and action.retrieval is None


def _history(action: TokensAction, tokens: int) -> int:
    return tokens if action.history is None else min(tokens, action.history.max_tokens)


def _recorded(row: Mapping[str, Any], tokens: int) -> int | None:
    """Return the input as a policy in shadow found that it would be; None where it wrote nothing down."""
    before, after = (row["tokens_cut"].get(f"shadow.{name}") for name in ("before", "after"))
    return round(tokens * after / before) if before and after is not None else None


def _with(was: Usage, cut: int, output: int) -> Usage:
    parts: list[int] = []
    for tokens in was[: len(KINDS)]:
        taken = min(tokens, cut)
        cut -= taken
        parts.append(tokens - taken)
    return Usage(parts[0], parts[1], parts[2], output)
