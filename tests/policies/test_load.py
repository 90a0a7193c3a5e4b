"""policies/load.py: what a policy file may say, and how exactly it is told what it may not."""
from __future__ import annotations

import time
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.errors import DocumentError
from farthing.policy import KINDS
from policies.load import Objects, load

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples" / "policies"

POLICY = """\
# why this is here
apiVersion: farthing/v1
kind: Policy
metadata: {name: batch, owner: search-team}
match: {team: [search], model: "gpt-4*", tags: {tier: batch}}
action: {route: {to: small}}
mode: shadow
priority: 3
expires: 2027-03-31
"""
BUDGET = """\
apiVersion: farthing/v1
kind: Budget
metadata: {name: search-monthly}
scope: {team: search}
limit: 5000.50 USD
window: {calendar: week, tz: Europe/London}
hard: false
on_ledger_away: allow
"""


def problems(text: str) -> list[str]:
    with pytest.raises(DocumentError) as refused:
        load(text, "f.yaml")
    return str(refused.value).split("\n")


def only_problem(text: str) -> str:
    found = problems(text)
    assert len(found) == 1, found
    return found[0]


def test_a_policy_and_a_budget_are_read_with_all_their_fields() -> None:
    read = load(POLICY + "---\n" + BUDGET)
    (policy,), (budget,) = read.policies, read.budgets
    assert (policy.name, policy.owner, policy.mode, policy.priority) == ("batch", "search-team", "shadow", 3)
    assert (policy.match.model, policy.match.tags) == (("gpt-4*",), {"tier": ("batch",)})
    assert (policy.expires, policy.action.route and policy.action.route.to) == (date(2027, 3, 31), "small")
    assert (budget.name, budget.limit_nusd, budget.hard) == ("search-monthly", 5_000_500_000_000, False)
    assert (budget.window.calendar, budget.window.tz, budget.on_ledger_away) == ("week", "Europe/London", "allow")


def test_each_object_keeps_its_own_text_with_its_comments() -> None:
    read = load(f"{POLICY}---\n# a budget\n{BUDGET}")
    assert read.sources["Policy", "batch"] == POLICY
    assert read.sources["Budget", "search-monthly"] == f"---\n# a budget\n{BUDGET}"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_loads(path: Path) -> None:
    assert isinstance(load(path.read_text("utf-8"), path.name), Objects)


def test_an_unknown_key_is_named_with_line_value_and_the_nearest_known_one() -> None:
    assert only_problem(POLICY.replace("tags:", "tgas:")) == (
        "f.yaml: document 1 (Policy batch), line 5: match.tgas = {'tier': 'batch'}: unknown key; "
        "allowed: tenant, team, user, model, feature, key, tags (did you mean tags?)"
    )


def test_lines_count_through_the_whole_text() -> None:
    assert ", line 15: limit = 'lots': allowed: an amount" in only_problem(
        f"{POLICY}---\n{BUDGET.replace('5000.50 USD', 'lots')}"
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("farthing/v1", "farthing/v2", "line 2: apiVersion = 'farthing/v2': allowed: farthing/v1"),
        ("Policy", "Polic", f"line 3: kind = 'Polic': allowed: {', '.join(KINDS)} (did you mean Policy?)"),
        ("name: batch", "name: Batch", "metadata.name = 'Batch': allowed: a-z, 0-9 and -"),
        ("name: batch, ", "", "line 4: metadata.name: is missing"),
        ("owner:", "ownr:", "metadata.ownr = 'search-team': unknown key; allowed: name, owner (did you mean owner?)"),
        ("[search]", "no", "match.team = False: allowed: text, or a list of texts; put it in quotes"),
        ("[search]", "[search, 5]", "match.team.1 = 5: allowed: text"),
        ("route: {to: small}", "fly: {}", "action.fly = {}: unknown key; allowed: route, cache"),
        ("route: {to: small}", "{to: small}", "the key in brackets is not text"),
        ("shadow", "canry", "line 7: mode = 'canry': allowed: 'shadow', 'canary' or 'enforce'"),
        ("priority: 3", "priority: high", "line 8: priority = 'high': allowed: a valid integer"),
        ("2027-03-31", "2027-02-30", "line 9: expires: '2027-02-30' cannot be read"),
        ("priority: 3", "mode: enforce", "line 8: mode: the key is there twice, first in line 7; keep one"),
        ("priority: 3", "3: 4", "line 8: the document: the key '3' is not text"),
        ("match:", "spec:", "spec = {'team'"),
        ("[search]", "!!python/object:os.system [x]", "match.team"),
    ],
)
def test_one_thing_wrong_is_told_where_it_stands(old: str, new: str, expected: str) -> None:
    if "!!python" in new:
        assert load(POLICY.replace(old, new)).policies[0].match.team == ("x",)  # a tag of YAML makes nothing
        return
    found = problems(POLICY.replace(old, new, 1))
    assert any(expected in problem for problem in found), found


