"""policies/access.py, tokens.py, rate.py and openapi.py: who may do what, and that nothing is open by accident."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from farthing.access import GRANTS
from farthing.errors import SettingsError
from farthing.serving import Asgi
from farthing.settings import Settings
from policies.access import Access, Route
from policies.database import open_database
from policies.http import HttpError, Request
from policies.main import ROUTES, app
from policies.openapi import QUERY
from policies.tokens import ROLES, TokenStore
from tests.policies.conftest import Client

ROOT = "root-token-of-the-settings"
BUDGET = "apiVersion: farthing/v1\nkind: Budget\nmetadata: {name: b}\nlimit: 5 USD\n"


class Guarded(Client):
    """Calls as somebody; `tokens` has one token for each role."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.tokens: dict[str, str] = {}

    def as_(self, token: str, method: str, path: str, body: str | None = None, **headers: str) -> Any:
        return self.call(method, path, body, authorization=f"Bearer {token}", **headers)

    def create(self, name: str, role: str, query: str = "") -> str:
        made = self.as_(ROOT, "POST", f"/v1/tokens?name={name}&role={role}&reason=test{query}")
        assert made.status == 201, made.body
        return made.json["token"]


@pytest.fixture(scope="module")
def guarded(
    serve: Callable[[Asgi], AbstractContextManager[int]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    settings = Settings(data_dir=folder, control_auth="tokens", control_token=ROOT, control_requests_per_s=500)
    with serve(app(settings)) as port:
        client = Guarded(port)
        client.tokens = {role: client.create(f"of-{role}", role) for role in ROLES}
        yield client


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.template}")
def test_every_route_lets_in_the_roles_that_it_names_and_nobody_else(guarded: Guarded, route: Route) -> None:
    path = re.sub(r"\{\w+\}", "x", route.template)
    answers = {role: guarded.as_(token, route.method, path).status for role, token in guarded.tokens.items()}
    let_in = {role for role, status in answers.items() if status not in (401, 403)}
    if route.needs == "nothing":
        assert let_in == set(ROLES) and guarded.call(route.method, path).status == 200
    else:
        assert let_in == GRANTS[route.needs]
        assert guarded.call(route.method, path).status == 401
        assert guarded.as_("ftc_nonsense", route.method, path).status == 401


def test_no_need_is_unknown_and_only_the_health_check_needs_nothing() -> None:
    assert {route.needs for route in ROUTES} <= set(GRANTS)
    assert [route.template for route in ROUTES if route.needs == "nothing"] == ["/healthz"]


def test_the_author_is_the_holder_of_the_token_whatever_the_query_says(guarded: Guarded) -> None:
    done = guarded.as_(guarded.tokens["operator"], "POST", "/v1/apply?author=somebody-else", BUDGET)
    assert done.status == 200
    assert guarded.as_(ROOT, "GET", "/v1/audit").json["audit"][0]["author"] == "of-operator"


def test_every_write_is_in_the_audit_with_its_caller_and_its_end_and_no_secret(guarded: Guarded) -> None:
    viewer, operator = guarded.tokens["viewer"], guarded.tokens["operator"]
    asked = [(one.method, re.sub(r"\{\w+\}", "x", one.template)) for one in ROUTES if one.is_write]
    for method, path in asked:
        assert guarded.as_(viewer, method, path).status == 403
    refused = guarded.as_(ROOT, "GET", f"/v1/writes?limit={len(asked)}").json["writes"]
    assert [(one["what"], one["who"], one["status"]) for one in reversed(refused)] == [
        (f"{method} {path}", "of-viewer", 403) for method, path in asked
    ]
    done = guarded.as_(operator, "POST", "/v1/apply?reason=autumn", BUDGET.replace("name: b", "name: autumn"))
    made = guarded.create("newcomer", "viewer")
    key = guarded.as_(ROOT, "POST", "/v1/keys", '{"name": "shop"}').json["key"]
    answer = guarded.as_(operator, "GET", "/v1/writes?limit=3")
    assert made not in answer.body.decode() and key not in answer.body.decode()
    told = [(one["who"], one["what"], one["status"], one["note"]) for one in reversed(answer.json["writes"])]
    assert told == [
        ("of-operator", "POST /v1/apply", 200, f"version {done.json['version']}"),
        ("settings", "POST /v1/tokens", 201, "name newcomer"),
        ("settings", "POST /v1/keys", 201, "name shop"),
    ]
    assert "reason=autumn" in answer.json["writes"][2]["asked"]
    assert guarded.as_(operator, "GET", "/v1/writes?limit=many").status == 400


def test_what_is_changed_without_the_audit_is_no_matter_of_people() -> None:
    unnoted = {(one.method, one.template) for one in ROUTES if one.method != "GET" and not one.is_write}
    assert unnoted == {("POST", "/v1/ledger"), ("POST", "/v1/plan")}


def test_a_token_is_kept_as_a_digest_and_ends_when_it_is_revoked(guarded: Guarded) -> None:
    token = guarded.create("short", "viewer", "&days=1")
    assert guarded.as_(token, "GET", "/v1/status").status == 200
    listed = guarded.as_(ROOT, "GET", "/v1/tokens")
    assert token not in listed.body.decode() and "digest" not in listed.body.decode()
    (line,) = [one for one in listed.json["tokens"] if one["name"] == "short"]
    assert (line["role"], line["state"]) == ("viewer", "good") and line["expires_at"] > line["created_at"]
    assert guarded.as_(ROOT, "DELETE", "/v1/tokens/short?reason=left").status == 200
    assert guarded.as_(token, "GET", "/v1/status").error["code"] == "token_unknown"
    acts = [(e["token"], e["act"], e["author"]) for e in guarded.as_(ROOT, "GET", "/v1/tokens/events").json["events"]]
    assert acts[:2] == [("short", "revoke", "settings"), ("short", "create", "settings")]
    assert guarded.as_(ROOT, "POST", "/v1/tokens?name=short&role=viewer").error["code"] == "token_refused"


@pytest.mark.parametrize(
    ("query", "says"),
    [("name=A&role=viewer", "name='A'"), ("name=a&role=king", "allowed are viewer, operator, admin, proxy"),
     ("name=a&role=viewer&days=0", "days=0")],
)  # fmt: skip
def test_a_token_that_makes_no_sense_is_refused(guarded: Guarded, query: str, says: str) -> None:
    answer = guarded.as_(ROOT, "POST", f"/v1/tokens?{query}")
    assert answer.status == 400 and says in answer.error["message"]


def test_a_page_of_another_site_may_not_write_even_with_a_token(guarded: Guarded) -> None:
    answer = guarded.as_(guarded.tokens["admin"], "POST", "/v1/apply", BUDGET, origin="https://evil.example")
    assert (answer.status, answer.error["code"]) == (403, "cross_site")


def test_the_description_names_every_route_and_who_may_take_it(guarded: Guarded) -> None:
    told = guarded.as_(guarded.tokens["viewer"], "GET", "/v1/openapi.json").json
    described = {(method.upper(), path) for path, one in told["paths"].items() for method in one}
    assert described == {(route.method, route.template) for route in ROUTES}
    assert told["paths"]["/v1/apply"]["post"]["x-roles"] == ["admin", "operator"]
    assert all(one["summary"] for methods in told["paths"].values() for one in methods.values())
    assert set(QUERY) <= {route.template for route in ROUTES}


@pytest.fixture
def access(tmp_path: Path) -> Iterator[Callable[[str], Access]]:
    engine = open_database(f"sqlite:///{tmp_path}/control.db")
    yield lambda mode: Access(Settings(data_dir=tmp_path, control_auth=mode), ROUTES, TokenStore(engine))
    engine.dispose()


@pytest.mark.parametrize(
    ("mode", "client", "headers", "is_let_in"),
    [
        ("loopback", "127.0.0.1", {}, True),
        ("loopback", "::1", {}, True),
        ("loopback", "10.0.0.7", {}, False),
        ("loopback", "", {}, False),
        ("loopback", "127.0.0.1", {"x-forwarded-for": "10.0.0.7"}, False),
        ("loopback", "127.0.0.1", {"forwarded": "for=10.0.0.7"}, False),
        ("tokens", "127.0.0.1", {}, False),
        ("open", "10.0.0.7", {}, True),
        ("open", "10.0.0.7", {"authorization": "Bearer wrong"}, False),
    ],
)
def test_without_a_token_only_this_machine_is_let_in_unless_the_setting_says_otherwise(
    access: Callable[[str], Access], mode: str, client: str, headers: dict[str, str], is_let_in: bool
) -> None:
    async def receive() -> Any:
        raise AssertionError

    request = Request("GET", "/v1/status", {}, headers, receive, client)
    if is_let_in:
        assert access(mode).identify(request)[0].template == "/v1/status"
    else:
        with pytest.raises(HttpError) as refused:
            access(mode).identify(request)
        assert refused.value.status == 401


def test_a_mode_that_is_none_stops_the_start(access: Callable[[str], Access]) -> None:
    with pytest.raises(SettingsError, match="allowed are loopback, tokens, open"):
        access("off")


def test_callers_are_bounded_each_by_themselves_and_the_parts_of_this_machine_are_not(
    access: Callable[[str], Access],
) -> None:
    async def receive() -> Any:
        raise AssertionError

    one = access("open")

    def refused(client: str, times: int) -> int:
        count = 0
        for _ in range(times):
            try:
                one.identify(Request("GET", "/v1/status", {}, {}, receive, client))
            except HttpError as error:
                assert error.status == 429
                count += 1
        return count

    assert refused("127.0.0.1", 300) == 0
    assert refused("10.0.0.7", 300) > 50 and refused("10.0.0.8", 100) == 0
