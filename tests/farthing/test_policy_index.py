"""farthing/policy/index.py: the index finds exactly what a walk over every rule would find."""
from __future__ import annotations

import fnmatch
import time
from datetime import date

from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.policy import Budget, CompiledDocument, Document, Facts, Match, Policy, decide
from farthing.policy.index import FIELDS, Globs

VALUES = ["", "a", "b", "ab", "gpt-4o", "gpt-4[x]"]
PATTERNS = ["a", "b", "ab", "a*", "*", "?b", "gpt-4*", "gpt-4[x]", "gpt-?o"]
patterns = st.lists(st.sampled_from(PATTERNS), max_size=2).map(tuple)
some_patterns = st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2).map(tuple)
matches = st.builds(
    Match,
    **dict.fromkeys(FIELDS, patterns),
    tags=st.dictionaries(st.sampled_from(["t", "u"]), some_patterns, max_size=2),
)
facts = st.builds(
    Facts,
    **dict.fromkeys(FIELDS, st.sampled_from(VALUES)),
    tags=st.dictionaries(st.sampled_from(["t", "u", "v"]), st.sampled_from(VALUES), max_size=3),
)


def fits(names: tuple[str, ...], value: str) -> bool:
    return not names or (value != "" and any(fnmatch.fnmatchcase(value, n.replace("[", "[[]")) for n in names))


def fits_all(match: Match, asked: Facts) -> bool:
    by_field = all(fits(getattr(match, name), getattr(asked, name)) for name in FIELDS)
    return by_field and all(fits(values, asked.tags.get(name, "")) for name, values in match.tags.items())


@settings(max_examples=200, deadline=None)
@given(st.lists(matches, min_size=1, max_size=12), st.lists(facts, min_size=1, max_size=4))
def test_the_index_finds_what_a_walk_over_all_scopes_finds(scopes: list[Match], asked: list[Facts]) -> None:
    budgets = tuple(Budget(name=f"b{n}", scope=scope, limit_nusd=1) for n, scope in enumerate(scopes))
    compiled = CompiledDocument(Document(version=1, budgets=budgets))
    for one in asked * 2:  # the second time from memory
        walked = sorted((b for b in budgets if fits_all(b.scope, one)), key=lambda budget: budget.name)
        assert list(compiled.budgets(one)) == walked


def test_an_absent_fact_fits_no_pattern() -> None:
    assert "" not in Globs(["*"])
    assert "a" in Globs(["*"])


def test_a_bracket_in_a_name_is_a_bracket() -> None:
    assert "opus[1m]" in Globs(["opus[1m]", "x*"])
    assert "opus[1m]" in Globs(["opus[*"])
    assert "opus1" not in Globs(["opus[1m]*"])


def test_a_pattern_made_to_backtrack_answers_at_once() -> None:
    started = time.perf_counter()
    assert "a" * 5000 not in Globs(["*a" * 60 + "*b"])
    assert time.perf_counter() - started < 60  # a backtracking matcher takes longer than anybody lives


def test_values_that_clients_make_up_do_not_grow_the_memory_without_bound() -> None:
    policy = Policy.model_validate({"name": "p", "match": {"user": "u*"}, "action": {"cache": {}}})
    compiled = CompiledDocument(Document(version=1, policies=(policy,)))
    for n in range(10_000):
        decide(compiled, Facts("t", user=f"u{n}"), date(2026, 1, 1))
    (_, drawer), = compiled.caches._fields  # pyright: ignore[reportPrivateUsage]
    assert len(drawer._known) <= 4096  # pyright: ignore[reportPrivateUsage]
    assert not compiled.caches._everyone  # pyright: ignore[reportPrivateUsage]
