"""policies/main.py over HTTP: what is applied is what proxies follow, and what the ledger answers is durable."""
from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from farthing.policy import Document
from farthing.serving import Asgi
from tests.until import until

Serve = Callable[[Asgi], AbstractContextManager[int]]

BUDGET = """\
# what the search team may spend
apiVersion: farthing/v1
kind: Budget
metadata: {name: search, owner: finance}
scope: {team: search}
limit: 0.000001 USD
"""
POLICY = """\
apiVersion: farthing/v1
kind: Policy
metadata: {name: cache-repeats}
action: {cache: {}}
"""


def reserve(request_id: str, amount: int, **facts: Any) -> dict[str, Any]:
    asked = {"op": "reserve", "request_id": request_id, "attempt": 0, "amount_nusd": amount}
    return asked | {"facts": {"tenant": "acme", "team": "search", **facts}}


def settle(request_id: str, actual: int) -> dict[str, Any]:
    return {"op": "settle", "request_id": request_id, "attempt": 0, "actual_nusd": actual}


def test_health_tells_the_version_in_force(client: Any) -> None:
    client.apply(BUDGET)
    health = client.get("/healthz")
    assert (health.status, health.json["status"], health.json["version"]) == (200, "ok", 1)


def test_the_document_that_proxies_read_is_the_one_applied(client: Any) -> None:
    empty = client.get("/v1/document")
    assert (empty.status, Document.from_json(empty.body).version) == (200, 0)
    assert client.apply(BUDGET + "---\n" + POLICY).json["version"] == 1
    answer = client.get("/v1/document")
    document = Document.from_json(answer.body)
    assert (document.version, document.budgets[0].limit_nusd, document.policies[0].name) == (1, 1000, "cache-repeats")
    assert answer.headers["etag"] == f'"v1-{document.checksum[:12]}"'


def test_a_caller_that_has_the_document_is_told_so(client: Any) -> None:
    etag = client.get("/v1/document").headers["etag"]
    assert client.get("/v1/document", if_none_match=etag).status == 304
    started = time.monotonic()
    answer = client.get("/v1/document?wait=0.3", if_none_match=f"W/{etag}")
    assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", etag)
    assert time.monotonic() - started >= 0.3


def test_an_apply_reaches_every_waiting_proxy(client: Any) -> None:
    etag = client.get("/v1/document").headers["etag"]
    arrived: list[int] = []

    def follow(name: str) -> None:
        answer = client.get("/v1/document?wait=55", if_none_match=etag, x_farthing_follower=name)
        arrived.append(Document.from_json(answer.body).version)  # one that waits to the end gets no body

    followers = [threading.Thread(target=follow, args=(f"host/{n}",)) for n in range(8)]
    for follower in followers:
        follower.start()
    until(lambda: len(client.get("/v1/status").json["proxies"]) == 8, "all of them wait")
    client.apply(BUDGET)
    for follower in followers:
        follower.join()
    assert arrived == [1] * 8


def test_a_proxy_that_hangs_up_leaves_nothing_waiting(client: Any) -> None:
    etag = client.get("/v1/document").headers["etag"]
    connection = http.client.HTTPConnection("127.0.0.1", client.port)
    connection.request("GET", "/v1/document?wait=60", headers={"if-none-match": etag})
    time.sleep(0.1)
    connection.close()
    assert client.apply(BUDGET).status == 200  # and the server stops at the end of this test


def test_apply_tells_what_changed_and_who_did_it_is_kept(client: Any) -> None:
    first = client.apply(BUDGET, "author=ann&reason=spring%20budget")
    changed = [{"kind": "Budget", "name": "search", "change": "added"}]
    assert first.json == {"version": 1, "changes": changed, "warnings": []}
    assert client.apply(BUDGET).json["changes"][0]["change"] == "unchanged"
    assert client.apply(POLICY, "replace=true").json["changes"] == [
        {"kind": "Budget", "name": "search", "change": "removed"},
        {"kind": "Policy", "name": "cache-repeats", "change": "added"},
    ]
    newest, oldest = client.get("/v1/audit").json["audit"]
    assert (oldest["author"], oldest["reason"], oldest["version"]) == ("ann", "spring budget", 1)
    assert newest["at"] > oldest["at"]
    assert client.get("/v1/versions").json["versions"][1]["source"] == BUDGET


