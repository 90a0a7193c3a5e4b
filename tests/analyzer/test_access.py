"""farthing/access.py at the analyzer: every route names a role, and a token is asked about at the control plane."""
from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from analyzer.api import ROUTES, Route
from analyzer.main import app
from farthing.access import GRANTS, Gate
from farthing.errors import AccessError
from farthing.http_json import call
from farthing.serving import Asgi
from farthing.settings import Settings
from farthing.token_owners import REMEMBERED_S, TokenOwners
from farthing.warehouse import Warehouse
from tests.roles import Roles, roles_of

__all__ = ["roles_of"]
Serve = Callable[[Asgi], AbstractContextManager[int]]


@pytest.fixture(scope="module")
def port(
    warehouse: Warehouse, serve: Serve, roles_of: Roles, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("guarded"), tenant="nobody-at-all", control_auth="tokens",
        policies_url=roles_of.url, analyze_interval_s=0, alert_interval_s=0, control_requests_per_s=1000,
    )  # fmt: skip
    with serve(app(settings, warehouse)) as port:
        yield port


def ask(port: int, route: Route, token: str = "", **headers: str) -> int:
    sent = {**headers, **({"authorization": f"Bearer {token}"} if token else {})}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(route.method, f"{route.path}?hours=nonsense", b"?", sent)
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_lets_in_the_roles_that_it_names_and_nobody_else(port: int, roles_of: Roles, route: Route) -> None:
    statuses = {role: ask(port, route, token) for role, token in roles_of.tokens.items()}
    let_in = {role for role, status in statuses.items() if status not in (401, 403)}
    if route.needs == "nothing":
        assert let_in == set(roles_of.tokens) and ask(port, route) == 200
    else:
        assert let_in == GRANTS[route.needs]
        assert ask(port, route) == 401
        assert ask(port, route, "ftc_nonsense") == ask(port, route, "no token at all") == 401


def test_only_the_health_check_needs_nothing() -> None:
    assert {route.needs for route in ROUTES} <= set(GRANTS)
    assert [route.path for route in ROUTES if route.needs == "nothing"] == ["/healthz"]


def test_a_page_of_another_site_may_not_make_anything(port: int, roles_of: Roles) -> None:
    route = next(one for one in ROUTES if one.path == "/v1/reports")
    assert ask(port, route, roles_of.tokens["admin"], origin="https://evil.example") == 403


def test_every_job_and_report_asked_for_is_in_the_audit(port: int, roles_of: Roles) -> None:
    asked = [one for one in ROUTES if one.is_write]
    unnoted = {one.path for one in ROUTES if one.method != "GET"} - {one.path for one in asked}
    assert unnoted == {"/v1/plan", "/v1/guardrails", "/v1/slos", "/v1/ask/"}
    for route in asked:
        assert ask(port, route, roles_of.tokens["viewer"]) == 403
    report = next(one for one in asked if one.path == "/v1/reports")
    assert ask(port, report, roles_of.tokens["admin"]) == 400
    told = call("GET", f"http://127.0.0.1:{port}/v1/writes?limit={len(asked) + 1}", token=roles_of.tokens["admin"])
    newest, *refused = told["writes"]
    assert (newest["who"], newest["what"], newest["status"]) == ("of-admin", "POST /v1/reports", 400)
    assert newest["asked"] == "hours=nonsense" and "allowed is a number" in newest["note"]
    assert [(one["what"], one["who"], one["status"]) for one in reversed(refused)] == [
        (f"POST {one.path}", "of-viewer", 403) for one in asked
    ]


def test_who_asks_too_often_or_guesses_tokens_is_told_to_ask_more_slowly_here_too(
    warehouse: Warehouse, serve: Serve, roles_of: Roles, tmp_path: Path
) -> None:
    settings = Settings(
        data_dir=tmp_path, control_auth="tokens", policies_url=roles_of.url, analyze_interval_s=0,
        alert_interval_s=0, control_requests_per_s=0.001,
    )  # fmt: skip
    route = next(one for one in ROUTES if one.path == "/v1/gains")
    with serve(app(settings, warehouse)) as port:
        assert ask(port, route, roles_of.tokens["viewer"]) == 429
        assert ask(port, route, "no token at all") == 429
        assert ask(port, route) == 401


def refusal(gate: Gate, token: str, needs: str = "viewer") -> AccessError:
    with pytest.raises(AccessError) as refused:
        gate.admit(needs, "GET", {"authorization": f"Bearer {token}"}, "10.0.0.7")
    return refused.value


def test_a_revoked_token_is_good_no_longer_than_it_is_remembered(roles_of: Roles) -> None:
    now = [0.0]
    settings = Settings(policies_url=roles_of.url)
    gate = Gate(settings, TokenOwners(settings, lambda: now[0]).find)
    headers = {"authorization": f"Bearer {roles_of.tokens['operator']}"}
    gate.admit("operator", "GET", headers, "10.0.0.7")
    roles_of.revoke("operator")
    gate.admit("operator", "GET", headers, "10.0.0.7")
    now[0] += REMEMBERED_S
    assert refusal(gate, roles_of.tokens["operator"]).status == 401


def test_while_the_control_plane_is_away_a_token_is_refused_and_that_of_the_settings_is_not() -> None:
    settings = Settings(policies_url="http://127.0.0.1:9", control_token="root")
    gate = Gate(settings, TokenOwners(settings).find)
    assert refusal(gate, "ftc_of-somebody").status == 503
    gate.admit("admin", "POST", {"authorization": "Bearer root"}, "10.0.0.7")
    assert refusal(gate, "rood").code == "token_unknown"
