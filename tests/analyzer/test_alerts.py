"""analyzer/alerting: told once a period, with the driver named, retried until taken, never lost by a restart."""
from __future__ import annotations

import hashlib
import hmac
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import sqlalchemy as sa
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message
from typer.testing import CliRunner

from analyzer.alerting.channels import HEADER_ID, HEADER_SIGNATURE, check, send, signature
from analyzer.alerting.conditions import Scene, facts
from analyzer.alerting.firing import Fact, firing, start_of
from analyzer.alerting.outbox import GIVE_UP_AFTER, Outbox
from analyzer.alerting.pace import Paces
from analyzer.alerting.post import DeliveryError, post
from analyzer.alerting.watch import Watch
from analyzer.main import app
from farthing import http_json
from farthing.cli import app as command
from farthing.errors import ServeError, SettingsError
from farthing.policy.kinds.alert import (
    Anomaly,
    BudgetUsed,
    BurnRate,
    Forecast,
    Rollback,
    SloBurn,
    Spend,
    TelemetryGap,
    UnpricedModels,
)
from farthing.policy.kinds.slo import Slo
from farthing.settings import AlertChannel, Settings
from farthing.warehouse import Warehouse
from policies.main import app as control_plane
from tests.ports import free_port

AT = datetime(2026, 11, 20, 12, 30, tzinfo=timezone.utc)
FACT = Fact("team <!here> & co", "Too much <spent>", "By *search*.", {"cost_usd": "1.5"})
FIRING = firing("dear", "finance", "day", FACT, AT)
USD = 10**9


