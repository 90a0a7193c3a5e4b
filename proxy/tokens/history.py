"""Which turns of a conversation are kept within a budget: system turns and the last one, then the best of the others.

What is left keeps its order, begins with the user, and holds every tool's call together with its results.
"""
from __future__ import annotations

from collections.abc import Sequence

from proxy.tokens.relevance import relevance
from proxy.tokens.turns import Turn, Unit, units_of

# Parts of importance, which is what a turn has of worth whatever is asked now
_RECENT, _SAID, _BRIEF = 0.6, 0.25, 0.15
_STEP = 0.3  # of what the user said: a tool's call and result, most of which a later answer has taken up
_BRIEF_TOKENS = 200


def kept_turns(turns: Sequence[Turn], budget: int, weight: float) -> list[int] | None:
    """Return the indices of the turns to keep, None where all fit or where nobody can tell what may go.

    `weight` is that of relevance beside importance.
    """
    if sum([turn.tokens for turn in turns]) <= budget:
        return None
    units = units_of(list(turns))
    if units is None or len(units) < 2:
        return None
    kept = _always(units)
    sizes = {unit: sum([turns[index].tokens for index in unit.turns]) for unit in units}
    system = [index for index, turn in enumerate(turns) if turn.kind == "system"]
    left = budget - sum([turns[index].tokens for index in system]) - sum([sizes[unit] for unit in kept])
    others = [unit for unit in units if unit not in kept]
    scores = _scores(turns, units, others, sizes, weight)
    for _, unit in sorted(zip(scores, others, strict=True), key=lambda pair: -pair[0]):
        added = [one for one in (unit.head, unit) if one is not None and one not in kept]
        size = sum([sizes[one] for one in added])
        if size <= left:
            kept += added
            left -= size
    chosen = sorted({*system, *[index for unit in kept for index in unit.turns]})
    return None if len(chosen) == len(turns) else chosen


def _always(units: Sequence[Unit]) -> list[Unit]:
    """Return the last unit, and the exchange that it is a step of."""
    last = max(units, key=lambda unit: max(unit.turns, default=-1))
    return [last] if last.head is None else [last.head, last]


def _scores(
    turns: Sequence[Turn], units: Sequence[Unit], others: Sequence[Unit], sizes: dict[Unit, int], weight: float
) -> list[float]:
    """Return what each unit is worth beside the last turn."""
    asked = [word for unit in _always(units) for index in unit.turns for word in turns[index].words]
    near = relevance([[word for index in unit.turns for word in turns[index].words] for unit in others], asked)
    scores: list[float] = []
    for place, unit in enumerate(others):
        recent = (place + 1) / len(others)
        said = _STEP if unit.head is not None else 1.0
        brief = _BRIEF_TOKENS / (_BRIEF_TOKENS + sizes[unit])
        important = _RECENT * recent + _SAID * said + _BRIEF * brief
        scores.append(weight * near[place] + (1 - weight) * important)
    return scores
