"""policies/warehouse.py: the control plane asks the analyzer, over HTTP, as it does in production."""
from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from analyzer.main import app as analyzer_app
from farthing import otlp, semconv
from farthing.prices import PriceBook
from farthing.serving import Asgi
from farthing.settings import Settings
from farthing.warehouse import Warehouse, segment
from policies.main import app
from tests.policies.conftest import Client

ROUTE = """\
apiVersion: farthing/v1
kind: Policy
metadata: {name: cheap}
match: {team: search}
action: {route: {to: gpt-4o-mini}}
"""


@pytest.fixture
def planes(serve: Callable[[Asgi], AbstractContextManager[int]], warehouse: Warehouse, tmp_path: Path) -> Any:
    """A control plane whose analyzer has one call of the proxy in its warehouse."""
    tenant = f"tenant-{uuid.uuid4().hex[:12]}"
    given: list[tuple[str, Any]] = [
        (semconv.OPERATION_NAME, "chat"), (semconv.PROVIDER_NAME, "openai"), (semconv.REQUEST_MODEL, "gpt-4o"),
        (semconv.USAGE_INPUT_TOKENS, 1000), (semconv.USAGE_OUTPUT_TOKENS, 100), (semconv.TEAM, "search"),
        (semconv.REQUEST_ID, "req_9"), (semconv.POLICY_VERSION, 1), (semconv.POLICIES, ("cheap",)),
        (semconv.KEY, "prod"), (semconv.OUTCOME, "ok"), (semconv.POLICY_ARMS, ("cheap:treatment:1",)),
    ]  # fmt: skip
    now = time.time_ns() // 10**9 * 10**9
    span = otlp.span(uuid.uuid4().bytes, b"8 bytes!", b"", "chat", (now - 10**9, now), otlp.attributes(given))
    body = otlp.traces([("service.name", "p")], semconv.PROXY_SCOPE, "1", [span])
    path = tmp_path / f"{uuid.uuid4().hex}.otlp"
    path.write_bytes(segment.frame(tenant, body, now // 10**6, segment.digest(tenant, body)))
    warehouse.put_prices(PriceBook().history("openai", "gpt-4o"))
    warehouse.insert_otlp(path, path.name)
    with ExitStack() as stack:
        analyzer = Settings(data_dir=tmp_path, tenant=tenant)
        port = stack.enter_context(serve(analyzer_app(analyzer, warehouse)))
        control = Settings(data_dir=tmp_path, tenant=tenant, analyzer_port=port)
        yield Client(stack.enter_context(serve(app(control))))


def test_a_plan_and_an_explanation_come_from_the_rows(planes: Client) -> None:
    planned = planes.call("POST", "/v1/plan?hours=1", ROUTE).json
    assert [(c["name"], c["change"]) for c in planned["changes"]] == [("cheap", "added")]
    assert (planned["version"], planned["effects"][0]["hit"], planned["policies"][0]["requests"]) == (0, 1, 1)
    assert planned["effects"][0]["usd_per_day"]["value"] == pytest.approx(-(0.0035 - 0.00021) * 24)
    assert "<html" in planned["html"]
    planes.apply(ROUTE)
    told = planes.get("/v1/explain?request_id=req_9").json
    assert (told["version"], told["asked_model"], told["acted"]) == (1, "gpt-4o", ["cheap"])
    assert told["policies"][0]["saw"] == {"team": "search"}
    assert json.loads(told["recorded"]["arms"]) == ["cheap:treatment:1"]
    assert planes.get("/v1/explain?request_id=req_none").error["code"] == "no_such_call"
    assert planes.call("POST", "/v1/plan", ROUTE.replace("to:", "too:")).error["code"] == "document_refused"


def test_without_an_analyzer_a_plan_says_so(
    serve: Callable[[Asgi], AbstractContextManager[int]], tmp_path: Path
) -> None:
    with serve(app(Settings(data_dir=tmp_path, analyzer_port=9))) as port:  # nobody listens there
        answer = Client(port).call("POST", "/v1/plan", ROUTE)
    assert (answer.status, answer.error["code"]) == (503, "analyzer_unavailable")
