"""`farthing demo`: the whole journey on real input, told line by line, and checked at its end.

Nothing here is simulated but the users: real processes, the real model, real clients, real stores.
"""
from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

from farthing.demo.workload import DemoCall, everyday_calls, rush_calls, write
from farthing.errors import ServeError
from farthing.http_json import call as http_call
from farthing.money import format_usd, nusd_from_usd
from farthing.settings import PREFIX, Settings, child_environ, read_settings
from farthing.supervisor import Supervisor

Say = Callable[[str], None]

RUSH_CALLS = 64  # calls of one team
RUSH_THREADS = 5  # of them at once
BUDGET = "0.000150000"  # USD; less than the rush would cost
CACHE_POLICY = """\
apiVersion: farthing/v1
kind: Policy
metadata: {name: cache-repeats, owner: demo}
match: {}                       # every team
action: {cache: {ttl_s: 3600}}  # only calls at temperature 0
mode: enforce
"""
BUDGET_POLICY = f"""\
apiVersion: farthing/v1
kind: Budget
metadata: {{name: growth-rush, owner: demo}}
scope: {{team: growth}}
limit: {BUDGET} USD
window: {{calendar: total}}
"""


@dataclass(frozen=True)
class Check:
    """One thing that the demo claims, and whether it held."""

    claim: str
    held: bool


