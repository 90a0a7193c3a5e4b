"""Lines that go to a provider in batches of its own: half the price, each answered, charged and recorded once."""
from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from farthing import http_json, semconv
from farthing.errors import SettingsError
from farthing.settings import Deployment, PriceOverride, Settings
from proxy.batch import WINDOW_S
from proxy.dispatch import Deployments
from tests.ports import free_port
from tests.proxy.processes import process
from tests.proxy.provider import Provider, answered, lapsed, providing, refused
from tests.proxy.rig import COST, Rig, proxied, until
from tests.proxy.test_batches import begin, ended, lines, rows

HALF = COST // 2


@pytest.fixture(scope="module")
def running() -> Iterator[Provider]:
    made = Provider()
    with providing(made):
        yield made


@pytest.fixture
def provider(running: Provider) -> Iterator[Provider]:
    """The provider, with nothing of an earlier test."""
    running.forget()
    yield running
    running.stop_at = ""


@contextmanager
def handing_over(rig: Rig, provider: Provider, folder: Path, who: str = "openai") -> Iterator[str]:
    """Run a proxy whose one deployment hands lines over."""
    deployment = Deployment("gpt", f"http://127.0.0.1:{provider.port}/v1", who, metered=True,
                            upstream_model="gpt-real", provider_batches=True)  # fmt: skip
    prices = (
        PriceOverride(who, "gpt", input="1", output="2"),
        PriceOverride(who, "gpt", input="0.5", output="1", service_tier="batch"),
    )
    own = {"data_dir": folder / "data", "deployments": (deployment,), "prices": prices}
    with proxied(Settings(**{**vars(rig.settings), **own})) as port:
        yield f"http://127.0.0.1:{port}/v1"


def config(provider: Provider, who: str) -> str:
    """Return the same settings for a process of its own."""
    price = f"[[prices]]\nprovider = '{who}'\nmodel = 'gpt'\n"
    return (
        f"[[deployments]]\nmodel = 'gpt'\nurl = 'http://127.0.0.1:{provider.port}/v1'\nprovider = '{who}'\n"
        f"metered = true\nprovider_batches = true\n{price}input = '1'\noutput = '2'\n"
        f"{price}input = '0.5'\noutput = '1'\nservice_tier = 'batch'\n"
    )


@pytest.fixture(scope="module")
def proxy(shared_rig: Rig, running: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with handing_over(shared_rig, running, tmp_path_factory.mktemp("handing")) as url:
        yield url


def settled(rig: Rig, team: str, count: int) -> dict[str, Any]:
    """Return a team's balance once so many of its lines are recorded and charged."""
    until(lambda: len(rig.spans(team)) == count, "each line is recorded")
    until(lambda: rig.balance(team)["held_nusd"] == 0, "each line is charged")
    assert len({row["request_id"] for row in rig.settlements(team)}) == len(rig.settlements(team)) == count
    assert sum(row["charged_nusd"] for row in rig.settlements(team)) == rig.balance(team)["spent_nusd"]
    return rig.balance(team)


def codes(client: openai.OpenAI, file_id: str) -> dict[str, str]:
    return {row["custom_id"]: row["error"]["code"] for row in rows(client, file_id)}


def state_of(folder: Path, batch_id: str) -> Path:
    return folder / "data" / "proxy" / "batches" / batch_id / "provider-1.json"


def changed(path: Path, **values: Any) -> None:
    """Change a state on the disk of a proxy that is not running."""
    path.write_text(json.dumps(json.loads(path.read_bytes()) | values))


def test_lines_go_to_the_provider_as_its_own_batch_at_half_the_price(rig: Rig, provider: Provider, proxy: str) -> None:
    team = rig.budget()
    provider.result = lambda line: refused("bad") if line["body"]["user"] == "line-2" else answered(line)
    client = rig.client(team, base_url=proxy)
    done = ended(client, begin(client, lines(5, "gpt")).id)
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 4, 1)
    good, bad = rows(client, done.output_file_id), rows(client, done.error_file_id)
    balance = settled(rig, team, 5)
    assert {row["custom_id"] for row in good} == {f"line-{n}" for n in (0, 1, 3, 4)}
    for row in good:
        assert row["response"]["body"]["choices"][0]["message"]["content"] == row["custom_id"]
    assert [(row["custom_id"], row["response"]["status_code"]) for row in bad] == [("line-2", 400)]
    assert (balance["spent_nusd"], balance["held_nusd"]) == (4 * HALF, 0)
    spans = rig.spans(team)
    assert {span[semconv.SERVICE_TIER] for span in spans} == {"batch"}
    assert sorted(span[semconv.SETTLED_NUSD] for span in spans) == [0, *[HALF] * 4]
    ids = {span[semconv.REQUEST_ID] for span in spans}
    assert {row["response"]["request_id"] for row in good + bad} == ids
    (batch,) = provider.batches.values()
    sent = [json.loads(line) for line in provider.files[batch["input_file_id"]].splitlines()]
    assert {line["custom_id"] for line in sent} == ids and {line["body"]["model"] for line in sent} == {"gpt-real"}


