"""analyzer/main.py: the HTTP API over a real socket, with the schedule running behind it."""
import http.client
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from re import findall
from typing import Any

import pytest

from analyzer.main import app
from analyzer.questions import QUESTIONS
from farthing.settings import Settings
from farthing.warehouse import rollup, sql
from farthing.warehouse.client import Warehouse


class Client:
    def __init__(self, port: int) -> None:
        self.port = port

    def raw(self, method: str, path: str, body: bytes = b"") -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request(method, path, body)
        response = connection.getresponse()
        answer = (response.status, response.getheader("content-type", ""), response.read())
        connection.close()
        return answer

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        status, _, answer = self.raw(method, path, b"" if body is None else json.dumps(body).encode())
        return status, json.loads(answer)


@pytest.fixture
def settings(tmp_path: Path, tenant: str) -> Settings:
    return Settings(data_dir=tmp_path, tenant=tenant, analyze_interval_s=3600.0)


@pytest.fixture
def client(settings: Settings, warehouse: Warehouse, serve) -> Iterator[Client]:
    with serve(app(settings, warehouse)) as port:
        yield Client(port)


@pytest.fixture
def bounds(put_calls, tenant: str, noon: datetime) -> str:
    """A query string of the two hours in which this tenant's two identical calls lie."""
    put_calls(tenant, [{"team": "search", "hash": "h", "input": 1_000, "output": 100, "temperature": 0.0}] * 2)
    return f"since={(noon - timedelta(hours=1)).isoformat()}&until={(noon + timedelta(hours=1)).isoformat()}"


def test_health_says_when_the_job_runs_next(client: Client) -> None:
    status, answer = client.call("GET", "/healthz")
    assert (status, answer["status"]) == (200, "ok")
    assert datetime.fromisoformat(answer["next_run_at"])


def test_a_run_now_is_waited_for_and_its_findings_are_there(client: Client, bounds: str) -> None:
    status, run = client.call("POST", f"/v1/jobs/analyze/run?{bounds}")
    assert (status, run["ok"], run["error"], run["findings"]) == (200, True, "", 2)
    _, answer = client.call("GET", "/v1/findings")
    assert [(one["kind"], one["avoidable_usd"]) for one in answer["findings"]] == [
        ("cache_waste", "0.000210000"),
        ("cost_driver", "0.000000000"),
    ]
    assert client.call("GET", "/v1/runs")[1] == {"runs": [run]}


def test_a_report_is_made_and_served_and_has_the_spend_of_the_totals(
    client: Client, bounds: str, tmp_path: Path
) -> None:
    status, made = client.call("POST", f"/v1/reports?{bounds}")
    assert (status, made["spend_usd"]) == (200, "0.000420000")
    assert Path(made["html"]).parent == tmp_path / "reports"
    assert client.raw("GET", "/v1/reports/latest") == (
        200, "text/html; charset=utf-8", Path(made["html"]).read_bytes(),
    )  # fmt: skip
    assert Path(made["markdown"]).read_text().startswith("# Inference cost report")
    _, totals = client.call("GET", f"/v1/totals?{bounds}")
    assert (totals["cost_usd"], totals["requests"]) == ("0.000420000", 2)
    assert totals["duration_s"] == pytest.approx([0.5, 0.5, 0.5], rel=0.03)


def test_before_the_first_report_there_is_none_to_serve(client: Client) -> None:
    status, answer = client.call("GET", "/v1/reports/latest")
    assert (status, answer["error"]["code"]) == (404, "no_report")


def test_totals_of_nothing_are_zero_dollars_and_no_latency(client: Client) -> None:
    _, totals = client.call("GET", "/v1/totals?hours=1")
    assert (totals["cost_usd"], totals["saved_usd"]) == ("0.000000000", "0.000000000")
    assert totals["duration_s"] == [None, None, None]


def test_a_listed_question_is_answered_with_exact_money(client: Client, bounds: str, noon: datetime) -> None:
    window = {"since": (noon - timedelta(hours=1)).isoformat(), "until": (noon + timedelta(hours=1)).isoformat()}
    status, answer = client.call("POST", "/v1/ask/cost_by_team", {**window, "teams": ["search"]})
    assert (status, len(answer["rows"]), answer["rows"][0]["cost_usd"]) == (200, 1, "0.000420000")
    assert client.call("POST", "/v1/ask/cost_by_team", {**window, "teams": ["other"]})[1] == {"rows": []}


