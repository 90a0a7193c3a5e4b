"""policies/warehouse.py: the control plane asks the analyzer, over HTTP, as it does in production."""
from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from analyzer.main import app as analyzer_app
from farthing import otlp, semconv
from farthing.prices import PriceBook
from farthing.serving import Asgi
from farthing.settings import Settings
from farthing.warehouse import Warehouse, segment
from policies.main import app
from tests.policies.conftest import Client
from tests.until import until

ROUTE = """\
apiVersion: farthing/v1
kind: Policy
metadata: {name: cheap}
match: {team: search}
action: {route: {to: gpt-4o-mini}}
"""


class Put(Protocol):
    """Store spans, as a worker of the proxy sends them."""

    def __call__(self, spans: list[bytes], worker: str = "") -> None: ...


class Planes:
    """A control plane and the analyzer that it asks, with one tenant of their own."""

    def __init__(self, client: Client, analyzer: Client, put: Put) -> None:
        self.client = client
        self.put = put
        self._analyzer = analyzer

    def analyze(self) -> None:
        assert self._analyzer.call("POST", "/v1/jobs/analyze/run?hours=1").status == 200


@pytest.fixture
def planes(
    serve: Callable[[Asgi], AbstractContextManager[int]], warehouse: Warehouse, tmp_path: Path
) -> Iterator[Planes]:
    tenant = f"tenant-{uuid.uuid4().hex[:12]}"
    warehouse.put_prices(PriceBook().history("openai", "gpt-4o"))

    def put(spans: list[bytes], worker: str = "") -> None:
        resource = [("service.name", "p"), (semconv.INSTANCE, worker)]
        body = otlp.traces(resource, semconv.PROXY_SCOPE, "1", spans)
        path = tmp_path / f"{uuid.uuid4().hex}.otlp"
        path.write_bytes(segment.frame(tenant, body, time.time_ns() // 10**6, segment.digest(tenant, body)))
        warehouse.insert_otlp(path, path.name)

    with ExitStack() as stack:
        port = stack.enter_context(serve(analyzer_app(Settings(data_dir=tmp_path, tenant=tenant), warehouse)))
        control = Settings(
            data_dir=tmp_path, tenant=tenant, analyzer_port=port, guardrail_interval_s=0.1, reconcile_interval_s=0.1,
            hold_ttl_s=0.2, lease_correct_after_s=0.2,
        )  # fmt: skip
        yield Planes(Client(stack.enter_context(serve(app(control)))), Client(port), put)


def proxy_span(at_ns: int, seconds: float, **varying: Any) -> bytes:
    given: dict[str, Any] = {
        semconv.OPERATION_NAME: "chat", semconv.PROVIDER_NAME: "openai", semconv.REQUEST_MODEL: "gpt-4o",
        semconv.USAGE_INPUT_TOKENS: 1000, semconv.USAGE_OUTPUT_TOKENS: 100, semconv.TEAM: "search",
        semconv.POLICY_VERSION: 1, semconv.OUTCOME: "ok", **varying,
    }  # fmt: skip
    window = (at_ns, at_ns + int(seconds * 1e9))
    return otlp.span(uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b"", "chat", window, otlp.attributes(given.items()))


def test_a_plan_and_an_explanation_come_from_the_rows(planes: Planes) -> None:
    client = planes.client
    decided = {semconv.POLICIES: ("cheap",), semconv.KEY: "prod", semconv.POLICY_ARMS: ("cheap:treatment:1",)}
    decided |= {semconv.ROUTE_STRATEGY: "cost", semconv.ROUTE_REASON: "the cheapest", semconv.TASK: "code"}
    planes.put([proxy_span(time.time_ns() - 10**9, 0.5, **{semconv.REQUEST_ID: "req_9"}, **decided)])
    planned = client.call("POST", "/v1/plan?hours=1", ROUTE).json
    assert [(c["name"], c["change"]) for c in planned["changes"]] == [("cheap", "added")]
    assert (planned["version"], planned["effects"][0]["hit"], planned["policies"][0]["requests"]) == (0, 1, 1)
    assert planned["effects"][0]["usd_per_day"]["value"] == pytest.approx(-(0.0035 - 0.00021) * 24)
    assert "<html" in planned["html"]
    client.apply(ROUTE)
    told = client.get("/v1/explain?request_id=req_9").json
    assert (told["version"], told["asked_model"], told["acted"]) == (1, "gpt-4o", ["cheap"])
    assert told["policies"][0]["saw"] == {"team": "search"}
    assert json.loads(told["recorded"]["arms"]) == ["cheap:treatment:1"]
    routing = {"route.reason": "the cheapest", "route.strategy": "cost", "task": "code"}
    assert told["recorded"]["routing"] == routing
    assert client.get("/v1/explain?request_id=req_none").error["code"] == "no_such_call"
    assert client.call("POST", "/v1/plan", ROUTE.replace("to:", "too:")).error["code"] == "document_refused"


def test_an_expired_hold_is_corrected_once_by_the_span_that_comes_after_all(planes: Planes) -> None:
    client = planes.client
    client.apply("apiVersion: farthing/v1\nkind: Budget\nmetadata: {name: company}\nlimit: 1 USD\n")
    names = [f"req_{uuid.uuid4().hex}" for _ in range(3)]
    facts = {"tenant": "t"}
    asked = {"op": "reserve", "attempt": 0, "amount_nusd": 900, "facts": facts}
    settled = {"op": "settle", "request_id": names[2], "attempt": 0, "actual_nusd": 50}
    client.ledger(*({"request_id": name} | asked for name in names), settled)

    def spent() -> int:
        return client.get("/v1/budgets/company").json["spent_nusd"]

    until(lambda: spent() == 50 + 2 * 900, "the holds expire and are charged in full")
    costs = zip(names, (33, 44, 55), strict=True)
    sent = [{semconv.REQUEST_ID: name, semconv.SETTLED_NUSD: cost} for name, cost in costs]
    planes.put([proxy_span(time.time_ns(), 0.5, **sent[0])])
    until(lambda: spent() == 50 + 33 + 900, "the first span is there")
    planes.put([proxy_span(time.time_ns(), 0.5, **one) for one in sent])  # the first again, and one that was settled
    until(lambda: spent() == 50 + 33 + 44, "the second span is there")
    states = {one["request_id"]: one["state"] for one in client.get("/v1/ledger/settlements").json["settlements"]}
    assert [states[name] for name in names] == ["corrected", "corrected", "settled"]


def test_a_lost_worker_s_leases_are_corrected_once_to_what_its_calls_came_to(planes: Planes) -> None:
    client = planes.client
    client.apply("apiVersion: farthing/v1\nkind: Budget\nmetadata: {name: company}\nlimit: 1 USD\n")
    worker, known = f"1-{uuid.uuid4().hex}", f"req_{uuid.uuid4().hex}"
    asked = {"op": "lease", "worker": worker, "number": 1, "budget": "company", "want_nusd": 1000}
    period = client.ledger(asked | {"want_nusd": 0, "worker": "nobody"}, asked)[1]["period"]

    def call(name: str, held: int, settled: int) -> bytes:
        figures = {semconv.HELD_NUSD: held, semconv.SETTLED_NUSD: settled, semconv.LEASES: (f"company {period}",)}
        return proxy_span(time.time_ns(), 0.5, **{semconv.REQUEST_ID: name}, **figures)

    def spent() -> int:
        return client.get("/v1/budgets/company").json["spent_nusd"]

    told = call(known, 300, 100)  # by the worker too
    planes.put([told, call(f"{known}-untold", 90, 44), call(f"{known}-of-unknown-usage", 70, 70)], worker)
    planes.put([call(f"{known}-of-another", 90, 90)], f"{worker}-that-lives")
    client.ledger({"op": "draw", "worker": worker, "request_id": known, "attempt": 0, "held_nusd": 300,
                   "actual_nusd": 100, "places": [["company", period]], "reserved_ns": time.time_ns()})  # fmt: skip
    until(lambda: spent() == 100 + 44 + 70, "the lease is charged in full and corrected")
    planes.put([told, call(f"{known}-late", 60, 55)], worker)
    until(lambda: spent() == 214 + 55, "the span that came late is charged")
    planes.put([told, call(f"{known}-later", 60, 1)], worker)
    until(lambda: spent() == 269 + 1, "and nothing twice")
    corrections = client.get("/v1/ledger/corrections").json["corrections"]
    assert [(one["worker"], one["budget"]) for one in corrections] == [(worker, "company")]


def test_a_finding_is_proposed_with_its_plan_and_accepted_in_shadow(planes: Planes) -> None:
    same = {semconv.REQUEST_HASH: "h", "gen_ai.request.temperature": 0.0}
    planes.put([proxy_span(time.time_ns() - n * 10**9, 0.5, **same) for n in (10, 5)])
    planes.analyze()
    (listed,) = [one for one in planes.client.get("/v1/proposals").json["proposals"] if one["kind"] == "Policy"]
    assert (listed["name"], listed["finding"]) == ("cache-search-gpt-4o", "cache_waste")
    told = planes.client.get(f"/v1/proposals/{listed['name']}").json
    assert told["plan"]["effects"][0]["hit"] == 1 and told["plan"]["policies"][0]["share"] == 0
    done = planes.client.call("POST", f"/v1/proposals/{listed['name']}/accept?author=ann").json
    assert (done["version"], [c["change"] for c in done["changes"]]) == (1, ["added"])
    assert planes.client.get("/v1/status").json["policies"][0]["mode"] == "shadow"
    assert planes.client.get("/v1/audit").json["audit"][0]["act"] == "accept"
    assert planes.client.get(f"/v1/proposals/{listed['name']}").status == 404  # it is in force


TRIED = """\
apiVersion: farthing/v1
kind: Policy
metadata: {name: tried} # the new cache
action: {cache: {}}
mode: canary # a fifth of the calls
canary: {share: 0.2}
verify:
  guardrails: [{metric: latency, max_increase: 0.2}]
"""


def test_a_policy_that_crosses_a_guardrail_goes_back_to_shadow_and_says_why(planes: Planes) -> None:
    client = planes.client
    client.apply(TRIED, "author=ann")
    now, spans = time.time_ns() + 10**9, []
    for n in range(600):
        treated = n % 5 == 0
        arm = f"tried:{'treatment' if treated else 'control'}:0.2"
        seconds = (2.0 if treated else 1.0) + n % 7 / 10
        spans.append(proxy_span(now + n * 10**6, seconds, **{semconv.POLICY_ARMS: (arm,)}))
    planes.put(spans)
    until(lambda: client.get("/v1/status").json["policies"][0]["mode"] == "shadow", "it goes back")
    told = client.get("/v1/status").json
    (back,) = told["rollbacks"]
    assert (back["policy"], back["version"], told["policies"][0]["mode"]) == ("tried", 2, "shadow")
    assert back["stands"]
    assert back["reason"].startswith("latency: ") and "more than the allowed increase of 20%" in back["reason"]
    (entry, _) = client.get("/v1/audit").json["audit"]
    assert (entry["act"], entry["author"]) == ("rollback", "guardrail")
    assert "+mode: shadow # a fifth of the calls" in entry["changes"][0]["diff"]
    client.call("POST", "/v1/policies/tried/mode?mode=enforce")
    assert not client.get("/v1/status").json["rollbacks"][0]["stands"]


def test_a_mode_is_set_in_the_text_as_it_was_written(client: Client) -> None:
    client.apply(TRIED)
    done = client.call("POST", "/v1/policies/tried/mode?mode=canary&share=0.5&author=ann&reason=good")
    assert done.json["version"] == 2
    source = client.get("/v1/objects").json["objects"][0]["source"]
    assert source == TRIED.replace("{share: 0.2}", '{"share": 0.5}')
    assert "allowed: 'shadow'" in client.call("POST", "/v1/policies/tried/mode?mode=on").error["details"][0]
    assert client.call("POST", "/v1/policies/none/mode?mode=shadow").status == 404


def test_without_an_analyzer_a_plan_says_so(
    serve: Callable[[Asgi], AbstractContextManager[int]], tmp_path: Path
) -> None:
    with serve(app(Settings(data_dir=tmp_path, analyzer_port=9))) as port:  # nobody listens there
        answer = Client(port).call("POST", "/v1/plan", ROUTE)
    assert (answer.status, answer.error["code"]) == (503, "analyzer_unavailable")