def test_a_line_that_its_budget_refuses_is_never_handed_over(rig: Rig, provider: Provider, proxy: str) -> None:
    team = rig.budget("0 USD")
    client = rig.client(team, base_url=proxy)
    done = ended(client, begin(client, lines(2, "gpt")).id)
    assert (done.status, done.request_counts.failed) == ("completed", 2)
    errors = [row["response"]["body"]["error"]["code"] for row in rows(client, done.error_file_id)]
    assert errors == ["budget_exceeded"] * 2 and provider.asked == []


def test_a_batch_is_split_at_the_policy_s_bounds(rig: Rig, provider: Provider, proxy: str) -> None:
    team = rig.budget()
    rig.apply("apiVersion: farthing/v1\nkind: Batch\nmetadata: {name: small}\nprovider_lines: 2\n")
    version = rig.status()["policy_version"]
    until(lambda: rig.status(proxy.removesuffix("/v1"))["policy_version"] >= version, "the proxy follows")
    client = rig.client(team, base_url=proxy)
    assert ended(client, begin(client, lines(5, "gpt")).id).request_counts.completed == 5
    http_json.call("DELETE", f"{rig.policies}/v1/objects/Batch/small")
    sizes = [provider.files[one["input_file_id"]].count(b"\n") for one in provider.batches.values()]
    assert sizes == [2, 2, 1]
    assert settled(rig, team, 5)["spent_nusd"] == 5 * HALF


def test_lines_that_expired_at_the_provider_say_so_and_cost_nothing(rig: Rig, provider: Provider, proxy: str) -> None:
    team = rig.budget()
    provider.ends_as = "expired"
    fates = {"line-0": answered, "line-1": lambda line: lapsed(), "line-2": lambda line: None}
    provider.result = lambda line: fates[line["body"]["user"]](line)
    client = rig.client(team, base_url=proxy)
    done = ended(client, begin(client, lines(3, "gpt")).id)
    assert (done.request_counts.completed, done.request_counts.failed) == (1, 2)
    assert codes(client, done.error_file_id) == {"line-1": "batch_expired", "line-2": "batch_expired"}
    assert settled(rig, team, 3)["spent_nusd"] == HALF


def test_a_batch_that_the_provider_refuses_fails_line_by_line_with_its_reason(
    rig: Rig, provider: Provider, proxy: str
) -> None:
    team = rig.budget()
    provider.ends_as = "failed"
    provider.errors = [{"code": "model_not_found", "message": "no such model", "line": 1, "param": "body.model"}]
    client = rig.client(team, base_url=proxy)
    done = ended(client, begin(client, lines(2, "gpt")).id)
    found = [row["error"] for row in rows(client, done.error_file_id)]
    assert found == [{"code": "model_not_found", "message": "line 1: no such model"}] * 2
    assert settled(rig, team, 2)["spent_nusd"] == 0


