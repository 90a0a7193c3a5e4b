"""A document compiled for deciding: each rule is filed under its most selective field, so a request meets few rules.

`find` of an index costs one dict lookup per column in use plus the rules filed under the request's own values; rules
lie in order of rank, so a reader may stop at the first that wins. Patterns are compiled once; which of them fit a value
is remembered (bounded), because a deployment sees few distinct models and teams.
"""
from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from datetime import date
from operator import attrgetter
from typing import Any, Generic, TypeVar

from farthing.policy.crossed import stages
from farthing.policy.document import Document
from farthing.policy.facts import Facts
from farthing.policy.holdout import Trial
from farthing.policy.kinds.budget import Budget
from farthing.policy.kinds.limit import Limit
from farthing.policy.kinds.policy import Policy
from farthing.policy.match import Match, is_glob
from farthing.policy.when import When, compiled

FIELDS = ("tenant", "team", "user", "model", "feature", "key")
MAX_REMEMBERED = 4096  # values of one column whose rules are remembered
MAX_NAME = 256  # characters of a value worth remembering; a client may send any

Item = TypeVar("Item", Policy, Budget, Limit)
Column = str  # a field's name, or "tag:" and the name of a tag


class Globs:
    """Names and patterns that a value may fit; an absent value (empty text) fits none."""

    __slots__ = ("_exact", "_patterns")

    def __init__(self, patterns: Iterable[str]) -> None:
        names = tuple(patterns)
        self._exact = frozenset(name for name in names if not is_glob(name))
        self._patterns = tuple(_compile(name) for name in names if is_glob(name))

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, str) or not value:
            return False
        return value in self._exact or any(fits(value) for fits in self._patterns)