def test_a_dry_run_changes_nothing(client: Any) -> None:
    dry = client.apply(BUDGET, "dry_run=true")
    changed = [{"kind": "Budget", "name": "search", "change": "added"}]
    assert dry.json == {"version": 0, "changes": changed, "warnings": []}
    assert client.get("/v1/objects").json == {"version": 0, "objects": []}


def test_objects_are_listed_as_written_and_removed_by_name(client: Any) -> None:
    client.apply(BUDGET + "---\n" + POLICY)
    listed = {entry["name"]: entry for entry in client.get("/v1/objects").json["objects"]}
    assert listed["search"]["source"] == BUDGET
    assert listed["search"]["spec"]["scope"] == {"team": ["search"]}
    removed = client.call("DELETE", "/v1/objects/policy/cache-repeats?author=bob")
    assert removed.json == {
        "version": 2,
        "changes": [{"kind": "Policy", "name": "cache-repeats", "change": "removed"}],
        "warnings": [],
    }
    assert client.call("DELETE", "/v1/objects/Policy/cache-repeats").status == 404


def test_a_refused_document_lists_every_problem(client: Any) -> None:
    answer = client.apply(BUDGET.replace("limit", "limt").replace("scope", "scpe"))
    assert (answer.status, answer.error["code"]) == (400, "document_refused")
    assert len(answer.error["details"]) == 3
    assert any("did you mean limit?" in problem for problem in answer.error["details"])


def test_reservations_are_answered_in_order_and_shown_as_enforced(client: Any) -> None:
    client.apply(BUDGET)
    results = client.ledger(reserve("a", 900), reserve("b", 101), settle("a", 33), reserve("c", 5, team="other"))
    assert results[0] == {"ok": True, "budgets": ["search"]}
    assert {name: results[1][name] for name in ("ok", "budget", "limit_nusd", "free_nusd", "asked_nusd")} == {
        "ok": False,
        "budget": "search",
        "limit_nusd": 1000,
        "free_nusd": 100,
        "asked_nusd": 101,
    }
    assert (results[2]["ok"], results[2]["budgets"], results[3]) == (True, ["search"], {"ok": True, "budgets": []})
    (line,) = client.get("/v1/budgets").json["budgets"]
    figures = ("name", "limit_nusd", "spent_nusd", "held_nusd", "free_nusd", "overrun_nusd", "refused", "hard")
    assert [line[name] for name in figures] == ["search", 1000, 33, 0, 967, 0, 1, True]
    assert line["window"] == {"calendar": "month", "tz": "UTC"} and line["period_start"] < line["period_end"]


def test_a_new_limit_counts_for_the_next_reservation(client: Any) -> None:
    client.apply(BUDGET)
    client.ledger(reserve("a", 1000))
    client.apply(BUDGET.replace("0.000001", "0.000002"))
    assert client.ledger(reserve("b", 1000))[0]["ok"]
    client.apply(BUDGET.replace("0.000001", "0"))
    assert not client.ledger(reserve("c", 0))[0]["ok"]


def test_settlements_are_kept_for_reconciliation(client: Any) -> None:
    client.apply(BUDGET)
    client.ledger(reserve("a", 900), settle("a", 33))
    (row,) = client.get("/v1/ledger/settlements?since=2020-01-01").json["settlements"]
    assert (row["request_id"], row["attempt"], row["budget"]) == ("a", 0, "search")
    assert (row["held_nusd"], row["charged_nusd"], row["state"]) == (900, 33, "settled")
    assert client.get("/v1/ledger/settlements?since=2999-01-01T00:00:00Z").json == {"settlements": [], "next": None}


