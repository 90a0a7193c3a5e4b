"""policies/check.py: several files are checked as the one apply that they will be."""
from __future__ import annotations

import pytest

from farthing.errors import DocumentError
from policies.check import check


def policy(name: str, model: str, to: str = "small", priority: int = 0) -> str:
    head = f"apiVersion: farthing/v1\nkind: Policy\nmetadata: {{name: {name}}}\npriority: {priority}\n"
    return f"{head}match: {{model: {model}}}\naction: {{route: {{to: {to}}}}}\n"


def test_good_files_are_counted_and_what_never_acts_is_told() -> None:
    checked = check([("a.yaml", policy("wide", '"gpt-*"', priority=1)), ("b.yaml", policy("late", "gpt-5"))])
    assert checked.counts == {"Policy": 2}
    assert checked.warnings == ["Policy late never acts: Policy wide goes before it and matches all that it matches"]


def test_the_problems_of_all_files_are_told_with_their_files() -> None:
    texts = [("a.yaml", policy("a", "gpt-5", to='"*"')), ("b.yaml", "nothing"), ("c.yaml", policy("a", "gpt-4"))]
    with pytest.raises(DocumentError) as refused:
        check([*texts, ("d.yaml", policy("a", "gpt-4"))])
    lines = str(refused.value).split("\n")
    assert [line.split(":")[0] for line in lines] == ["a.yaml", "b.yaml", "d.yaml"]
    assert lines[-1] == "d.yaml: Policy a: already in c.yaml; names are unique"


def test_policies_of_two_files_that_conflict_are_refused() -> None:
    with pytest.raises(DocumentError, match="Policy a and Policy b: both route the same requests"):
        check([("a.yaml", policy("a", "gpt-5")), ("b.yaml", policy("b", "gpt-5", to="other"))])


def test_names_that_lead_nowhere_are_told() -> None:
    head = "apiVersion: farthing/v1\nkind: Alert\nmetadata: {name: %s}\nto: [ops]\nwhen: %s\n"
    rails = "verify: {guardrails: [{metric: slo, slo: quick, max_increase: 0}]}\n"
    texts = [("a.yaml", head % ("burns", "{slo: {name: quick}}")), ("c.yaml", policy("cheap", "gpt-5") + rails)]
    texts.append(("b.yaml", head % ("used", "{budget_used: {budget: b}}")))
    texts.append(("d.yaml", "apiVersion: farthing/v1\nkind: Slo\nmetadata: {name: slow}\nerrors: {share: 0.9}\n"))
    assert check(texts).warnings == [
        "Alert burns names the Slo 'quick', which is not there; there are: slow",
        "Alert used names the Budget 'b', which is not there; there are: none",
        "Policy cheap names the Slo 'quick', which is not there; there are: slow",
    ]


def test_two_defaults_for_the_same_calls_are_refused() -> None:
    route = "apiVersion: farthing/v1\nkind: Route\nmetadata: {name: %s}\nmatch: {model: gpt-5}\nto: %s\n"
    with pytest.raises(DocumentError, match="Route a and Route b: both route the same requests where no Policy acts"):
        check([("a.yaml", route % ("a", "small")), ("b.yaml", route % ("b", "large"))])