@pytest.mark.parametrize("question", sorted(QUESTIONS))
def test_every_listed_question_is_answered_without_parameters(client: Client, question: str) -> None:
    status, answer = client.call("POST", f"/v1/ask/{question}")
    assert (status, list(answer)) == (200, ["rows"])


@pytest.mark.parametrize("question", sorted(QUESTIONS))
def test_the_listed_parameters_are_those_of_the_sql(question: str, noon: datetime) -> None:
    text = sql.asked("queries", f"{question}.sql")
    assert set(findall(r"\{(\w+):", text)) - {"tenant", *rollup.rows_alone(noon)} == set(QUESTIONS[question])


def test_another_tenants_rows_cannot_be_asked_for(client: Client, put_calls, noon: datetime) -> None:
    put_calls("somebody-else", [{"team": "theirs", "input": 1, "output": 1}])
    window = {"since": (noon - timedelta(hours=1)).isoformat(), "until": (noon + timedelta(hours=1)).isoformat()}
    status, answer = client.call("POST", "/v1/ask/cost_by_team", {**window, "tenant": "somebody-else"})
    assert (status, answer["error"]["code"]) == (400, "invalid_parameter")
    assert client.call("POST", "/v1/ask/cost_by_team", window)[1] == {"rows": []}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/ask/findings_of_run", b"{}", 404, "no_question"),
        ("POST", "/v1/ask/..%2f..%2fsettings", b"{}", 404, "no_question"),
        ("POST", "/v1/ask/totals", b"[1]", 400, "invalid_json"),
        ("POST", "/v1/ask/totals", b"{", 400, "invalid_json"),
        ("POST", "/v1/ask/totals", b'{"teams": "search"}', 400, "invalid_parameter"),
        ("POST", "/v1/ask/totals", b'{"since": "yesterday"}', 400, "invalid_parameter"),
        ("POST", "/v1/ask/totals", b'{"since": "0001-01-01"}', 400, "invalid_parameter"),
        ("POST", "/v1/ask/over_time", b'{"tz": "UTC\') --"}', 400, "invalid_parameter"),
        ("POST", "/v1/ask/findings", b'{"limit": 0}', 400, "invalid_parameter"),
        ("POST", "/v1/ask/totals", b"x" * 70_000, 413, "body_too_large"),
        ("GET", "/v1/totals?hours=nan", b"", 400, "invalid_parameter"),
        ("GET", "/v1/totals?hours=soon", b"", 400, "invalid_parameter"),
        ("GET", "/v1/totals?days=1", b"", 400, "invalid_parameter"),
        ("POST", "/v1/reports?since=2026-11-21&until=2026-11-20", b"", 400, "invalid_parameter"),
        ("GET", "/v1/ask/totals", b"", 404, "no_route"),
        ("GET", "/", b"", 404, "no_route"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_says_why(
    client: Client, method: str, path: str, body: bytes, status: int, code: str
) -> None:
    answered, _, text = client.raw(method, path, body)
    error = json.loads(text)["error"]
    assert (answered, error["code"], error["type"]) == (status, code, "invalid_request_error")
    assert error["message"]


def test_a_warehouse_that_is_away_is_a_503_and_a_recorded_failure(settings: Settings, serve) -> None:
    class Away(Warehouse):
        def __init__(self) -> None: ...

        def ask(self, question: str, **_: object) -> list[dict[str, Any]]:
            from farthing.errors import WarehouseError

            raise WarehouseError(f"warehouse: question {question}: away")

    with serve(app(settings, Away())) as port:
        client = Client(port)
        assert client.call("GET", "/v1/totals")[1]["error"]["code"] == "warehouse_unavailable"
        status, answer = client.call("POST", "/v1/jobs/analyze/run")
        assert (status, answer["error"]["code"], answer["error"]["type"]) == (503, "run_failed", "server_error")
        (run,) = client.call("GET", "/v1/runs")[1]["runs"]
        assert (run["ok"], run["error"]) == (False, "warehouse: question findings_of_run: away")
        assert client.call("GET", "/healthz")[0] == 200


def test_a_stopped_analyzer_can_be_started_again_on_its_job_store(
    settings: Settings, warehouse: Warehouse, serve, bounds: str
) -> None:
    for times in (1, 2):
        with serve(app(settings, warehouse)) as port:
            client = Client(port)
            assert client.call("POST", f"/v1/jobs/analyze/run?{bounds}")[0] == 200
            runs = client.call("GET", "/v1/runs")[1]["runs"]
            assert len(runs) == 1, f"start {times}: the same window is one run"
