"""One request's whole journey, with the real OpenAI client, the real engine and real chDB."""
from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
from playwright.sync_api import sync_playwright

from tests.end_to_end.conftest import Platform
from tests.until import until

FULL, CHEAP = "smollm2-135m", "smollm2-135m-bf16"
# USD per million tokens, as farthing/settings.py ships them
PRICES = {FULL: (Decimal("0.20"), Decimal("0.80")), CHEAP: (Decimal("0.10"), Decimal("0.40"))}

APP = """
import json, farthing, farthing.auto
from openai import OpenAI
client, out = OpenAI(), []
with farthing.tags(team={team!r}, user="ann", feature="faq", session="s1", tier="gold"):
    question = "What is the capital of France?"
    ask = dict(model={model!r}, messages=[{{"role": "user", "content": question}}], max_tokens=12)
    raw = client.chat.completions.with_raw_response.create(**ask, temperature=0)
    used = raw.parse().usage
    out.append([raw.headers["x-farthing-request-id"], used.prompt_tokens, used.completion_tokens])
    with client.chat.completions.create(**ask, temperature=0, stream=True) as events:
        chunks = list(events)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    out.append([all(chunk.choices for chunk in chunks), text])
    asked = list(client.chat.completions.create(**ask, stream=True, stream_options={{"include_usage": True}}))
    out.append([asked[-1].usage.prompt_tokens, asked[-1].usage.completion_tokens])
farthing.flush()
print(json.dumps(out))
"""


_opened: list[openai.OpenAI] = []


@pytest.fixture(autouse=True)
def _closed_clients() -> Iterator[None]:
    """Close every client that a test opened; a forgotten socket would fail whichever test runs next."""
    yield
    while _opened:
        _opened.pop().close()


def team() -> str:
    return f"team-{uuid.uuid4().hex[:10]}"


def client(platform: Platform, name: str, **extra: Any) -> openai.OpenAI:
    headers = {"x-farthing-tags": f"team={name}"}
    opened = openai.OpenAI(base_url=f"{platform.url('proxy')}/v1", api_key="any", default_headers=headers, **extra)
    _opened.append(opened)
    return opened


def ask(asking: openai.OpenAI, prompt: str, model: str = CHEAP, max_tokens: int = 4) -> Any:
    messages: Any = [{"role": "user", "content": prompt}]
    return asking.chat.completions.create(model=model, messages=messages, max_tokens=max_tokens, temperature=0)


def cost(model: str, *usages: tuple[int, int]) -> Decimal:
    into, out = PRICES[model]
    return sum((tokens[0] * into + tokens[1] * out for tokens in usages), Decimal(0)) / 1_000_000


def test_an_instrumented_call_arrives_tagged_priced_and_billed_once(platform: Platform) -> None:
    name = team()
    (request_id, prompt, completion), (no_usage_seen, text), streamed = platform.run_app(
        APP.format(team=name, model=FULL)
    )
    platform.until_quiet()
    assert no_usage_seen and "Paris" in text
    totals = platform.totals(name)
    usages = [(prompt, completion), (prompt, completion), tuple(streamed)]  # the first two are greedy, so alike
    assert totals["requests"] == 3
    assert Decimal(totals["cost_usd"]) == cost(FULL, *usages)
    rows = platform.ask("call", request_id=request_id)
    (billed,) = [row for row in rows if row["billed"]]
    (unbilled,) = [row for row in rows if not row["billed"]]
    assert (billed["scope"], unbilled["unbilled_reason"]) == ("farthing.proxy", "proxy")
    assert billed["parent_span_id"] == unbilled["span_id"]
    for row in rows:
        assert (row["team"], row["user"], row["feature"], row["session"]) == (name, "ann", "faq", "s1")
    assert (billed["input_tokens"], billed["output_tokens"]) == (prompt, completion)
    assert billed["engine_s"] > 0


def test_the_report_and_the_dashboard_show_the_figure_of_the_warehouse(platform: Platform) -> None:
    ask(client(platform, team()), "Say yes.")
    platform.until_quiet()
    report = platform.post("analyzer", "/v1/reports?hours=24")
    spent = platform.ask("totals", teams=[], models=[])[0]["cost_usd"]
    assert report["spend_usd"] == spent
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.goto(platform.url("dashboard"))
        page.wait_for_selector("#kpi-spend[data-value]")
        shown = page.get_attribute("#kpi-spend", "data-value")
        page.goto(f"file://{report['html']}")
        reported = page.get_attribute("#spend", "data-value")
        browser.close()
    assert (Decimal(shown or "NaN"), Decimal(reported or "NaN")) == (Decimal(spent), Decimal(spent))