def test_a_batch_for_which_the_account_has_no_room_is_asked_for_again(rig: Rig, provider: Provider, proxy: str) -> None:
    team = rig.budget()
    provider.ends_as = "failed"
    provider.errors = [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached", "line": None}]
    client = rig.client(team, base_url=proxy)
    batch = begin(client, lines(2, "gpt"))
    until(lambda: len(provider.batches) == 2, "it is asked for again")
    provider.ends_as = "completed"
    assert ended(client, batch.id).request_counts.completed == 2
    assert settled(rig, team, 2)["spent_nusd"] == 2 * HALF


def test_a_cancelled_batch_is_cancelled_at_the_provider_and_keeps_what_was_answered(
    rig: Rig, provider: Provider, proxy: str
) -> None:
    team = rig.budget()
    provider.ends_as = "in_progress"
    provider.result = lambda line: answered(line) if line["body"]["user"] == "line-0" else None
    client = rig.client(team, base_url=proxy)
    batch = begin(client, lines(3, "gpt"))
    until(lambda: provider.batches, "it is at the provider")
    assert rig.balance(team)["held_nusd"] > 0
    assert client.batches.cancel(batch.id).status == "cancelling"
    done = ended(client, batch.id)
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("cancelled", 1, 0)
    assert [one["status"] for one in provider.batches.values()] == ["cancelled"]
    assert settled(rig, team, 3)["spent_nusd"] == HALF
    assert sorted(span[semconv.OUTCOME] for span in rig.spans(team)) == ["aborted", "aborted", "ok"]


def test_a_batch_goes_on_after_a_restart_and_no_line_is_handed_over_twice(
    rig: Rig, provider: Provider, tmp_path: Path
) -> None:
    team = rig.budget()
    provider.ends_as = "in_progress"
    with handing_over(rig, provider, tmp_path) as url:
        batch = begin(rig.client(team, base_url=url), lines(3, "gpt"))
        until(lambda: any(path.startswith("batches/") for _, path in provider.asked), "it is looked at")
    assert rig.balance(team)["held_nusd"] > 0 and rig.spans(team) == []
    folder = state_of(tmp_path, batch.id).parent
    with (folder / "provider.begun").open("a") as begun:
        begun.write("req_orphan\n")  # killed before its row was written
    http_json.call("POST", f"{rig.policies}/v1/ledger", [
        {"op": "reserve", "request_id": "req_orphan", "attempt": 0, "amount_nusd": 5000, "lifetime_s": 90_000,
         "facts": {"tenant": "default", "team": team}}])  # fmt: skip
    provider.ends_as = "completed"
    with handing_over(rig, provider, tmp_path) as url:
        client = rig.client(team, base_url=url)
        assert ended(client, batch.id).request_counts.completed == 3
        until(lambda: rig.balance(team)["held_nusd"] == 0, "all is settled")
        assert rig.balance(team)["spent_nusd"] == 3 * HALF
        charged = rig.settlements(team)
    # a kill between the ledger and the journal: the last answers are found again, and charged no more
    journal = folder / "answers.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:1]))
    changed(folder / "batch.json", status="in_progress")
    changed(folder / "provider-1.json", state="made")
    with handing_over(rig, provider, tmp_path) as url:
        client = rig.client(team, base_url=url)
        done = ended(client, batch.id)
        assert Counter(row["custom_id"] for row in rows(client, done.output_file_id)) == Counter(
            {f"line-{number}": 1 for number in range(3)}
        )
        until(lambda: rig.status(url.removesuffix("/v1"))["settlements_waiting"] == 0, "the ledger has heard")
    assert rig.settlements(team) == charged and rig.balance(team)["spent_nusd"] == 3 * HALF
    assert set(provider.lines.values()) == {1} and len(provider.batches) == 1


def killed_at(
    rig: Rig, provider: Provider, folder: Path, steps: tuple[str, ...], content: bytes, who: str = "openai"
) -> None:
    """Kill a proxy at one step of a batch after the other; each line is answered and charged once."""
    team, port = rig.budget(), free_port()
    client = rig.client(team, base_url=f"http://127.0.0.1:{port}/v1", max_retries=5)
    batch_id = ""
    for step in steps:
        provider.stop_at = step
        provider.stopped.clear()
        with process(rig, folder, port, config(provider, who)) as proxy:
            batch_id = batch_id or begin(client, content, json.loads(content.splitlines()[0])["url"]).id
            assert provider.stopped.wait(300)
            proxy.kill()
            proxy.wait()
        if step == "before":  # as if it had been killed long ago: what is not in the list by then was not made
            state = state_of(folder, batch_id)
            assert json.loads(state.read_bytes())["state"] == "creating"
            changed(state, asked_at=time.time() - 301)
    provider.stop_at = ""
    with process(rig, folder, port, config(provider, who)):
        done = ended(client, batch_id)
        found = Counter(row["custom_id"] for row in rows(client, done.output_file_id))
        balance = settled(rig, team, 4)
    assert found == Counter({f"line-{number}": 1 for number in range(4)})
    assert (balance["spent_nusd"], balance["held_nusd"]) == (4 * HALF, 0)
    assert set(provider.lines.values()) == {1}, "a line was handed over twice"


def test_a_batch_that_was_made_and_not_heard_of_is_found_and_not_made_again(
    rig: Rig, provider: Provider, proxy: str
) -> None:
    team = rig.budget()
    provider.breaks_at = "after"
    client = rig.client(team, base_url=proxy)
    assert ended(client, begin(client, lines(2, "gpt")).id).request_counts.completed == 2
    assert settled(rig, team, 2)["spent_nusd"] == 2 * HALF
    assert len(provider.batches) == 1 and ("GET", "batches?limit=100") in provider.asked


def test_a_batch_that_nobody_made_is_asked_for_again_once_it_would_have_turned_up(
    rig: Rig, provider: Provider, tmp_path: Path
) -> None:
    team = rig.budget()
    provider.breaks_at = "before"
    with handing_over(rig, provider, tmp_path) as url:
        batch = begin(rig.client(team, base_url=url), lines(2, "gpt"))
        until(lambda: ("GET", "batches?limit=100") in provider.asked, "it is looked for")
    assert provider.batches == {}
    changed(state_of(tmp_path, batch.id), asked_at=time.time() - 301)
    with handing_over(rig, provider, tmp_path) as url:
        assert ended(rig.client(team, base_url=url), batch.id).request_counts.completed == 2
    assert rig.balance(team)["spent_nusd"] == 2 * HALF and set(provider.lines.values()) == {1}


@pytest.mark.parametrize(
    ("past_s", "answers", "code"), [(1, True, "batch_expired"), (7300, False, "batch_lost")], ids=["expired", "lost"]
)
def test_when_the_window_closes_lines_that_have_no_answer_say_why(
    rig: Rig, provider: Provider, tmp_path: Path, past_s: int, answers: bool, code: str
) -> None:
    team = rig.budget()
    provider.ends_as = "in_progress"
    provider.result = lambda line: answered(line) if line["body"]["user"] == "line-0" else None
    with handing_over(rig, provider, tmp_path) as url:
        batch = begin(rig.client(team, base_url=url), lines(2, "gpt"))
        until(lambda: any(path.startswith("batches/") for _, path in provider.asked), "it is at the provider")
    held = rig.balance(team)["held_nusd"]
    changed(state_of(tmp_path, batch.id).with_name("batch.json"), created_at=int(time.time()) - WINDOW_S - past_s)
    with handing_over(rig, provider, tmp_path) as url:
        client = rig.client(team, base_url=url)
        done = ended(client, batch.id)
        assert done.request_counts.completed == int(answers)
        missing = {"line-1"} if answers else {"line-0", "line-1"}
        assert codes(client, done.error_file_id) == dict.fromkeys(missing, code)
        until(lambda: rig.balance(team)["held_nusd"] == 0, "all is settled")
    assert rig.balance(team)["spent_nusd"] == (HALF if answers else held)
    assert [one["status"] for one in provider.batches.values()] == ["cancelled" if answers else "in_progress"]


@pytest.mark.proof
def test_a_kill_at_any_step_neither_loses_a_line_nor_hands_one_over_twice(
    rig: Rig, provider: Provider, tmp_path: Path
) -> None:
    killed_at(rig, provider, tmp_path, ("upload", "before", "after", "look", "content"), lines(4, "gpt"))


@pytest.mark.parametrize(
    ("deployment", "why"),
    [
        (Deployment("m", "http://x/v1", "azure", metered=True, provider_batches=True), "speaks azure"),
        (Deployment("m", "http://x/v1", "openai", provider_batches=True), "metered = true"),
    ],
    ids=["another API", "one's own"],
)
def test_a_deployment_without_such_batches_stops_the_start(deployment: Deployment, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        Deployments(Settings(deployments=(deployment,)))