def _compile(pattern: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(fnmatch.translate(pattern.replace("[", "[[]"))).match


class Rule(Generic[Item]):
    """One policy or budget with the tests that are left once its own column has fitted."""

    __slots__ = ("column", "columns", "is_shadow", "item", "last_day", "rank", "tag_tests", "tests", "trial", "when")

    def __init__(self, item: Item, match: Match, rank: int) -> None:
        self.item = item
        self.rank = rank  # 0 wins over 1
        self.columns = columns_of(match)
        self.column: Column = ""
        self.tests: tuple[tuple[Callable[[Facts], str], Container[str]], ...] = ()
        self.tag_tests: tuple[tuple[str, Container[str]], ...] = ()
        self.last_day = date.max  # last day on which it acts
        self.is_shadow = False
        self.when: When | None = None
        self.trial: Trial | None = None  # decides whether it acts on a request that it fits

    def file_under(self, column: Column) -> None:
        """Make `column` the one this rule is found by; the others stay as tests."""
        self.column = column
        rest = [(name, _container(patterns)) for name, patterns in self.columns.items() if name != column]
        self.tests = tuple((attrgetter(name), fits) for name, fits in rest if not name.startswith("tag:"))
        self.tag_tests = tuple((name[4:], fits) for name, fits in rest if name.startswith("tag:"))

    def fits(self, facts: Facts) -> bool:
        """Tell whether the tests that are left fit `facts`."""
        for value_of, names in self.tests:
            if value_of(facts) not in names:
                return False
        for name, values in self.tag_tests:
            if facts.tags.get(name, "") not in values:
                return False
        return self.when is None or self.when(facts)


def columns_of(match: Match) -> dict[Column, tuple[str, ...]]:
    """Return the names and patterns of the fields that a match uses."""
    columns: dict[Column, tuple[str, ...]] = {name: getattr(match, name) for name in FIELDS if getattr(match, name)}
    return columns | {f"tag:{name}": values for name, values in match.tags.items()}


def matches(match: Match, facts: Facts) -> bool:
    """Tell whether a structured match holds, for one match by itself; an index answers it for many."""
    values = {name: getattr(facts, name) for name in FIELDS} | {f"tag:{name}": v for name, v in facts.tags.items()}
    return all(values.get(column, "") in Globs(patterns) for column, patterns in columns_of(match).items())


def _container(patterns: Sequence[str]) -> Container[str]:
    return Globs(patterns) if any(is_glob(name) for name in patterns) else frozenset(patterns)


class Drawer(Generic[Item]):
    """The rules filed under one column: by exact name, and those with a pattern to try."""

    __slots__ = ("_exact", "_globs", "_known")

    def __init__(self) -> None:
        self._exact: dict[str, list[Rule[Item]]] = {}
        self._globs: list[tuple[Globs, Rule[Item]]] = []
        self._known: dict[str, tuple[Rule[Item], ...]] = {}  # value -> rules, in order of rank

    def add(self, rule: Rule[Item]) -> None:
        patterns = rule.columns[rule.column]
        if any(is_glob(name) for name in patterns):
            self._globs.append((Globs(patterns), rule))
            return
        for name in set(patterns):
            self._exact.setdefault(name, []).append(rule)

    def get(self, value: str) -> tuple[Rule[Item], ...]:
        """Return the rules that `value` leads to, in order of rank."""
        known = self._known.get(value)
        return self._search(value) if known is None else known

    def _search(self, value: str) -> tuple[Rule[Item], ...]:
        rules = self._exact.get(value, []) + [rule for globs, rule in self._globs if value in globs]
        found = tuple(sorted(rules, key=lambda rule: rule.rank))
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        if len(value) <= MAX_NAME:
            self._known[value] = found
        return found


class Index(Generic[Item]):
    """Rules by the values that lead to them."""

    __slots__ = ("_everyone", "_fields", "_tags")

    def __init__(self, rules: Sequence[Rule[Item]]) -> None:
        self._everyone = tuple(rule for rule in rules if not rule.columns)
        drawers: dict[Column, Drawer[Item]] = {}
        crowd = _crowd(rules)
        for rule in rules:
            if rule.columns:
                rule.file_under(min(rule.columns, key=lambda column: _selectivity(rule, column, crowd)))
                drawers.setdefault(rule.column, Drawer()).add(rule)
        self._fields = tuple((attrgetter(name), drawers[name]) for name in FIELDS if name in drawers)
        self._tags = {name[4:]: drawer for name, drawer in drawers.items() if name.startswith("tag:")}

    def find(self, facts: Facts) -> Iterator[tuple[Rule[Item], ...]]:
        """Yield groups of rules that may fit, each in order of rank; `Rule.fits` has the last word."""
        if self._everyone:
            yield self._everyone
        for value_of, drawer in self._fields:
            value = value_of(facts)
            if value and (rules := drawer.get(value)):
                yield rules
        if self._tags and facts.tags:
            yield from self._find_by_tags(facts)

    def _find_by_tags(self, facts: Facts) -> Iterator[tuple[Rule[Item], ...]]:
        for name, value in facts.tags.items():
            drawer = self._tags.get(name)
            if drawer is not None and value and (rules := drawer.get(value)):
                yield rules


def _crowd(rules: Iterable[Rule[Item]]) -> Counter[tuple[Column, str]]:
    return Counter((column, name) for rule in rules for column, names in rule.columns.items() for name in names)


def _selectivity(rule: Rule[Item], column: Column, crowd: Counter[tuple[Column, str]]) -> tuple[bool, int, str]:
    names = rule.columns[column]
    return any(is_glob(name) for name in names), sum(crowd[column, name] for name in names), column


class CompiledDocument:
    """A document ready for deciding; made once per version and swapped in by one assignment."""

    __slots__ = (
        "_budgets", "caches", "concurrency", "decided", "document", "is_by_name", "micro_batches", "priorities",
        "routes", "stages", "token_policies", "tokens", "version",
    )  # fmt: skip

    def __init__(self, document: Document) -> None:
        self.document = document
        self.decided: dict[tuple[object, ...], Any] = {}  # what `decide` remembers
        self.version = document.version
        ranked = [_policy_rule(policy, rank) for rank, policy in enumerate(sorted(document.rules, key=precedence))]
        self.is_by_name = not any(rule.when or rule.trial for rule in ranked)
        self.routes = Index([rule for rule in ranked if rule.item.action.route])
        self.caches = Index([rule for rule in ranked if rule.item.action.cache])
        self.tokens = Index([rule for rule in ranked if rule.item.action.tokens])
        self.token_policies = {policy.name: policy for policy in document.policies if policy.action.tokens}
        gathering = [rule for rule in ranked if rule.item.action.micro_batch]
        self.micro_batches = Index(gathering) if gathering else None
        self.concurrency = Index([rule for rule in ranked if rule.item.action.concurrency])
        priorities = [rule for rule in ranked if rule.item.action.priority]
        self.priorities = Index(priorities) if priorities else None
        ordered = sorted(document.budgets, key=lambda budget: budget.name)
        self.stages = stages(document.budgets, document.crossed)
        self._budgets = Index([Rule(budget, budget.scope, rank) for rank, budget in enumerate(ordered)])

    def budgets(self, facts: Facts) -> tuple[Budget, ...]:
        """Return every budget whose scope holds `facts`, in order of name."""
        found = [rule for rules in self._budgets.find(facts) for rule in rules if rule.fits(facts)]
        if len(found) > 1:
            found.sort(key=lambda rule: rule.rank)
        return tuple([rule.item for rule in found])


def _policy_rule(policy: Policy, rank: int) -> Rule[Policy]:
    rule = Rule(policy, policy.match, rank)
    rule.last_day = policy.expires or date.max
    rule.when = compiled(policy.when) if policy.when else None
    rule.trial = policy.trial()
    rule.is_shadow = policy.mode == "shadow"
    return rule


def precedence(policy: Policy) -> tuple[int, int, int, str]:
    """Order policies: the higher priority, then more fields (`when` is one), then more of them exact, then the name."""
    columns = columns_of(policy.match)
    exact = sum(not any(is_glob(name) for name in names) for names in columns.values())
    return -policy.priority, -len(columns) - bool(policy.when), -exact, policy.name