def test_a_pushed_route_takes_effect_and_cuts_no_stream(platform: Platform) -> None:
    name, pieces, finish = team(), [], []

    def stream() -> None:
        messages: Any = [{"role": "user", "content": "Write a long story about a river."}]
        events = client(platform, name).chat.completions.create(
            model=FULL, messages=messages, max_tokens=120, temperature=0, stream=True, extra_body={"ignore_eos": True}
        )
        for event in events:
            pieces.append(event.choices[0].delta.content)
            finish.append(event.choices[0].finish_reason)

    streaming = threading.Thread(target=stream)
    streaming.start()
    until(lambda: len(pieces) > 3, "the stream has begun")
    version = platform.apply(
        f"apiVersion: farthing/v1\nkind: Policy\nmetadata: {{name: {name}}}\n"
        f"match: {{team: [{name}], model: [{FULL}]}}\naction: {{route: {{to: {CHEAP}}}}}\n"
    )
    platform.until_applied(version)
    assert streaming.is_alive()
    routed = client(platform, name).chat.completions.with_raw_response.create(
        model=FULL, messages=[{"role": "user", "content": "Say yes."}], max_tokens=2
    )
    assert name in routed.headers["x-farthing-policy"]
    streaming.join()
    assert finish[-1] == "length" and finish[:-1] == [None] * (len(finish) - 1)
    platform.until_quiet()
    (row,) = [row for row in platform.ask("call", request_id=routed.headers["x-farthing-request-id"]) if row["billed"]]
    assert (row["model"], row["routed_from"], row["policies"]) == (CHEAP, FULL, [name])


def test_64_callers_at_once_never_exceed_a_budget_by_a_nano_dollar(platform: Platform) -> None:
    name, over = team(), []
    version = platform.apply(
        f"apiVersion: farthing/v1\nkind: Budget\nmetadata: {{name: {name}}}\nscope: {{team: [{name}]}}\n"
        "limit: 0.000150001 USD\nwindow: {calendar: total}\n"
    )
    platform.until_applied(version)
    running = threading.Event()

    def watch() -> None:
        while not running.is_set():
            budget = platform.budget(name)
            over.append(budget["spent_nusd"] + budget["held_nusd"] - budget["limit_nusd"])

    def one(number: int) -> str:
        try:
            ask(asking, f"Name a colour for number {number}.")
        except openai.RateLimitError as error:
            return str(error.code)
        return "ok"

    watching = threading.Thread(target=watch)
    watching.start()
    with client(platform, name) as asking, ThreadPoolExecutor(64) as pool:
        ended = list(pool.map(one, range(128)))
    running.set()
    watching.join()
    platform.until_quiet()
    assert set(ended) == {"ok", "budget_exceeded"}
    assert over and max(over) <= 0
    budget, (settled,) = platform.budget(name), [row for row in platform.ask("settled") if row["team"] == name]
    assert budget["held_nusd"] == 0 and 0 < budget["spent_nusd"] <= budget["limit_nusd"]
    assert Decimal(budget["spent_nusd"]).scaleb(-9) == Decimal(settled["priced_usd"]) == Decimal(settled["ledger_usd"])
    assert settled["mismatches"] == 0


def test_a_budget_can_be_used_until_the_next_call_does_not_fit(platform: Platform) -> None:
    name = team()
    version = platform.apply(
        f"apiVersion: farthing/v1\nkind: Budget\nmetadata: {{name: {name}}}\nscope: {{team: [{name}]}}\n"
        "limit: 0.00006 USD\nwindow: {calendar: total}\n"
    )
    platform.until_applied(version)
    asking = client(platform, name)
    with pytest.raises(openai.RateLimitError) as refused:
        for number in range(40):
            ask(asking, f"Name a colour for {number}.")
    platform.until_quiet()
    assert "may cost up to" in refused.value.message and refused.value.type == "insufficient_quota"
    budget = platform.budget(name)
    asked = int(Decimal(refused.value.message.split("up to ")[1].split(" USD")[0]).scaleb(9))
    assert budget["free_nusd"] < asked


