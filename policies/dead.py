"""Which policies can never act: expired, or covered whole by one that always goes before them.

Only what can be proved from the text is told: a condition (`when`) may always fail, so it neither covers nor is judged.
"""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import date

from farthing.policy import Action, Policy
from farthing.policy.defaults import title
from farthing.policy.index import Globs, columns_of, precedence
from farthing.policy.match import is_glob

Columns = Mapping[str, tuple[str, ...]]


def dead(policies: Iterable[Policy], today: date) -> list[str]:
    """Return one line for each policy that cannot act, by name."""
    found: dict[str, str] = {}
    alive: list[Policy] = []
    for policy in sorted(policies, key=precedence):
        if policy.expires is not None and policy.expires < today:
            found[title(policy)] = f"expired on {policy.expires}; remove it"
        else:
            alive.append(policy)
    for verb in Action.model_fields:
        found |= _covered([policy for policy in alive if getattr(policy.action, verb)])
    return [f"{name} never acts: {why}" for name, why in sorted(found.items())]


def _covered(ordered: list[Policy]) -> dict[str, str]:
    """Return what is hidden by an earlier policy of the same verb; `ordered` begins with the one that goes first."""
    hiders = _Hiders()
    found: dict[str, str] = {}
    for policy in ordered:
        columns = columns_of(policy.match)
        over = next((one for one in hiders.near(columns) if _hides(one, policy, columns)), None)
        if over is not None:
            found[title(policy)] = f"{title(over)} goes before it and matches all that it matches"
        elif policy.mode == "enforce" and policy.trial() is None and not policy.when:
            hiders.add(policy)
    return found


class _Hiders:
    """Enforced policies, filed so that a policy meets only those that may cover it."""

    def __init__(self) -> None:
        self._everyone: list[Policy] = []
        self._exact: defaultdict[tuple[str, str], list[Policy]] = defaultdict(list)
        self._globs: defaultdict[tuple[str, str], list[Policy]] = defaultdict(list)  # by what stands before the glob

    def add(self, policy: Policy) -> None:
        columns = columns_of(policy.match)
        if not columns:
            self._everyone.append(policy)
            return
        column, names = min(columns.items(), key=lambda item: (any(map(is_glob, item[1])), len(item[1])))
        for name in names:
            where = self._globs if is_glob(name) else self._exact
            where[column, _head(name)].append(policy)

    def near(self, columns: Columns) -> Iterator[Policy]:
        yield from self._everyone
        for column, names in columns.items():
            for name in names[:1]:  # whoever covers all names covers the first
                yield from self._exact.get((column, name), ())
                for end in range(len(_head(name)) + 1):
                    yield from self._globs.get((column, name[:end]), ())


def _head(name: str) -> str:
    """Return what stands before the first wildcard."""
    return name[: min((place for place in map(name.find, "*?") if place >= 0), default=len(name))]


def _hides(one: Policy, other: Policy, columns: Columns) -> bool:
    lasts = one.expires is None or (other.expires is not None and other.expires <= one.expires)
    return lasts and all(
        name in columns and _covers(patterns, columns[name]) for name, patterns in columns_of(one.match).items()
    )


def _covers(wide: tuple[str, ...], narrow: tuple[str, ...]) -> bool:
    """Tell whether whatever fits `narrow` fits `wide`; a pattern is covered by itself or by `*` alone."""
    globs = Globs(wide)
    return "*" in wide or all(name in wide or (not is_glob(name) and name in globs) for name in narrow)
