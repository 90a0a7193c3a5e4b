"""farthing/policy/document.py: what a document accepts, and what stays the same when it travels."""
from __future__ import annotations

from datetime import date

import pytest
from pydantic import ValidationError

from farthing.errors import DocumentError
from farthing.policy import EMPTY, Action, Budget, CacheAction, Document, Match, Policy, RouteAction, Window

ROUTE = Policy(name="a", match=Match(team=("search",)), action=Action(route=RouteAction(to="small")))
CACHE = Policy(name="b", action=Action(cache=CacheAction()), expires=date(2027, 3, 31))
BUDGET = Budget(name="m", limit_nusd=5, window=Window(tz="Europe/London"))


def test_a_document_comes_back_from_json_as_it_was() -> None:
    document = Document(version=7, policies=(ROUTE, CACHE), budgets=(BUDGET,))
    assert Document.from_json(document.to_json()) == document


def test_the_checksum_ignores_version_and_order_and_sees_content() -> None:
    one = Document(version=1, policies=(ROUTE, CACHE))
    assert one.checksum == Document(version=2, policies=(CACHE, ROUTE)).checksum
    assert one.checksum != Document(version=1, policies=(ROUTE,)).checksum
    assert len(one.checksum) == 64


def test_a_single_name_is_a_list_of_one() -> None:
    assert Match.model_validate({"team": "search", "tags": {"tier": "batch"}}) == Match(
        team=("search",), tags={"tier": ("batch",)}
    )


@pytest.mark.parametrize(
    "action", [{}, {"route": {"to": "x"}, "cache": {}}, {"route": {"to": ""}}, {"route": {"to": "gpt-*"}}, {"fly": {}}]
)
def test_an_action_is_exactly_one_known_thing(action: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Action.model_validate(action)


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "a" * 64, "a\n"])
def test_names_are_short_and_plain(name: str) -> None:
    with pytest.raises(ValidationError):
        Budget(name=name, limit_nusd=1)


@pytest.mark.parametrize("tz", ["Europe/Lodon", "../etc/passwd", "", "/etc/localtime", "x\0"])
def test_a_window_has_a_time_zone_that_exists(tz: str) -> None:
    with pytest.raises(ValidationError, match="not a time zone"):
        Window(tz=tz)


@pytest.mark.parametrize("ttl_s", [0, -1, float("inf"), float("nan")])
def test_a_cache_entry_lives_for_some_finite_time(ttl_s: float) -> None:
    with pytest.raises(ValidationError):
        CacheAction(ttl_s=ttl_s)


@pytest.mark.parametrize("spec", [
    {"exact": False, "embeddings": False}, {"max_bytes": 0}, {"coalesce": "maybe"}, {"semantics": {}}
])  # fmt: skip
def test_a_cache_that_would_do_nothing_or_something_unknown_is_refused(spec: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CacheAction.model_validate(spec)


@pytest.mark.parametrize("spec", [
    {"max_inputs": 0}, {"max_inputs": 2049}, {"max_inputs": 2, "min_inputs": 3}, {"window_ms": 1001}, {"concurrent": 0},
])  # fmt: skip
def test_a_micro_batch_stays_within_what_upstreams_take(spec: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Action.model_validate({"micro_batch": spec})


def test_two_objects_of_one_kind_may_not_share_a_name() -> None:
    with pytest.raises(ValidationError, match="'a' is there more than once"):
        Document(version=1, policies=(ROUTE, ROUTE))


def test_a_document_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        EMPTY.version = 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'{"version":-1}', b'{"version":1,"extra":2}', b"\xff"])
def test_bytes_that_are_no_document_are_refused(body: bytes) -> None:
    with pytest.raises(DocumentError, match="keep the document in use"):
        Document.from_json(body)
