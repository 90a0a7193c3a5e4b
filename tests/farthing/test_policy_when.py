"""farthing/policy/when.py: a condition holds only where it yields true, and is asked only where the match holds."""
from __future__ import annotations

from datetime import date

import pytest
from pydantic import ValidationError

from farthing.policy import CompiledDocument, Document, Facts, Policy, decide
from farthing.policy.when import compiled

TODAY = date(2026, 3, 1)
ASKED = Facts("acme", team="search", user="ann", model="gpt-4o", tags={"tier": "batch"})


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("team == 'search'", True),
        ("!(team in ['search', 'growth'])", False),
        ("'tier' in tags && tags['tier'] == 'batch'", True),
        ("model.startsWith('gpt-') || user == 'bob'", True),
        ("feature == ''", True),
        ("tags['none'] == 'batch'", False),
        ("!(tags['none'] == 'batch')", False),
    ],
)
def test_a_condition_holds_where_it_yields_true(text: str, holds: bool) -> None:
    assert compiled(text)(ASKED) is holds


def test_an_evaluation_that_fails_does_not_hold_and_is_counted() -> None:
    condition = compiled("tags['nobody-has-it'] != 'x'")
    assert condition(ASKED) is False
    assert condition.errors == 1 and "nobody-has-it" in condition.last_error


def test_a_condition_made_to_run_long_is_cut_off() -> None:
    ten = "[1,2,3,4,5,6,7,8,9,10]"
    text = "".join(f"{ten}.all({name}, " for name in "abcde") + "a + b + c + d + e > 0" + ")" * 5
    condition = compiled(text)
    assert condition(ASKED) is False and "budget" in condition.last_error


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("team ==", "not a CEL condition: 1:8: Syntax error"),
        ("teem == 'a'", "undeclared reference to 'teem'"),
        ("team", "yields STRING; a condition yields true or false"),
        ("tags.tier > 5", "no matching overload"),
        ("x" * 2001, "at most 2000"),
    ],
)
def test_what_is_no_condition_is_refused_with_the_document(text: str, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        policy("a", when=text)


def policy(name: str, **fields: object) -> Policy:
    given = {"match": {"team": "search"}, "action": {"route": {"to": name}}, **fields}
    return Policy.model_validate({"name": name, **given})


def test_a_condition_decides_beside_the_match_and_makes_it_more_specific() -> None:
    picky = policy("picky", when="tags['tier'] == 'batch'")
    both = CompiledDocument(Document(version=1, policies=(policy("plain"), picky)))
    assert decide(both, ASKED, TODAY).acted == ("picky",)
    assert decide(both, Facts("acme", team="search", tags={"tier": "live"}), TODAY).acted == ("plain",)


def test_a_condition_is_not_asked_where_the_match_does_not_hold() -> None:
    text = "tags['asked-for-nothing'] == 'x'"
    document = CompiledDocument(Document(version=1, policies=(policy("a", when=text),)))
    assert decide(document, Facts("acme", team="growth"), TODAY).acted == ()
    assert compiled(text).errors == 0
    decide(document, ASKED, TODAY)
    assert compiled(text).errors == 1


def test_a_document_with_a_condition_travels() -> None:
    document = Document(version=1, policies=(policy("a", when="user != ''"),))
    assert Document.from_json(document.to_json()) == document