class Demo:
    """One run of the story."""

    def __init__(self, settings: Settings, environ: dict[str, str], say: Say) -> None:
        self._settings = settings
        self._environ = environ
        self._say = say
        self.checks: list[Check] = []

    def tell(self) -> dict[str, Any]:
        """Run the story and return its figures."""
        everyday = everyday_calls()
        began = _now()
        self._say(f"\n{len(everyday)} calls of 4 teams, as they come …")
        first = self._round(everyday, threads=8)
        self._say(f"  spent {first['cost_usd']} USD on {first['requests']} calls, {first['cache_hits']} from the cache")
        self._find_repeats()
        self._apply("a cache for repeated calls", CACHE_POLICY)
        self._say("\nthe same calls again …")
        second = self._round(everyday, threads=8)
        self._say(f"  spent {second['cost_usd']} USD, {second['cache_hits']} calls from the cache")
        self._check("spend falls by the cache", Decimal(second["cost_usd"]) < Decimal(first["cost_usd"]))
        self._check("the second round was served in part from the cache", second["cache_hits"] > 0)
        rush = self._rush()
        return self._sum_up(began, rush)

    def _find_repeats(self) -> None:
        self._post("analyzer", "/v1/jobs/analyze/run")
        found = [f for f in self._get("analyzer", "/v1/findings")["findings"] if f["kind"] == "cache_waste"]
        for finding in found:
            self._say(f"  found: {finding['title']}")
        self._check("the analyzer finds the repeated work", any(Decimal(f["avoidable_usd"]) > 0 for f in found))

    def _rush(self) -> dict[str, Any]:
        since = _now()
        self._apply(f"a budget of {BUDGET} USD for team growth", BUDGET_POLICY)
        self._say(f"\n{RUSH_CALLS} calls of team growth, {RUSH_THREADS} at a time …")
        ended = self._run_app(rush_calls(RUSH_CALLS), RUSH_THREADS)
        self._until_quiet()
        self._say(f"  {ended.get('ok', 0)} answered, {ended.get('refused', 0)} refused; and what is left, one by one …")
        for outcome, count in self._run_app(rush_calls(RUSH_CALLS), threads=1).items():
            ended[outcome] = ended.get(outcome, 0) + count
        self._until_quiet()
        budget = next(b for b in self._get("policies", "/v1/budgets")["budgets"] if b["name"] == "growth-rush")
        booked = self._settled(since)
        self._say(
            f"  {ended.get('ok', 0)} answered, {ended.get('refused', 0)} refused; "
            f"{format_usd(budget['spent_nusd'])} of {format_usd(budget['limit_nusd'])} spent"
        )
        self._check("calls were refused at the edge of the budget", ended.get("refused", 0) > 0)
        self._check("calls were answered within the budget", ended.get("ok", 0) > 0)
        self._check("the budget held", budget["spent_nusd"] + budget["held_nusd"] <= budget["limit_nusd"])
        self._check("nothing stays reserved", budget["held_nusd"] == 0)
        equal = nusd_from_usd(booked["priced_usd"]) == budget["spent_nusd"] and booked["mismatches"] == 0
        self._check("ledger and warehouse agree to the nano-dollar", equal)
        return {"budget": budget, "refused": ended.get("refused", 0), "equal": equal}

    def _sum_up(self, began: datetime, rush: dict[str, Any]) -> dict[str, Any]:
        self._post("analyzer", "/v1/jobs/analyze/run")
        report = self._post("analyzer", "/v1/reports?hours=24")
        totals = self._totals(began)
        return {
            "requests": totals["requests"],
            "billed_usd": totals["cost_usd"],
            "cache_hits": totals["cache_hits"],
            "saved_by_cache_usd": totals["saved_usd"] or "0.000000000",
            "budget_limit_usd": _usd(rush["budget"]["limit_nusd"]),
            "budget_spent_usd": _usd(rush["budget"]["spent_nusd"]),
            "refused": rush["refused"],
            "ledger_equals_warehouse": rush["equal"],
            "report": report["html"],
            "dashboard": f"{self._settings.url('dashboard')}/?range=1h",
        }

    def _round(self, calls: list[DemoCall], threads: int) -> dict[str, Any]:
        since = _now()
        ended = self._run_app(calls, threads)
        self._until_quiet()
        totals = self._totals(since)
        self._check(f"all {len(calls)} calls were answered", ended.get("ok", 0) == len(calls))
        self._check("one billed row per call", totals["requests"] == len(calls))
        return totals

    def _run_app(self, calls: list[DemoCall], threads: int) -> dict[str, int]:
        """Run the application as its users would, in a process of its own that knows only two addresses."""
        path = write(calls, self._settings.data_dir / "calls.jsonl")
        environ = {
            "OPENAI_BASE_URL": f"{self._settings.url('proxy')}/v1",
            "OPENAI_API_KEY": "demo",
            "OTEL_SERVICE_NAME": "demo-app",
            PREFIX + "COLLECTOR_URL": self._settings.url("collector"),
            PREFIX + "PROXY_URL": self._settings.url("proxy"),
        }
        command = [sys.executable, "-m", "farthing.demo.app", str(path), "--threads", str(threads)]
        done = subprocess.run(command, env=child_environ(environ), stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise ServeError(f"the demo's application failed with exit code {done.returncode}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def _until_quiet(self) -> None:
        """Wait until every span and every settlement has arrived where it belongs."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            status = self._get("proxy", "/v1/status")
            if not (status["spans_waiting"] or status["settlements_waiting"] or status["in_flight"]):
                break
            time.sleep(0.1)
        self._post("collector", "/v1/flush")

    def _apply(self, what: str, document: str) -> None:
        """Apply a policy and wait until the proxy runs it."""
        applied = http_call("POST", f"{self._settings.url('policies')}/v1/apply?author=demo&reason=demo", document)
        started = time.monotonic()
        while self._get("proxy", "/v1/status")["policy_version"] < applied["version"]:
            if time.monotonic() - started > 10:
                raise ServeError(f"the proxy does not take policy version {applied['version']}")
            time.sleep(0.005)
        took_ms = (time.monotonic() - started) * 1000
        self._say(f"\napplied {what}: version {applied['version']}, in the proxy {took_ms:.0f} ms later")

    def _totals(self, since: datetime) -> dict[str, Any]:
        window: dict[str, Any] = {"since": since.isoformat(), "until": _now().isoformat(), "teams": [], "models": []}
        return self._post("analyzer", "/v1/ask/totals", window)["rows"][0]

    def _settled(self, since: datetime) -> dict[str, Any]:
        window = {"since": since.isoformat(), "until": _now().isoformat()}
        rows = self._post("analyzer", "/v1/ask/settled", window)["rows"]
        return next(row for row in rows if row["team"] == "growth")

    def _check(self, claim: str, held: bool) -> None:
        self.checks.append(Check(claim, held))
        self._say(f"  {'ok' if held else 'FAILED'}: {claim}")

    def _get(self, part: str, path: str) -> Any:
        return http_call("GET", self._settings.url(part) + path)

    def _post(self, part: str, path: str, body: object = None) -> Any:
        return http_call("POST", self._settings.url(part) + path, body)


def run_demo(data_dir: Path, once: bool, say: Say) -> int:
    """Run the demo; return the exit code, 0 where everything held."""
    folder = data_dir.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    environ = {PREFIX + "DATA_DIR": str(folder), **_ports()}
    settings = read_settings(child_environ(environ))
    supervisor = Supervisor(settings, environ, say)
    say("starting …")
    supervisor.start()
    try:
        demo = Demo(settings, environ, say)
        figures = demo.tell()
        say(f"\nreport     {figures['report']}\ndashboard  {figures['dashboard']}")
        if not once:
            say("\nstays up; Ctrl-C stops")
            supervisor.wait()
            say("stopping")
    finally:
        supervisor.stop()
    if once:
        say(json.dumps(figures))
    return 0 if all(check.held for check in demo.checks) else 1


def _ports() -> dict[str, str]:
    """Return a free port per part: its default where that is free."""
    parts = ("collector", "dashboard", "policies", "proxy", "engine", "analyzer")
    return {f"{PREFIX}{part.upper()}_PORT": str(_free_port(getattr(Settings, f"{part}_port"))) for part in parts}


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServeError("no free port on 127.0.0.1")


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _usd(nusd: int) -> str:
    return f"{Decimal(nusd).scaleb(-9):.9f}"
