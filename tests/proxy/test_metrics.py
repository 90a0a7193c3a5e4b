"""proxy/metrics.py and gather.py: what a worker counts, one look-up a call, and one page for all workers."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from datetime import date
from pathlib import Path

import openai
import pytest

from farthing.policy import CompiledDocument, Document, Facts, Policy, decide
from farthing.prices import Usage
from farthing.prometheus import Family, render
from farthing.settings import Deployment
from proxy.api_error import ApiError
from proxy.call import Call
from proxy.gather import Gather
from proxy.metrics import BOUNDS, MAX_SERIES, Metrics
from tests.proxy.rig import Rig, answer_of, answers, asked, post

LINE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\]|\\.)*",?)*)\})? (\S+)\Z')

CHEAP = CompiledDocument(
    Document(version=1, policies=(Policy.model_validate({"name": "cheap", "action": {"cache": {}}}),))
)


def read(page: bytes) -> dict[str, float]:
    """Read a page as Prometheus does: each line is a comment or a sample, and a family's samples follow its type."""
    found: dict[str, float] = {}
    declared: list[str] = []
    for line in page.decode().splitlines():
        if line.startswith("# TYPE "):
            assert line.split()[2] not in declared
            declared.append(line.split()[2])
        elif not line.startswith("# HELP "):
            match = LINE.match(line)
            assert match is not None, line
            assert match[1].startswith(declared[-1])
            assert f"{match[1]}{{{match[2] or ''}}}" not in found
            found[f"{match[1]}{{{match[2] or ''}}}"] = float(match[3])
    return found


def call(status: int = 200, seconds: float = 0.02, model: str = "gpt", **more: object) -> Call:
    made = Call("req_1", b"t" * 16, b"s" * 8, b"", Facts("default", model=model), started_ns=10**18)
    made.ended_ns = 10**18 + int(seconds * 1e9)
    made.status, made.deployment = status, Deployment(model)
    made.usage, made.settled_nusd = Usage(10, cache_read=4, output=5), 20_000
    made.decision = decide(CHEAP, made.facts, date(2026, 3, 1))
    for name, value in more.items():
        setattr(made, name, value)
    return made


def page(metrics: Metrics) -> dict[str, float]:
    return read(render(metrics.families()))


def test_a_call_is_counted_by_route_status_model_and_policy() -> None:
    metrics = Metrics()
    for one in (call(), call(), call(429, outcome="refused", error_type="budget_exceeded", settled_nusd=0)):
        metrics.called("chat", one)
    found = page(metrics)
    labels = 'route="chat",status="200",outcome="ok",model="gpt",cache=""'
    assert found[f"farthing_requests_total{{{labels}}}"] == 2
    assert found[f'farthing_tokens_total{{kind="input",{labels}}}'] == 28
    assert found[f'farthing_tokens_total{{kind="cached",{labels}}}'] == 8
    assert found[f"farthing_cost_usd_total{{{labels}}}"] == 0.00004
    assert found['farthing_refused_total{route="chat",reason="budget_exceeded"}'] == 1
    assert found['farthing_policy_requests_total{policy="cheap"}'] == 3


def test_a_histogram_s_buckets_add_up() -> None:
    metrics = Metrics()
    for seconds in (0.001, 0.005, 0.02, 3.0, 1000.0):
        metrics.called("chat", call(seconds=seconds))
    found = page(metrics)
    buckets = [found[f'farthing_request_seconds_bucket{{route="chat",le="{bound}"}}'] for bound in (*BOUNDS, "+Inf")]
    assert buckets == sorted(buckets) and buckets[0] == 2 and buckets[-2:] == [4, 5]
    assert found['farthing_request_seconds_count{route="chat"}'] == 5
    assert found['farthing_request_seconds_sum{route="chat"}'] == pytest.approx(1003.026)


def test_a_cost_that_nobody_knows_is_counted_and_not_as_nothing() -> None:
    metrics = Metrics()
    metrics.called("chat", call(usage=None, settled_nusd=None))
    found = page(metrics)
    assert [value for name, value in found.items() if name.startswith("farthing_unpriced_calls_total")] == [1]


