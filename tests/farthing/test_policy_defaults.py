"""farthing/policy/defaults.py and its kinds: Route, Cache and Key become what Policy and Limit are already."""
from __future__ import annotations

from datetime import date, datetime, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from farthing.policy import KINDS, CompiledDocument, Document, Facts, decide
from farthing.policy.kinds.cache import Cache
from farthing.policy.kinds.key import DeclaredKey
from farthing.policy.kinds.policy import Policy
from farthing.policy.kinds.route import Route
from farthing.policy.kinds.slo import Slo

TODAY = date(2026, 3, 1)
SEARCH = Facts("default", team="search", model="chat")


def document(*items: Any) -> Document:
    return Document.of(1, items)


def made(kind: str, **spec: Any) -> Any:
    return KINDS[kind].from_written({"name": "x", **spec})


def test_a_route_document_decides_as_a_policy_of_the_same_fields_does() -> None:
    fields = {"strategy": "weighted", "weights": {"east": 3, "west": 1}, "fallbacks": ["other"]}
    ours = decide(CompiledDocument(document(made("Route", match={"model": "chat"}, **fields))), SEARCH, TODAY)
    policy = Policy.model_validate({"name": "x", "match": {"model": "chat"}, "action": {"route": fields}})
    theirs = decide(CompiledDocument(document(policy)), SEARCH, TODAY)
    assert (ours.route, ours.fallbacks, ours.route_to) == (theirs.route, theirs.fallbacks, theirs.route_to)
    assert ours.acted == ("route/x",) and theirs.acted == ("x",)


def test_a_cache_document_decides_as_a_policy_of_the_same_fields_does() -> None:
    decision = decide(CompiledDocument(document(made("Cache", ttl_s=7, disk=True))), SEARCH, TODAY)
    assert decision.cache is not None and (decision.cache.ttl_s, decision.cache.disk) == (7.0, True)
    assert decision.cache_name == "cache/x"


def test_any_policy_goes_before_a_default_however_wide_it_is() -> None:
    wide = Policy.model_validate({"name": "wide", "action": {"route": {"to": "small"}}, "priority": -1_000_000})
    narrow = made("Route", match={"model": "chat", "team": "search"}, to="large")
    decision = decide(CompiledDocument(document(wide, narrow)), SEARCH, TODAY)
    assert (decision.route_to, decision.acted) == ("small", ("wide",))


def test_of_two_defaults_the_more_specific_goes_first() -> None:
    pool = Route.from_written({"name": "all", "to": "small"})
    mine = Route.from_written({"name": "mine", "match": {"team": "search"}, "to": "large"})
    assert decide(CompiledDocument(document(pool, mine)), SEARCH, TODAY).route_to == "large"


def test_a_declared_key_brings_its_limits_and_they_hold_for_that_key_alone() -> None:
    key = made("Key", limits={"requests_per_minute": 5, "in_flight": 2})
    (limit,) = document(key, made("Key", name="free")).all_limits
    assert (limit.name, limit.scope.key, limit.requests_per_minute, limit.in_flight) == ("key/x", ("x",), 5, 2)


def test_a_document_with_every_kind_travels_whole() -> None:
    items = (
        made("Route", to="a"), made("Cache"), made("Key", expires=date(2027, 1, 1)),
        made("Slo", errors={"share": "99.9%"}), made("Report", to=["ops"]),
    )  # fmt: skip
    sent = document(*items)
    assert Document.from_json(sent.to_json()) == sent and len(list(sent.items())) == len(items)
    assert sent.declared_keys[0].expires == datetime(2027, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("kind", "spec", "says"),
    [
        (Slo, {}, "nothing is given; set exactly one of errors, latency, ttft, cost"),
        (Slo, {"errors": {"share": 0.9}, "cost": {"share": 0.9, "within": "1 USD"}}, "errors and cost is given"),
        (Slo, {"errors": {"share": 1}}, "less than 1"),
        (Slo, {"latency": {"share": 0.9}}, "within_ms"),
        (Route, {}, "set `to`, `models`, `fallbacks`, `strategy` or `hedge`"),
        (Route, {"to": "a", "priority": 3}, "priority"),
        (Cache, {"exact": False, "embeddings": False}, "it does nothing"),
        (DeclaredKey, {"limits": {}}, "set requests_per_minute, tokens_per_minute, in_flight"),
        (DeclaredKey, {"routes": ["fly"]}, "'chat'"),
        (DeclaredKey, {"secret": "fth_x"}, "secret"),
        (KINDS["Report"], {"to": ["ops"], "tz": "Mars/Base"}, "not a time zone"),
        (KINDS["Report"], {"to": ["ops"], "at": "25:00"}, "pattern"),
        (KINDS["Report"], {"to": ["ops"], "sections": ["money"]}, "headline"),
    ],
    ids=lambda value: value.KIND if isinstance(value, type) else None,
)
def test_what_makes_no_sense_is_refused_with_what_is_allowed(kind: Any, spec: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as refused:
        kind.from_written({"name": "x", **spec})
    assert says in str(refused.value)