def test_everything_survives_a_restart(opened: Callable[[], AbstractContextManager[Any]]) -> None:
    with opened() as client:
        client.apply(BUDGET)
        client.ledger(reserve("a", 900))
        etag = client.get("/v1/document").headers["etag"]
    with opened() as client:
        assert client.get("/v1/document", if_none_match=etag).status == 304
        assert not client.ledger(reserve("b", 101))[0]["ok"]
        assert client.ledger(settle("a", 1)) == [{"budgets": ["search"], "overrun_nusd": 0, "ok": True}]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nope", None, 404, "no_such_route"),
        ("GET", "/v1/objects/Budget/x", None, 405, "method_not_allowed"),
        ("PUT", "/v1/budgets", b"", 405, "method_not_allowed"),
        ("DELETE", "/v1/objects/Budget/x", None, 404, "no_such_object"),
        ("DELETE", "/v1/objects/Nonsense/x", None, 404, "no_such_object"),
        ("POST", "/v1/apply", b"\xff", 400, "document_refused"),
        ("POST", "/v1/apply", b"x" * (2 * 1024 * 1024 + 1), 413, "body_too_large"),
        ("POST", "/v1/apply?dry_run=maybe", b"", 400, "bad_query"),
        ("POST", "/v1/apply?author=a%0Ab", b"", 400, "bad_query"),
        ("GET", "/v1/document?wait=soon", None, 400, "bad_query"),
        ("GET", "/v1/document?wait=-1", None, 400, "bad_query"),
        ("GET", "/v1/ledger/settlements?since=yesterday", None, 400, "bad_query"),
        ("POST", "/v1/ledger", b"{}", 400, "bad_operation"),
        ("POST", "/v1/ledger", b"\xff", 400, "bad_operation"),
        ("POST", "/v1/ledger", b'[{"op":"steal"}]', 400, "bad_operation"),
        ("POST", "/v1/ledger", json.dumps([reserve("a", -1)]).encode(), 400, "bad_operation"),
        ("POST", "/v1/ledger", json.dumps([reserve("a b", 1)]).encode(), 400, "bad_operation"),
        ("POST", "/v1/ledger", json.dumps([reserve("a", 1) | {"extra": 1}]).encode(), 400, "bad_operation"),
        ("POST", "/v1/ledger", json.dumps([settle("a", 1)] * 1001).encode(), 413, "too_many_operations"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    shared_client: Any, method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    answer = shared_client.call(method, path, body)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.error["message"] and isinstance(answer.error["details"], list) and answer.error["type"]


def test_a_web_page_of_another_site_may_not_change_policies(client: Any) -> None:
    refused = client.call("POST", "/v1/apply", BUDGET, origin="https://evil.example")
    assert (refused.status, refused.error["code"]) == (403, "cross_site")
    assert client.call("POST", "/v1/apply", BUDGET, origin=f"http://127.0.0.1:{client.port}").status == 200


def test_a_ledger_that_cannot_write_answers_503_and_the_document_is_still_served(
    client: Any, tmp_path: Path
) -> None:
    from sqlalchemy import text

    from policies.database import open_database, writing

    client.apply(BUDGET)
    engine = open_database(f"sqlite:///{tmp_path}/control.db")
    with writing(engine) as connection:  # another process takes over
        connection.execute(text("UPDATE ledger_owner SET epoch = epoch + 1"))
    engine.dispose()
    answer = client.call("POST", "/v1/ledger", json.dumps([reserve("a", 1)]))
    assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (503, "ledger_unavailable", "1")
    assert (client.get("/healthz").status, client.get("/v1/document").status) == (503, 200)


def test_the_page_of_metrics_tells_each_budget_as_the_ledger_has_it(client: Any) -> None:
    client.apply(BUDGET)
    client.ledger(reserve("r1", 600))
    client.ledger(reserve("r2", 600), settle("r1", 250))
    page = client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = page.body.decode().splitlines()
    for name, value in (("limit", 1e-06), ("spent", 2.5e-07), ("held", 0.0), ("free", 7.5e-07)):
        assert f'farthing_budget_{name}_usd{{budget="search"}} {value}' in lines
    assert 'farthing_budget_refused{budget="search"} 1' in lines and "farthing_document_version 1" in lines