@dataclass
class Receiver:
    """A webhook's receiver; answers with the statuses that it was given, then with 200."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def receiving(*statuses: int) -> Iterator[Receiver]:
    receiver = Receiver(statuses=list(statuses))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            status = receiver.statuses.pop(0) if receiver.statuses else 200
            self.send_response(status)
            if status == 302:
                self.send_header("location", receiver.url)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook?a=b"
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    made = sa.create_engine(f"sqlite:///{tmp_path / 'jobs.db'}")
    yield made
    made.dispose()


class Clock:
    def __init__(self, now: datetime = AT) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


# Conditions


@pytest.fixture
def scene(warehouse: Warehouse, engine: sa.Engine, tenant: str) -> Callable[..., Scene]:
    def make(now: datetime = AT, **budget: Any) -> Scene:
        start = now.replace(day=1, hour=0, minute=0)
        end = (start + timedelta(days=31)).replace(day=1)
        line = {
            "name": "search", "limit_nusd": 100 * USD, "spent_nusd": 0, "held_nusd": 0, "leased_nusd": 0,
            "period_start": start.isoformat(), "period_end": end.isoformat(), **budget,
        }  # fmt: skip
        return Scene(warehouse, tenant, now, {"search": line}, Paces(engine))

    return make


def test_spend_above_a_limit_names_team_and_model(scene: Callable[..., Scene], put_calls: Any, tenant: str) -> None:
    million = {"input": 1_000_000, "output": 0, "at": AT - timedelta(hours=1)}
    put_calls(tenant, [{"team": "search", **million}, {"team": "search", **million}, {"team": "ads", **million}])
    (fact,) = facts(scene(), Spend(above_nusd=44 * USD // 100))
    assert (fact.subject, fact.title) == ("All teams", "All teams spent $0.4500 in 24 hours, more than $0.4400")
    assert fact.text == "3 requests. Most of it: team search $0.3000 (66.7 %) and model gpt-4o-mini $0.4500 (100.0 %)."
    assert facts(scene(), Spend(above_nusd=45 * USD // 100)) == []
    assert facts(scene(), Spend(above_nusd=USD // 10, hours=0.5)) == []
    (fact,) = facts(scene(), Spend(above_nusd=USD // 10, teams=("ads",)))
    assert fact.title == "Team ads spent $0.1500 in 24 hours, more than $0.1000"


def test_an_hour_is_compared_with_the_same_hour_of_earlier_days(
    scene: Callable[..., Scene], put_calls: Any, tenant: str
) -> None:
    hour = AT.replace(hour=11, minute=20)
    usual = [{"input": 10_000_000, "output": 0, "at": hour - timedelta(days=day)} for day in range(1, 6)]
    put_calls(tenant, [*usual, *({"team": "search", "input": 10_000_000, "output": 0, "at": hour} for _ in range(4))])
    (fact,) = facts(scene(), Anomaly(times=3))
    assert "spent $6.00 from 2026-11-20 11:00 UTC on, in one hour: 4.0 times the median" in fact.title
    assert "over 5 days before is $1.50. Most of it: team search" in fact.text
    assert facts(scene(), Anomaly(times=4.5)) == []
    assert facts(scene(), Anomaly(times=3, above_nusd=7 * USD)) == []


def test_two_days_are_no_history_to_compare_an_hour_with(
    scene: Callable[..., Scene], put_calls: Any, tenant: str
) -> None:
    hour = AT.replace(hour=11, minute=20)
    calls = [{"input": 10**6 * 10**day, "output": 0, "at": hour - timedelta(days=2 - day)} for day in range(3)]
    put_calls(tenant, calls)
    assert facts(scene(), Anomaly()) == []


def test_a_model_without_a_price_is_named_each_for_itself(
    scene: Callable[..., Scene], put_calls: Any, tenant: str
) -> None:
    at = AT - timedelta(hours=2)
    put_calls(tenant, [{"model": name, "input": 5, "output": 5, "at": at} for name in ("gpt-77", "gpt-78", "gpt-78")])
    found = facts(scene(), UnpricedModels())
    assert [(fact.subject, fact.figures["requests"]) for fact in found] == [("openai gpt-78", 2), ("openai gpt-77", 1)]
    assert facts(scene(), UnpricedModels(hours=1)) == []


def test_silence_after_calls_is_told_and_silence_without_calls_is_none(
    scene: Callable[..., Scene], put_calls: Any, tenant: str
) -> None:
    now = datetime.now(timezone.utc)
    assert facts(scene(now), TelemetryGap()) == []
    put_calls(tenant, [{"input": 5, "output": 5, "at": now - timedelta(minutes=1)}])
    assert facts(scene(now + timedelta(minutes=20)), TelemetryGap()) == []
    (fact,) = facts(scene(now + timedelta(minutes=45)), TelemetryGap())
    assert fact.title.startswith("Nothing was recorded since 20") and "1 requests came" in fact.text
    assert facts(scene(now + timedelta(days=3)), TelemetryGap()) == []


def test_a_budget_s_share_is_told_from_the_ledger_s_own_line(scene: Callable[..., Scene]) -> None:
    assert facts(scene(spent_nusd=79 * USD), BudgetUsed(budget="search", share=0.8)) == []
    (fact,) = facts(scene(spent_nusd=80 * USD, held_nusd=USD), BudgetUsed(budget="search", share=0.8))
    assert fact.title == "Budget search has used 80.0 % of $100.00"
    with pytest.raises(ValueError, match="there is no budget 'serch'; known: search"):
        facts(scene(), BudgetUsed(budget="serch"))


def test_an_objective_burns_when_the_short_and_the_long_window_miss_it_too_often(
    scene: Callable[..., Scene], put_calls: Any, tenant: str
) -> None:
    wanted = SloBurn(name="quick", factor=10, fast_hours=1, slow_hours=6)
    slow = {"team": "search", "input": 5, "output": 5, "seconds": 3.0, "at": AT - timedelta(minutes=10)}
    earlier = {**slow, "seconds": 0.1, "at": AT - timedelta(hours=3)}
    put_calls(tenant, [slow] * 5 + [earlier] * 20)
    quick = Slo.from_written({"name": "quick", "latency": {"share": "98%", "within_ms": 1000}})
    seen = replace(scene(), slos={"quick": quick})
    (fact,) = facts(seen, replace_(wanted, factor=9.9))
    assert fact.title == "Slo quick burns its error budget 10.0 times as fast as its 28 days allow"
    assert "5 of 5 calls missed it (latency) in 1 h, 5 of 25 in 6 h; 0.98 have to be good. " in fact.text
    assert "Most of them: team search on gpt-4o-mini, 5." in fact.text
    assert facts(seen, replace_(wanted, factor=11)) == []  # the long window does not burn so fast
    assert facts(seen, replace_(wanted, min_calls=26)) == []
    with pytest.raises(ValueError, match="there is no Slo 'quick'; known: none"):
        facts(scene(), wanted)


def replace_(wanted: SloBurn, **fields: Any) -> SloBurn:
    return wanted.model_copy(update=fields)


def rolled_back(policy: str, at: datetime, version: int = 7) -> dict[str, Any]:
    changes = [{"kind": "Policy", "name": policy, "change": "changed"}]
    return {"act": "rollback", "at": at.isoformat(), "reason": "errors: 0.2", "version": version, "changes": changes}


def test_a_rollback_is_told_with_its_reason_once_whatever_the_period(
    scene: Callable[..., Scene], engine: sa.Engine
) -> None:
    entries = [rolled_back("cheap", AT - timedelta(hours=1)), rolled_back("other", AT - timedelta(days=2))]
    seen = replace(scene(), rollbacks=entries)
    (fact,) = facts(seen, Rollback())
    assert fact.title == "Policy cheap was rolled back to shadow on 2026-11-20 11:30 UTC"
    assert fact.text.startswith("errors: 0.2. ") and fact.figures["version"] == 7
    assert facts(seen, Rollback(policies=("dear",))) == []
    outbox = Outbox(engine)
    assert outbox.put(firing("back", "", "hour", fact, AT), ("ops",))
    assert not outbox.put(firing("back", "", "hour", fact, AT + timedelta(hours=5)), ("ops",))
    again = replace(fact, subject="cheap in version 9")
    assert outbox.put(firing("back", "", "hour", again, AT), ("ops",))


def looks(scene: Scene, *spent_usd: float, hours: float) -> None:
    """Note what was spent at so many hours between looks, the last of them now."""
    for number, spent in enumerate(spent_usd):
        at = scene.now - timedelta(hours=hours * (len(spent_usd) - 1 - number))
        scene.paces.note([{**scene.budgets["search"], "spent_nusd": int(spent * USD)}], at)


def test_a_budget_burns_when_the_short_and_the_long_pace_are_both_too_fast(scene: Callable[..., Scene]) -> None:
    wanted = BurnRate(budget="search", factor=2)  # 100 USD in 30 days are 0.139 USD an hour
    new = scene()
    looks(new, 0, 0.3, 0.6, hours=1)
    assert facts(new, wanted) == []  # not six hours of looks yet
    blip = scene(AT + timedelta(days=1))
    looks(blip, 1, 1, 1, 1, 1, 1, 1.4, hours=1)
    assert facts(blip, wanted) == []
    burning = scene(AT + timedelta(days=2))
    looks(burning, 2, 2.3, 2.6, 2.9, 3.2, 3.5, 3.8, hours=1)
    (fact,) = facts(burning, wanted)
    assert fact.title == "Budget search burns 2.2 times as fast as its window allows"
    assert "$0.3000 an hour over 1 h, $0.3000 an hour over 6 h; an even pace is $0.1389 an hour" in fact.text


def test_a_forecast_says_when_a_budget_will_be_used_up(scene: Callable[..., Scene]) -> None:
    wanted = Forecast(budget="search", hours=24)
    calm = scene(spent_nusd=40 * USD)
    looks(calm, 38, 40, hours=24)  # 2 USD a day: 60 are left for 10 days
    assert facts(calm, wanted) == []
    hasty = scene(AT + timedelta(days=1), spent_nusd=50 * USD)
    looks(hasty, 40, 50, hours=24)
    (fact,) = facts(hasty, wanted)
    assert fact.title == "Budget search will be used up on 2026-11-26 12:30 UTC, before its window ends"


def test_a_new_period_begins_at_nothing_and_a_pace_knows_it(scene: Callable[..., Scene]) -> None:
    paces, line = scene().paces, {"name": "b", "period_start": "p1", "spent_nusd": 7 * USD}
    paces.note([line], AT - timedelta(hours=2))
    paces.note([line | {"spent_nusd": 9 * USD}], AT - timedelta(hours=1))
    paces.note([line | {"period_start": "p2", "spent_nusd": USD}], AT)
    assert paces.nusd_per_hour("b", 2, AT) == 1.5 * USD
    assert paces.nusd_per_hour("b", 2.1, AT) is None


def test_looks_within_minutes_of_each_other_leave_one_row(scene: Callable[..., Scene], engine: sa.Engine) -> None:
    paces = scene().paces
    for minute in range(21):
        line = {"name": "b", "period_start": "p", "spent_nusd": minute}
        paces.note([line], AT + timedelta(minutes=minute))
    with engine.connect() as connection:
        spent = connection.execute(sa.text("SELECT spent_nusd FROM farthing_budget_looks ORDER BY at")).scalars().all()
    assert (spent[0], spent[-1]) == (0, 20) and len(spent) <= 6


# Once a period


@pytest.mark.parametrize(
    ("every", "start"),
    [("hour", "2026-11-20T12"), ("day", "2026-11-20T00"), ("week", "2026-11-16T00"), ("month", "2026-11-01T00")],
)
def test_a_period_begins_on_the_hour_the_day_monday_and_the_first(every: str, start: str) -> None:
    assert start_of(every, AT).isoformat() == f"{start}:00:00+00:00"


def test_a_firing_is_stored_once_a_period_for_each_subject(engine: sa.Engine) -> None:
    outbox = Outbox(engine)
    assert outbox.put(FIRING, ("ops", "ops", "chat"))
    assert not outbox.put(firing("dear", "finance", "day", FACT, AT + timedelta(hours=11)), ("ops",))
    assert outbox.put(firing("dear", "finance", "day", FACT, AT + timedelta(hours=12)), ("ops",))
    assert outbox.put(firing("dear", "finance", "day", Fact("other", "t", "x"), AT), ("ops",))
    assert len(outbox.due(AT + timedelta(days=1))) == 4


def test_what_is_not_taken_is_tried_later_and_later_and_given_up_after_a_week(engine: sa.Engine) -> None:
    outbox = Outbox(engine)
    outbox.put(FIRING, ("ops",))
    waits, now = [], AT
    while now - AT < timedelta(hours=4):
        (delivery,) = outbox.due(now)
        outbox.failed(delivery, "it is away", now)
        tried = now
        while not outbox.due(now):
            now += timedelta(seconds=10)
        waits.append((now - tried).total_seconds())
    assert waits[:8] == [30, 60, 120, 240, 480, 960, 1920, 3600]
    (delivery,) = outbox.due(AT + GIVE_UP_AFTER)
    outbox.failed(delivery, "it is away", AT + GIVE_UP_AFTER)
    assert outbox.due(AT + timedelta(days=30)) == []
    ((one,),) = [row["deliveries"] for row in outbox.newest()]
    assert (one["state"], one["error"]) == ("failed", "it is away")


def test_what_was_told_is_dropped_after_a_while_and_what_waits_is_not(engine: sa.Engine) -> None:
    outbox = Outbox(engine)
    outbox.put(FIRING, ("ops",))
    outbox.forget_before(AT + timedelta(days=1))
    (delivery,) = outbox.due(AT)
    outbox.sent(delivery, AT)
    assert outbox.due(AT + timedelta(days=9)) == []
    outbox.forget_before(AT + timedelta(days=1))
    assert outbox.newest() == []


# Channels


def test_a_webhook_is_signed_and_carries_the_alert_s_id(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("HOOK", receiver.url)
        monkeypatch.setenv("HOOK_KEY", "s3cret")
        send(AlertChannel("w", "webhook", url_env="HOOK", secret_env="HOOK_KEY", allow_private=True), FIRING)
    ((headers, body),) = receiver.got
    told = json.loads(body)
    assert (told["id"], told["alert"], told["figures"]) == (FIRING.key, "dear", {"cost_usd": "1.5"})
    assert headers[HEADER_ID] == FIRING.key
    at, digest = (part.partition("=")[2] for part in headers[HEADER_SIGNATURE].split(","))
    assert digest == hmac.new(b"s3cret", at.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert abs(time.time() - int(at)) < 60
    assert signature("s3cret", body, int(at)) == headers[HEADER_SIGNATURE] != signature("other", body, int(at))


def test_slack_gets_text_that_mentions_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("HOOK", receiver.url)
        send(AlertChannel("s", "slack", url_env="HOOK", allow_private=True), FIRING)
    assert json.loads(receiver.got[0][1]) == {"text": "*Too much &lt;spent&gt;*\nBy *search*."}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:9/x", "inside this network; set allow_private = true"),
        ("http://localhost:9/x", "inside this network"),
        ("http://169.254.169.254/latest/meta-data", "inside this network"),
        ("http://[::1]:9/x", "inside this network"),
        ("http://10.0.0.1/x", "inside this network"),
        ("file:///etc/passwd", "not an http or https URL"),
    ],
    ids=["loopback", "localhost", "metadata", "ipv6", "private", "file"],
)
def test_an_address_inside_the_network_is_refused(url: str, says: str) -> None:
    with pytest.raises(DeliveryError, match=says):
        post(url, b"{}", {})


@pytest.mark.parametrize("url", ["http://h:abc/x", f"http://{'a' * 70}.example/", "http://[::1", "http://h:0x/y"])
def test_an_address_that_is_none_keeps_no_other_message_waiting(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("HOOK", url)
    with pytest.raises(DeliveryError):
        send(AlertChannel("w", "webhook", url_env="HOOK"), FIRING)


def test_a_redirect_is_not_followed_and_an_error_is_told() -> None:
    with receiving(302, 500) as receiver:
        with pytest.raises(DeliveryError, match=r"answered 302 \(redirects are not followed\)"):
            post(receiver.url, b"{}", {}, allow_private=True)
        with pytest.raises(DeliveryError, match="answered 500"):
            post(receiver.url, b"{}", {}, allow_private=True)
    assert len(receiver.got) == 2
    with pytest.raises(DeliveryError, match="refused"):
        post(receiver.url, b"{}", {}, allow_private=True)


def test_a_name_is_looked_up_once_so_that_another_answer_the_next_time_gains_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_up: list[str] = []

    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        looked_up.append(host)
        address = host if host != "hooks.example" or len(looked_up) > 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    with receiving() as receiver:
        url = receiver.url.replace("127.0.0.1", "hooks.example")
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        post(url, b"{}", {}, allow_private=True)
    assert looked_up.count("hooks.example") == 1
    assert receiver.got[0][0]["host"].startswith("hooks.example:")


def test_an_e_mail_arrives_with_an_id_that_a_repeat_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[Any] = []

    class Inbox(Message):
        def handle_message(self, message: Any) -> None:
            got.append(message)

    fact = replace(FACT, title="Too much\r\nBcc: everybody@example.com")  # a team may be called so
    port = free_port()
    server = Controller(Inbox(), hostname="127.0.0.1", port=port)
    server.start()
    try:
        channel = AlertChannel("m", "email", to="ann@x.org, bob@x.org", smtp=f"127.0.0.1:{port}", sender="f@y.org")
        send(channel, FIRING)
        monkeypatch.setenv("USER_OF_MAIL", "u")
        monkeypatch.setenv("WORD_OF_MAIL", "p")
        secured = replace(channel, smtp_user_env="USER_OF_MAIL", smtp_password_env="WORD_OF_MAIL")
        with pytest.raises(DeliveryError, match="offers no STARTTLS, so the password is not sent"):
            send(secured, FIRING)
        send(channel, replace(FIRING, fact=fact))
        with pytest.raises(DeliveryError, match="'many'"):
            send(replace(channel, smtp="127.0.0.1:many"), FIRING)
    finally:
        server.stop()
    message, of_many_lines = got
    assert of_many_lines["subject"] == "[Farthing] Too much Bcc: everybody@example.com"
    assert of_many_lines["bcc"] is None
    assert (message["subject"], message["to"]) == ("[Farthing] Too much <spent>", "ann@x.org, bob@x.org")
    assert message["message-id"] == f"<{FIRING.key}@y.org>"
    assert "By *search*." in message.get_payload()


def test_a_file_gets_one_line_for_each(tmp_path: Path) -> None:
    channel = AlertChannel("f", "file", to=str(tmp_path / "new" / "alerts.jsonl"))
    send(channel, FIRING)
    send(channel, FIRING)
    lines = [json.loads(line) for line in (tmp_path / "new" / "alerts.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [FIRING.key] * 2


@pytest.mark.parametrize(
    ("channels", "says"),
    [
        ((AlertChannel("a", "pager"),), "kind = 'pager'; allowed are email, slack, webhook, file"),
        ((AlertChannel("a", "webhook"),), "needs url_env"),
        ((AlertChannel("a", "email"),), "needs to"),
        ((AlertChannel("a", "file", to="x"), AlertChannel("a", "file", to="y")), "is there twice"),
    ],
    ids=["kind", "url", "to", "twice"],
)
def test_a_wrong_channel_is_refused_at_the_start(channels: tuple[AlertChannel, ...], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        check(channels)


# All of it


DOCUMENTS = """\
apiVersion: farthing/v1
kind: Budget
metadata: {name: search}
scope: {team: search}
limit: 0 USD
---
apiVersion: farthing/v1
kind: Alert
metadata: {name: dear-day, owner: finance}
when: {spend: {above: 0.10 USD, hours: 744}}
to: [hook, nowhere]
---
apiVersion: farthing/v1
kind: Alert
metadata: {name: no-such-budget}
when: {budget_used: {budget: serch}}
to: [hook]
"""


@pytest.fixture
def settings(tmp_path: Path, tenant: str, serve: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("HOOK", "http://127.0.0.1:9/closed")
    channel = AlertChannel("hook", "webhook", url_env="HOOK", allow_private=True)
    made = {"data_dir": tmp_path, "tenant": tenant, "alert_channels": (channel,), "analyze_interval_s": 0.0}
    with serve(control_plane(Settings(data_dir=tmp_path))) as port:
        http_json.call("POST", f"http://127.0.0.1:{port}/v1/apply", DOCUMENTS)
        yield Settings(**made, alert_interval_s=3600.0, policies_url=f"http://127.0.0.1:{port}")


def test_an_alert_fires_once_is_retried_over_a_restart_and_its_problems_are_told(
    settings: Settings, warehouse: Warehouse, engine: sa.Engine, put_calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    put_calls(settings.tenant, [{"team": "search", "input": 1_000_000, "output": 0, "at": AT - timedelta(hours=1)}])
    first = Watch(settings, warehouse, engine, clock).look()
    assert (first.alerts, first.fired, first.sent, first.not_sent) == (2, 1, 0, 2)
    assert first.problems == ("alert no-such-budget: there is no budget 'serch'; known: search",)
    with receiving(503) as receiver:
        monkeypatch.setenv("HOOK", receiver.url)
        clock.now += timedelta(seconds=31)
        again = Watch(settings, warehouse, engine, clock)  # a new process
        assert (again.look().fired, len(receiver.got)) == (0, 1)
        clock.now += timedelta(seconds=61)
        assert again.look().sent == 1
        clock.now += timedelta(seconds=600)
        assert (again.look().sent, len(receiver.got)) == (0, 2)
    told = json.loads(receiver.got[1][1])
    assert (told["alert"], told["owner"], told["subject"]) == ("dear-day", "finance", "All teams")
    (one,) = again.outbox.newest()
    assert [(delivery["channel"], delivery["state"]) for delivery in one["deliveries"]] == [
        ("hook", "sent"), ("nowhere", "waiting"),
    ]  # fmt: skip
    assert "the settings have no alert channel 'nowhere'; known: hook" in one["deliveries"][1]["error"]


def test_a_control_plane_that_is_away_stops_no_message(
    settings: Settings, warehouse: Warehouse, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = replace(settings, policies_url="http://127.0.0.1:9")
    watch = Watch(away, warehouse, engine, Clock())
    watch.outbox.put(FIRING, ("hook",))
    with receiving() as receiver:
        monkeypatch.setenv("HOOK", receiver.url)
        looked = watch.look()
    assert (looked.sent, len(receiver.got)) == (1, 1)
    assert "nobody answers at http://127.0.0.1:9" in looked.problems[0]


def test_the_commands_look_list_and_test(
    settings: Settings, warehouse: Warehouse, serve: Any, monkeypatch: pytest.MonkeyPatch, put_calls: Any
) -> None:
    at = datetime.now(timezone.utc) - timedelta(hours=1)
    put_calls(settings.tenant, [{"team": "search", "input": 1_000_000, "output": 0, "at": at}])
    with serve(app(settings, warehouse)) as port, receiving() as receiver:
        monkeypatch.setenv("HOOK", receiver.url)
        monkeypatch.setenv("FARTHING_ANALYZER_URL", f"http://127.0.0.1:{port}")
        run = CliRunner()
        assert run.invoke(command, ["alert", "list"]).output == "no alert has fired\n"
        looked = run.invoke(command, ["alert", "look"])
        assert (looked.exit_code, looked.stdout) == (
            1, "2 alerts looked at, 1 fired, 1 messages sent, 1 not taken\n",
        )  # fmt: skip
        listed = run.invoke(command, ["alert", "list"]).output
        assert "dear-day" in listed and "hook: sent" in listed and "nowhere: waiting after 1 tries" in listed
        assert run.invoke(command, ["alert", "test", "hook"]).output == "sent to hook\n"
        with pytest.raises(ServeError, match="channel='hok' is unknown; known: hook"):
            run.invoke(command, ["alert", "test", "hok"], catch_exceptions=False)
    assert len(receiver.got) == 2


@pytest.mark.parametrize(
    ("when", "says"),
    [
        ("{}", "nothing is given; write exactly one of spend, burn_rate"),
        ("{spend: {above: 1 USD}, unpriced_models: {}}", "spend and unpriced_models is given"),
        ("{burn_rate: {budget: search, fast_hours: 6, slow_hours: 6}}", "fast_hours 6 must be below slow_hours 6"),
        ("{spend: {above: 5}}", "an amount and its currency, such as 5000 USD"),
        ("{spent: {above: 5 USD}}", "spent"),
    ],
    ids=["none", "two", "order", "currency", "unknown"],
)
def test_a_wrong_alert_is_refused_with_what_is_allowed(when: str, says: str) -> None:
    from farthing.errors import DocumentError
    from policies.load import load

    text = f"apiVersion: farthing/v1\nkind: Alert\nmetadata: {{name: a}}\nwhen: {when}\nto: [ops]\n"
    with pytest.raises(DocumentError, match=says):
        load(text)