def test_an_identical_call_is_served_from_the_cache_and_costs_nothing(platform: Platform) -> None:
    name = team()
    version = platform.apply(
        f"apiVersion: farthing/v1\nkind: Policy\nmetadata: {{name: {name}}}\nmatch: {{team: {name}}}\n"
        "action: {cache: {ttl_s: 60}}\n"
    )
    platform.until_applied(version)
    asking = client(platform, name)
    answers = [ask(asking, "What is the capital of Italy?", max_tokens=8) for _ in range(3)]
    platform.until_quiet()
    assert answers[0] == answers[1] == answers[2]
    totals, usage = platform.totals(name), answers[0].usage
    once = cost(CHEAP, (usage.prompt_tokens, usage.completion_tokens))
    assert (totals["requests"], totals["cache_hits"]) == (3, 2)
    assert (Decimal(totals["cost_usd"]), Decimal(totals["saved_usd"])) == (once, 2 * once)


def test_a_client_that_goes_away_is_charged_what_the_engine_had_done(platform: Platform) -> None:
    name = team()
    version = platform.apply(
        f"apiVersion: farthing/v1\nkind: Budget\nmetadata: {{name: {name}}}\nscope: {{team: {name}}}\nlimit: 1 USD\n"
    )
    platform.until_applied(version)
    messages: Any = [{"role": "user", "content": "Write a long story about a mountain."}]
    with client(platform, name) as asking:
        events = asking.chat.completions.create(
            model=CHEAP, messages=messages, max_tokens=900, stream=True, extra_body={"ignore_eos": True}
        )
        for _, _ in zip(range(5), events, strict=False):
            pass
        events.close()
    until(lambda: platform.budget(name)["held_nusd"] == 0, "the hold is settled")
    platform.until_quiet()
    totals, budget = platform.totals(name), platform.budget(name)
    assert 4 <= totals["output_tokens"] < 900 and totals["input_tokens"] > 20
    assert Decimal(budget["spent_nusd"]).scaleb(-9) == Decimal(totals["cost_usd"])


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        ({"model": "gpt-unknown"}, openai.NotFoundError, "served: smollm2-135m"),
        ({"messages": []}, openai.BadRequestError, "send at least one message"),
        ({"max_tokens": 0}, openai.BadRequestError, "must be 1 or more"),
        ({"messages": "hello"}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "user", "content": "x " * 6000}]}, openai.BadRequestError, "tokens"),
    ],
)
def test_a_bad_request_raises_what_users_of_the_client_expect(
    platform: Platform, body: dict[str, Any], error: type[openai.APIStatusError], says: str
) -> None:
    given = {"model": CHEAP, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, **body}
    with pytest.raises(error, match=says) as raised:
        client(platform, team()).chat.completions.create(**given)
    assert raised.value.code and raised.value.type


def test_a_public_trace_is_replayed_as_priced_requests(platform: Platform, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = [(100 + n, 5 + n) for n in range(40)]
    lines = [f"2023-11-16 18:17:{n:02d}.0319600,{into},{out}\n" for n, (into, out) in enumerate(rows)]
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(lines))
    name = team()
    command = [sys.executable, "-m", "farthing", "replay", str(trace), "--team", name]
    done = subprocess.run(command, env=platform.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    platform.post("collector", "/v1/flush")
    totals = platform.totals(name)
    # gpt-4o-mini: 0.15 USD per million tokens in, 0.60 out
    expected = sum(into * Decimal("0.15") + out * Decimal("0.60") for into, out in rows) / 1_000_000
    assert (totals["requests"], Decimal(totals["cost_usd"])) == (40, expected)
    assert totals["duration_s"] == [None, None, None]


def test_policies_are_applied_and_budgets_shown_from_the_command_line(platform: Platform, tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "farthing", *arguments]
        done = subprocess.run(command, env=platform.environ, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    name, file = team(), tmp_path / "budget.yaml"
    file.write_text(
        f"apiVersion: farthing/v1\nkind: Budget\nmetadata: {{name: {name}}}\nscope: {{team: {name}}}\nlimit: 12.5 USD\n"
    )
    assert run("apply", str(file), "--dry-run")[1].startswith(f"added      Budget {name}\n")
    assert name not in run("budgets")[1]
    assert run("apply", str(file))[0] == 0
    assert any(line.split()[:2] == [name, "$12.50"] for line in run("budgets")[1].splitlines())
    file.write_text(file.read_text().replace("limit", "limmit"))
    code, said = run("apply", str(file))
    assert code == 2 and "limmit" in said and len(said.splitlines()) == 1
