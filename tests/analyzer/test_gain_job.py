"""Grades in, a gain model out, and proxies that route by it: every part is the real one."""
from __future__ import annotations

import http.client
import json
import random
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs

from analyzer.gain_fit import MIN_ROWS
from analyzer.gain_job import (
    GainJob,
    _together,  # pyright: ignore[reportPrivateUsage]
)
from analyzer.jobs import Schedule, learn_gains
from farthing import http_json, otlp, semconv
from farthing.policy.features import Reader, Text
from farthing.policy.route import Pair
from farthing.settings import Settings
from farthing.warehouse import Warehouse, segment
from farthing.warehouse.lane import LOGS
from tests.proxy.rig import SECRET, Rig, answer_of, answers, rig_in, until
from tests.proxy.test_virtual_keys import models

HARD, EASY = ["prove", "derive", "theorem", "lattice", "integral"], ["list", "colours", "animals", "greeting", "spell"]
FILLERS = ["the", "a", "please", "now", "here", "soon", "with", "of"]
READER = Reader(b"k")
OWN = f"tenant-{uuid4().hex[:12]}"  # of the proxies


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with pytest.MonkeyPatch.context() as environ, ExitStack() as stack:
        for name in ("UPSTREAM_KEY", "OTHER_KEY"):
            environ.setenv(name, SECRET)
        made = stack.enter_context(rig_in(tmp_path_factory.mktemp("gains"), tenant=OWN))
        made.upstream.next(answers(answer_of()))
        yield made


class Client:
    """A client that grades every answer, over one connection."""

    def __init__(self, rig: Rig, team: str, key: str = "") -> None:
        self._rig, self._sent = rig, {semconv.HEADER_TAGS: f"team={team}"}
        if key:
            self._sent["authorization"] = f"Bearer {key}"
        self._connection = http.client.HTTPConnection(rig.proxy.removeprefix("http://"), timeout=120)
        self._dice = random.Random(7)

    def ask(self, words: list[str]) -> tuple[str, str]:
        """Ask something of a kind; return the answer's request id and which model gave it."""
        text = " ".join([*self._dice.sample(words, 2), *self._dice.sample(FILLERS, 3)])
        body = {"model": "many", "messages": [{"role": "user", "content": text}], "max_tokens": 5}
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body), self._sent)
        answer = self._connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
        where = self._rig.upstream.received[-1].path.split("/")[1]
        return answer.headers[semconv.HEADER_REQUEST_ID], {"west": "small", "east": "big"}[where]

    def grade(self, request_id: str, score: float) -> None:
        self._connection.request("POST", "/v1/grades", json.dumps({"request_id": request_id, "score": score}))
        answer = self._connection.getresponse()
        assert answer.status == 202, answer.read()
        answer.read()

    def close(self) -> None:
        self._connection.close()


def route(rig: Rig, team: str, explore: float) -> None:
    gain = {"above": 0.3, "explore": explore}
    rig.policy(team, route={"strategy": "gain", "models": ["small", "big"], "gain": gain})


def test_grades_teach_a_model_that_the_proxies_route_by(
    rig: Rig, warehouse: Warehouse, put_bodies: Any
) -> None:
    team = rig.budget()
    route(rig, team, explore=1.0)
    client, dice, answered = Client(rig, team), random.Random(1), Counter[str]()
    while min(answered["small"], answered["big"]) < MIN_ROWS:
        words = dice.choice((HARD, EASY))
        request_id, model = client.ask(words)
        answered[model] += 1
        client.grade(request_id, float(model == "big" or words is EASY))
    job = GainJob(rig.settings, warehouse, lambda: datetime.now(timezone.utc))
    assert [(one.weak_rows, one.strong_rows, one.version) for one in job.run()] == [(0, 0, None)]  # nothing arrived yet

    rig.quiet()
    put_bodies(OWN, rig.upstream.traces)
    (learned,) = job.run()
    assert (learned.weak_rows, learned.strong_rows, learned.version) == (answered["small"], answered["big"], 1)
    assert job.run()[0].note == "no new grades" and job.newest[0].version == 1
    until(lambda: rig.status()["gain_models"][0]["version_in_use"] == 1, "it is in use")
    until(lambda: rig.status(rig.hasty)["gain_models"][0]["refused"], "a proxy with another hash_key cannot use it")

    route(rig, team, explore=0.0)
    assert {client.ask(HARD)[1] for _ in range(6)} == {"big"}
    assert {client.ask(EASY)[1] for _ in range(6)} == {"small"}
    client.close()
    rig.quiet()
    span = rig.spans(team)[-1]
    assert span[semconv.ROUTE_GAIN] <= 0.3 and span[semconv.ROUTE_GAIN_VERSION] == 1
    assert span[semconv.ROUTE_REASON].startswith("gain ") and semconv.ROUTE_PROPENSITY not in span
    proxies = http_json.call("GET", f"{rig.policies}/v1/status")["proxies"]
    assert all(one["gain_models"].startswith(f"{OWN}/small>big:right@1") for one in proxies)

    key = http_json.call("POST", f"{rig.policies}/v1/keys", {"name": "acme", "tenant": "acme", "team": team})["key"]
    until(lambda: models(rig, key) is not None, "the proxy knows the key")
    other = Client(rig, team, key)
    assert {other.ask(EASY)[1] for _ in range(6)} == {"big"}  # whom the model was not taught by it does not send
    other.close()
    assert [(one.tenant, one.version) for one in job.run()] == [(OWN, 1), ("acme", None)]