def test_labels_are_bounded_whatever_comes() -> None:
    metrics = Metrics()
    for number in range(MAX_SERIES + 500):
        metrics.called("chat", call(model=f"m{number}"))
    found = [name for name in page(metrics) if name.startswith("farthing_requests_total")]
    assert len(found) == MAX_SERIES + 1 and any('route="other"' in name for name in found)


def test_a_part_plugs_its_numbers_in_with_one_line() -> None:
    metrics, hits = Metrics(), {"a": 1}
    metrics.read("made_up_total", "counter", "Made up.", lambda: [({"of": name}, n) for name, n in hits.items()])
    metrics.read("depth", "gauge", "A queue.", lambda: 2.5)
    hits["b"] = 7
    assert page(metrics) == {'farthing_made_up_total{of="a"}': 1, 'farthing_made_up_total{of="b"}': 7,
                             "farthing_depth{}": 2.5}  # fmt: skip


def test_what_a_label_may_hold_cannot_break_the_page() -> None:
    family = Family("farthing_x", "gauge", "X.")
    family.add(1, model='a"b\\c\nd')
    assert len(read(render([family]))) == 1


def test_all_workers_are_on_each_one_s_page_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    beside = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    metrics = Metrics()
    metrics.called("chat", call())
    gather = Gather(metrics, tmp_path, workers=2)
    gather._leave()  # pyright: ignore[reportPrivateUsage]
    (tmp_path / f"{os.getpid()}.json").rename(tmp_path / f"{beside.pid}.json")
    metrics.called("chat", call())
    with_it = [value for name, value in read(gather.page()).items() if name.startswith("farthing_requests_total")]
    assert sorted(with_it) == [1, 2]
    beside.communicate(b"\n")
    without = [name for name in read(gather.page()) if name.startswith("farthing_requests_total")]
    assert len(without) == 1 and f'worker="{os.getpid()}"' in without[0] and list(tmp_path.iterdir()) == []


def test_the_page_of_a_real_proxy_tells_what_it_did(rig: Rig) -> None:
    def now() -> dict[str, float]:
        with urllib.request.urlopen(f"{rig.proxy}/metrics") as answer:
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            return read(answer.read())

    before = now()
    team = rig.budget()
    rig.cache(team)
    body = json.dumps(asked(temperature=0)).encode()
    rig.upstream.next(answers(answer_of()))
    assert [post(rig, team, body).status for _ in range(2)] == [200, 200]
    with rig.client(team) as client, pytest.raises(openai.RateLimitError):
        client.chat.completions.create(**asked(max_tokens=10**6))
    assert post(rig, team, body, authorization="Bearer fth_typo").status == 401
    assert post(rig, team, b"{}").status == 400
    after = now()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    labels = 'route="chat",status="200",outcome="ok",model="gpt-plain"'
    assert grown(f'farthing_requests_total{{{labels},cache=""}}') == 1
    assert grown(f'farthing_requests_total{{{labels},cache="exact"}}') == 1
    assert grown(f'farthing_cost_usd_total{{{labels},cache=""}}') == pytest.approx(0.00002)
    for reason in ("budget_exceeded", "invalid_api_key", "invalid_request"):
        assert grown(f'farthing_refused_total{{route="chat",reason="{reason}"}}') == 1
    assert after[f'farthing_cache_hits_total{{policy="cache-{team}",level="exact"}}'] == 1
    assert after["farthing_policy_version{}"] == rig.status()["policy_version"]
    assert after["farthing_policy_age_seconds{}"] < 60


def test_a_bad_key_is_counted_by_its_reason_alone() -> None:
    metrics = Metrics()
    metrics.refused("chat", ApiError(401, "invalid_api_key", "secret"))
    assert page(metrics) == {'farthing_refused_total{route="chat",reason="invalid_api_key"}': 1}
