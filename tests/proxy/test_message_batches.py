"""Lines that go to Anthropic as Message Batches, which carry nothing of ours but the ids of their requests."""
from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farthing import semconv
from tests.proxy.provider import Claude, message, providing
from tests.proxy.rig import Rig, until
from tests.proxy.test_batches import begin, ended, rows
from tests.proxy.test_provider_batches import HALF, changed, handing_over, killed_at, settled, state_of

ENDPOINT: Any = "/v1/messages"


@pytest.fixture(scope="module")
def running() -> Iterator[Claude]:
    made = Claude()
    with providing(made):
        yield made


@pytest.fixture
def claude(running: Claude) -> Iterator[Claude]:
    running.forget()
    yield running
    running.stop_at = ""


@pytest.fixture(scope="module")
def proxy(shared_rig: Rig, running: Claude, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with handing_over(shared_rig, running, tmp_path_factory.mktemp("handing"), "anthropic") as url:
        yield url


def lines(count: int) -> bytes:
    made = [
        {"custom_id": f"line-{n}", "method": "POST", "url": ENDPOINT,
         "body": {"model": "gpt", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}],
                  "metadata": {"user_id": f"line-{n}"}}}
        for n in range(count)
    ]  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in made).encode()


def test_each_line_of_a_message_batch_gets_its_own_end_and_half_the_price(rig: Rig, claude: Claude, proxy: str) -> None:
    team = rig.budget()
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": "bad"}}
    fates = {
        "line-1": {"type": "errored", "error": error}, "line-2": {"type": "expired"}, "line-3": {"type": "canceled"},
    }  # fmt: skip
    claude.result = lambda line: fates.get(line["params"]["metadata"]["user_id"]) or message(line)
    client = rig.client(team, base_url=proxy)
    done = ended(client, begin(client, lines(5), ENDPOINT).id)
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 2, 3)
    good = {row["custom_id"]: row["response"]["body"] for row in rows(client, done.output_file_id)}
    assert {name: body["content"][0]["text"] for name, body in good.items()} == {"line-0": "line-0", "line-4": "line-4"}
    bad = {row["custom_id"]: row for row in rows(client, done.error_file_id)}
    assert (bad["line-1"]["response"]["status_code"], bad["line-1"]["response"]["body"]) == (400, error)
    assert [bad[name]["error"]["code"] for name in ("line-2", "line-3")] == ["batch_expired", "batch_cancelled"]
    assert settled(rig, team, 5)["spent_nusd"] == 2 * HALF
    spans = rig.spans(team)
    assert {span[semconv.SERVICE_TIER] for span in spans} == {"batch"}
    assert sorted(span[semconv.SETTLED_NUSD] for span in spans) == [0, 0, 0, HALF, HALF]
    (requests,) = claude.requests.values()
    assert {one["params"]["model"] for one in requests} == {"gpt-real"}


def test_one_that_was_made_and_not_heard_of_is_waited_for_and_not_made_again(
    rig: Rig, claude: Claude, proxy: str
) -> None:
    team = rig.budget()
    claude.breaks_at, claude.ends_as = "after", "in_progress"
    client = rig.client(team, base_url=proxy)
    batch = begin(client, lines(2), ENDPOINT)
    until(lambda: sum(path.startswith("messages/batches?") for _, path in claude.asked) > 1, "it is looked for")
    claude.ends_as = "ended"
    assert ended(client, batch.id).request_counts.completed == 2
    assert settled(rig, team, 2)["spent_nusd"] == 2 * HALF and len(claude.batches) == 1


def test_one_that_nobody_made_is_asked_for_again_and_another_s_is_not_taken_for_it(
    rig: Rig, claude: Claude, tmp_path: Path
) -> None:
    team = rig.budget()
    claude.breaks_at = "before"
    with handing_over(rig, claude, tmp_path, "anthropic") as url:
        batch = begin(rig.client(team, base_url=url), lines(1), ENDPOINT)
        until(lambda: any(path.startswith("messages/batches?") for _, path in claude.asked), "it is looked for")
    claude.made([{"custom_id": "of-another", "params": {"metadata": {"user_id": "another"}}}])
    changed(state_of(tmp_path, batch.id), asked_at=time.time() - 301)
    with handing_over(rig, claude, tmp_path, "anthropic") as url:
        assert ended(rig.client(team, base_url=url), batch.id).request_counts.completed == 1
    assert rig.balance(team)["spent_nusd"] == HALF and set(claude.lines.values()) == {1}
    assert len(claude.batches) == 2


def test_cancelling_ours_cancels_the_message_batch(rig: Rig, claude: Claude, proxy: str) -> None:
    team = rig.budget()
    claude.ends_as = "in_progress"
    client = rig.client(team, base_url=proxy)
    batch = begin(client, lines(2), ENDPOINT)
    until(lambda: claude.batches, "it is at the provider")
    fates = {"line-1": {"type": "canceled"}}
    claude.result = lambda line: fates.get(line["params"]["metadata"]["user_id"]) or message(line)
    client.batches.cancel(batch.id)
    done = ended(client, batch.id)
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("cancelled", 1, 0)
    assert settled(rig, team, 2)["spent_nusd"] == HALF
    assert any(path == "messages/batches/msgbatch_1/cancel" for _, path in claude.asked)


@pytest.mark.proof
def test_a_kill_at_any_step_of_a_message_batch_neither_loses_a_line_nor_hands_one_over_twice(
    rig: Rig, claude: Claude, tmp_path: Path
) -> None:
    killed_at(rig, claude, tmp_path, ("before", "after", "content", "look", "content"), lines(4), "anthropic")
