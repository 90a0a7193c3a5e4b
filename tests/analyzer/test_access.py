"""farthing/access.py at the analyzer: every route names a role, and a token is asked about at the control plane."""
from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from analyzer.api import ROUTES, Route
from analyzer.main import app
from farthing.access import GRANTS, REMEMBERED_S, AccessError, Gate
from farthing.serving import Asgi
from farthing.settings import Settings
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
        policies_url=roles_of.url, analyze_interval_s=0, alert_interval_s=0,
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


def refusal(gate: Gate, token: str, needs: str = "viewer") -> AccessError:
    with pytest.raises(AccessError) as refused:
        gate.admit(needs, "GET", {"authorization": f"Bearer {token}"}, "10.0.0.7")
    return refused.value


def test_a_revoked_token_is_good_no_longer_than_it_is_remembered(roles_of: Roles) -> None:
    now = [0.0]
    gate = Gate(Settings(policies_url=roles_of.url), lambda: now[0])
    headers = {"authorization": f"Bearer {roles_of.tokens['operator']}"}
    gate.admit("operator", "GET", headers, "10.0.0.7")
    roles_of.revoke("operator")
    gate.admit("operator", "GET", headers, "10.0.0.7")
    now[0] += REMEMBERED_S
    assert refusal(gate, roles_of.tokens["operator"]).status == 401


def test_while_the_control_plane_is_away_a_token_is_refused_and_that_of_the_settings_is_not() -> None:
    gate = Gate(Settings(policies_url="http://127.0.0.1:9", control_token="root"))
    assert refusal(gate, "ftc_of-somebody").status == 503
    gate.admit("admin", "POST", {"authorization": "Bearer root"}, "10.0.0.7")
    assert refusal(gate, "rood").code == "token_unknown"