AMOUNTS = ["5000", "5000 EUR", "-1 USD", "1e3 USD", "5,000 USD", "0.0000000001 USD", "2000000000 USD", "[]", "١ USD"]


@pytest.mark.parametrize("limit", AMOUNTS)
def test_a_limit_names_an_amount_of_dollars(limit: str) -> None:
    assert ": limit = " in only_problem(BUDGET.replace("5000.50 USD", limit))


def test_all_problems_of_all_documents_are_listed_at_once() -> None:
    bad = BUDGET.replace("hard", "hrad").replace("Europe/London", "Europe/Lodon")
    found = problems(f"{POLICY.replace('shadow', 'x')}---\n{bad}---\nnothing\n")
    assert [problem.split(":")[1].split(",")[0].strip() for problem in found] == [
        "document 1 (Policy batch)",
        "document 2 (Budget search-monthly)",
        "document 2 (Budget search-monthly)",
        "document 3",
    ]


def test_two_policies_that_nothing_but_the_name_decides_between_are_refused() -> None:
    twin = POLICY.replace("name: batch", "name: twin").replace("[search]", "search").replace("small", "other")
    assert "Policy batch and Policy twin: both route the same requests at priority 3" in only_problem(
        f"{POLICY}---\n{twin}"
    )
    assert len(load(f"{POLICY}---\n{twin.replace('priority: 3', 'priority: 4')}").policies) == 2
    assert len(load(f"{POLICY}---\n{twin.replace('route: {to: other}', 'cache: {}')}").policies) == 2


def test_one_name_is_used_once_for_each_kind() -> None:
    assert "document 2 (Policy batch), line 14: metadata.name = 'batch': already used in line 4" in problems(
        f"{POLICY}---\n{POLICY}"
    )[0]


@pytest.mark.parametrize("text", ["", "# only a comment\n---\n...\n"])
def test_a_text_without_documents_is_refused(text: str) -> None:
    assert "holds no document" in only_problem(text)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOMB, "values once its aliases are followed"),
        ("---\n".join([BOMB[: BOMB.index("f: ")]] * 100), "values once its aliases are followed"),
        ("a: &a [*a]", "nested deeper than 16 levels once its aliases are followed"),
        ("[" * 200_000, "nested deeper than 16 levels"),
        ("a: " * 10_000, "not valid YAML"),
        ("x: \0", "not valid YAML"),
        ("x: \udc80", "not valid YAML"),
        ("x" * (1024 * 1024 + 1), "longer than 1048576 bytes"),
        ("k: 1\n" * 100_000, "and 99"),
        (POLICY + "".join(f"k{n}: 1\n" for n in range(80_000)), "more"),
    ],
    ids=["bomb", "many bombs", "loop", "deep", "colons", "nul", "surrogate", "long", "duplicates", "many keys"],
)
def test_a_text_made_to_hurt_is_refused_in_little_time(text: str, expected: str) -> None:
    started = time.thread_time()
    assert any(expected in problem for problem in problems(text))
    assert time.thread_time() - started < 60  # what follows every alias takes longer than anybody lives


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="abk:[]{}&*!|>-#'\"\n \t%@`,?x0.", max_size=120))
def test_no_text_at_all_raises_anything_but_a_document_error(text: str) -> None:
    with pytest.raises(DocumentError):
        load(text)