STORED = "0a0b0c0d:" + b64encode(READER.read(Text("prove it")).to_bytes()).decode()
CALLS = (  # number, model, propensity, features
    (1, "small", 0.05, STORED), (2, "big", 0.95, STORED), (3, "small", 0.05, "0a0b0c0d:AAAA"),
    (4, "small", 0.05, STORED.replace("0a0b", "ffff")), (5, "big", None, STORED), (6, "other", 0.5, STORED),
    (7, "small", 0.05, STORED), (8, "big", 0.05, STORED),
)  # fmt: skip


def grade_span(ids: dict[str, str], score: object, at: datetime, name: str = "right") -> bytes:
    at_ns = int(at.timestamp() * 1e6) * 1000
    given: Any = {**ids, semconv.EVALUATION_NAME: name, semconv.EVALUATION_SCORE: score}
    attributes = otlp.attributes(given.items())
    return otlp.span(uuid4().bytes, uuid4().bytes[:8], b"", semconv.EVALUATION, (at_ns, at_ns), attributes)


def grade_event(response_id: str, score: float, at: datetime) -> bytes:
    """Return what OpenTelemetry's convention calls an evaluation: a log record with an event name."""
    said = {semconv.EVALUATION_NAME: "right", semconv.RESPONSE_ID: response_id}
    pairs = [KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in said.items()]
    pairs.append(KeyValue(key=semconv.EVALUATION_SCORE, value=AnyValue(double_value=score)))
    at_ns = int(at.timestamp() * 1e6) * 1000
    record = LogRecord(time_unix_nano=at_ns, event_name=semconv.EVALUATION, attributes=pairs)
    scope = ScopeLogs(log_records=[record])
    return ExportLogsServiceRequest(resource_logs=[ResourceLogs(scope_logs=[scope])]).SerializeToString()


def test_a_row_to_learn_from_is_a_drawn_call_with_its_last_grade_whichever_way_it_came(
    warehouse: Warehouse, put_calls: Any, put_bodies: Any, tenant: str, tmp_path: Path
) -> None:
    now = datetime.now(timezone.utc)
    put_calls(tenant, [
        {"model": model, "input": 1, "output": 1, "at": now - timedelta(hours=1), "attributes": {
            semconv.REQUEST_ID: f"req_{number}", semconv.RESPONSE_ID: f"answer-{number}", semconv.OUTCOME: "ok",
            semconv.ROUTE_FEATURES: features, semconv.ROUTE_PROPENSITY: propensity,
            semconv.ROUTE_TENANT: "acme" if number == 8 else None}}
        for number, model, propensity, features in CALLS
    ], scope=semconv.PROXY_SCOPE)  # fmt: skip
    early, late = now - timedelta(minutes=30), now - timedelta(minutes=10)
    graded = [grade_span({semconv.REQUEST_ID: f"req_{number}"}, 0.0, early) for number in (*range(1, 7), 8)]
    graded += [
        grade_span({semconv.RESPONSE_ID: "answer-1"}, 1.0, late),
        grade_span({semconv.REQUEST_ID: "req_2"}, 0.5, late, name="polite"),  # of something else
        grade_span({semconv.REQUEST_ID: "req_2"}, 7.0, late),  # and none at all
        grade_span({semconv.REQUEST_ID: "req_2"}, "nan", late),
        grade_span({semconv.REQUEST_ID: "unknown"}, 1.0, late),
    ]
    put_bodies(tenant, [otlp.traces([], "test", "1", graded)])
    event = grade_event("answer-7", 0.75, late)
    path = tmp_path / "logs"
    path.write_bytes(segment.frame(tenant, event, int(now.timestamp() * 1000), segment.digest(tenant, event)))
    warehouse.insert_otlp(path, tenant, LOGS)

    asked = {"weak": "small", "strong": "big", "grade": "right", "since": now - timedelta(days=1), "limit": 100}
    rows, theirs, nobody_s = (
        warehouse.ask("graded_calls", tenant=tenant, part="test", caller=caller, **asked)
        for caller in ("", "acme", "nobody")
    )
    assert [(row["model"], row["propensity"]) for row in theirs] == [("big", 0.05)] and nobody_s == []
    found = sorted((row["model"], row["score"], row["propensity"], row["features"][:8]) for row in rows)
    assert found == [
        ("big", 0.0, 0.95, "0a0b0c0d"), ("small", 0.0, 0.05, "0a0b0c0d"), ("small", 0.0, 0.05, "ffff0c0d"),
        ("small", 0.75, 0.05, "0a0b0c0d"), ("small", 1.0, 0.05, "0a0b0c0d"),
    ]  # fmt: skip
    together = _together(rows, Pair("small", "big", "right"))
    assert (together.key, len(together.outcomes), together.others) == ("0a0b0c0d", 3, 2)
    assert {(one.weak, one.strong) for one in together.outcomes} == {(1.0, None), (0.75, None), (None, 0.0)}


def test_what_is_away_at_one_run_is_there_again_at_the_next(warehouse: Warehouse, tmp_path: Path, tenant: str) -> None:
    settings = Settings(data_dir=tmp_path, tenant=tenant, policies_url="http://127.0.0.1:1", analyze_interval_s=0)
    schedule = Schedule(replace(settings, alert_interval_s=0, gain_interval_s=3600), warehouse)
    schedule.start()
    try:
        learn_gains(schedule.name)  # the job logs it and does not fail
        assert schedule.learner.newest == []
    finally:
        schedule.stop()
