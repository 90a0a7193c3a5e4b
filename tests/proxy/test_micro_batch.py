"""proxy/micro_batch.py in the real proxy: many callers, one request, and to each what is its own."""
from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from farthing import semconv
from farthing.errors import UpstreamError
from farthing.policy.micro_batch import MicroBatchAction
from proxy.letter import Letter
from proxy.micro_batch import MicroBatches
from proxy.place_table import PlaceTable
from proxy.upstream import Client, Timeouts
from tests.proxy.rig import Received, Rig, answers, reply, resets, until, waits
from tests.proxy.test_caching import embedding, embeds


@pytest.fixture(autouse=True)
def _long_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows pass more slowly than policies may say: what a test sends at once meets on a busy machine too."""
    add = MicroBatches._add

    def patient(self: MicroBatches, group: Any, rule: MicroBatchAction, call: Any) -> Any:
        return add(self, group, rule.model_copy(update={"window_ms": rule.window_ms * 100}), call)

    monkeypatch.setattr(MicroBatches, "_add", patient)


Alone = Callable[[Callable[[MicroBatches], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Alone]:
    """Return what runs something with the batches of a worker that is alone on its host."""
    table = PlaceTable(tmp_path)

    async def run(act: Callable[[MicroBatches], Coroutine[Any, Any, Any]]) -> Any:
        client = Client()
        batches = MicroBatches(client, lambda: table)
        made = await act(batches)
        await batches.close()
        client.close()
        return made

    yield lambda act: asyncio.run(run(act))
    table.close()


def gather(rig: Rig, team: str, **rule: object) -> None:
    rig.apply(
        f"apiVersion: farthing/v1\nkind: Policy\nmetadata: {{name: gather-{team}}}\nmatch: {{team: {team}}}\n"
        f"action: {{micro_batch: {json.dumps(rule)}}}\n"
    )


def ask_all(rig: Rig, team: str, inputs: list[list[str]], **options: Any) -> list[Any]:
    """Ask for each list from a thread of its own; return the answer or the error of each."""

    def ask(texts: list[str]) -> Any:
        try:
            return client.embeddings.create(model="gpt-plain", input=texts, **options)
        except openai.APIError as error:
            return error

    with rig.client(team) as client, ThreadPoolExecutor(len(inputs)) as pool:
        return list(pool.map(ask, inputs))


def sent(rig: Rig) -> list[list[str]]:
    return sorted(sorted(one.json["input"]) for one in rig.upstream.received)


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}], ids=["base64", "float"])
def test_calls_of_one_moment_are_one_request_and_one_bill(rig: Rig, options: dict[str, Any]) -> None:
    team = rig.budget()
    gather(rig, team, max_inputs=5, window_ms=1000)
    rig.upstream.next(embedding)
    inputs = [["a"], ["bb", "ccc"], ["dddd"], ["e"]]
    made = ask_all(rig, team, inputs, **options)
    assert [[datum.embedding[0] for datum in one.data] for one in made] == [[1.0], [2.0, 3.0], [4.0], [1.0]]
    assert sent(rig) == [["a", "bb", "ccc", "dddd", "e"]]
    assert [one.usage.prompt_tokens for one in made] == [1, 5, 4, 1]
    until(lambda: len(rig.spans(team)) == 4, "every call is recorded")
    rig.quiet()
    for span in rig.spans(team):
        rig.agrees(span, team)
        assert span[semconv.MICRO_BATCH_CALLS] == 4
    assert rig.balance(team)["spent_nusd"] == 11 * 1000


def test_a_call_alone_leaves_when_its_window_is_over_and_goes_as_it_came(rig: Rig) -> None:
    team = rig.budget()
    gather(rig, team, window_ms=1)
    rig.upstream.next(embedding)
    (made,) = ask_all(rig, team, [["a"]], user="ann")
    assert made.usage.prompt_tokens == 1 and rig.upstream.received[0].json["user"] == "ann"
    assert semconv.MICRO_BATCH_CALLS not in rig.span(team)


def test_calls_of_other_tenants_never_meet(rig: Rig, alone: Alone) -> None:
    async def act(batches: MicroBatches) -> None:
        fields = {"model": "m", "input": ["a"]}
        url = f"http://127.0.0.1:{rig.upstream.port}/v1/embeddings"
        letters = [
            Letter(tenant, url, (), json.dumps(fields).encode(), fields, Timeouts(), True, time.monotonic() + 3600)
            for tenant in ("acme", "acme", "other", "other")
        ]
        rule = MicroBatchAction(max_inputs=2, min_inputs=None, window_ms=1000)
        made = await asyncio.gather(*(batches.post(rule, letter) for letter in letters))
        assert [one.shared_by for one in made] == [2] * 4

    rig.upstream.next(embedding)
    alone(act)
    assert len(rig.upstream.received) == 2


def test_calls_of_other_parameters_never_meet(rig: Rig) -> None:
    team = rig.budget()
    gather(rig, team, max_inputs=2, window_ms=1000)
    rig.upstream.next(embedding)
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(ask_all, rig, team, [["a"], ["b"]], dimensions=n) for n in (2, 3)]
        assert all(one.data for part in made for one in part.result())
    assert sorted(one.json["dimensions"] for one in rig.upstream.received) == [2, 3]


def test_a_batch_that_fails_fails_each_caller_in_shape(rig: Rig) -> None:
    team = rig.budget()
    gather(rig, team, max_inputs=2, window_ms=1000)
    rig.upstream.next(answers(b'{"error": {"message": "slow down"}}', "retry-after: 7", status=429))
    made = ask_all(rig, team, [["a"], ["b"]])
    assert [(type(one), one.message, one.response.headers["retry-after"]) for one in made] == [
        (openai.RateLimitError, "Error code: 429 - slow down", "7")
    ] * 2
    rig.upstream.next(resets)
    assert [one.status_code for one in ask_all(rig, team, [["a"], ["b"]])] == [502, 502]
    rig.upstream.next(answers(b'{"data": []}'))
    assert [one.status_code for one in ask_all(rig, team, [["a"], ["b"]])] == [502, 502]


def test_one_caller_s_bad_input_is_nobody_else_s_error(rig: Rig) -> None:
    async def particular(request: Received, reader: Any, writer: asyncio.StreamWriter) -> None:
        is_bad = "bad" in request.json["input"]
        refusal = reply(b'{"error": {"message": "bad input"}}', "content-type: application/json", status=400)
        writer.write(refusal if is_bad else reply(embeds(request), "content-type: application/json"))

    team = rig.budget()
    gather(rig, team, max_inputs=3, window_ms=1000)
    rig.upstream.next(particular)
    first, bad, last = ask_all(rig, team, [["a"], ["bad"], ["ccc"]])
    assert isinstance(bad, openai.BadRequestError) and "bad input" in bad.message
    assert [first.usage.prompt_tokens, last.usage.prompt_tokens] == [1, 3]
    assert rig.status()["micro_batches"]["refused_batches"] >= 1


def test_what_a_refused_batch_held_is_asked_for_nobody_who_has_gone(rig: Rig, alone: Alone) -> None:
    async def together_refused(request: Received, reader: Any, writer: asyncio.StreamWriter) -> None:
        is_alone = isinstance(request.json["input"], str)
        writer.write(reply(embeds(request) if is_alone else b"{}", status=200 if is_alone else 400))

    async def act(batches: MicroBatches) -> None:
        rule = MicroBatchAction.model_validate({"max_inputs": 3, "window_ms": 1000})
        made = [asyncio.create_task(batches.post(rule, letter(rig, text))) for text in ("a", "b", "c")]
        await asyncio.to_thread(rig.upstream.arrived.wait)
        for gone in made[:2]:
            gone.cancel()
        await asyncio.wait(made[:2])
        rig.upstream.release.set()
        assert (await made[2]).status == 200

    rig.upstream.next(waits(rig.upstream, together_refused))
    alone(act)
    assert [one.json["input"] for one in rig.upstream.received] == [["a", "b", "c"], "c"]


def test_an_error_that_nobody_foresaw_is_told_to_each_caller_and_takes_no_place(rig: Rig, alone: Alone) -> None:
    async def act(batches: MicroBatches) -> None:
        rule = MicroBatchAction.model_validate({"max_inputs": 2, "window_ms": 1000, "concurrent": 1})
        for _ in range(2):
            lost = [replace(letter(rig, text), url="http://127.0.0.1:99999/v1/embeddings") for text in ("a", "b")]
            made = await asyncio.gather(*(batches.post(rule, one) for one in lost), return_exceptions=True)
            assert [type(one) for one in made] == [UpstreamError] * 2
            assert all("could not be sent: ValueError('Port out of range" in str(one) for one in made)

    alone(act)


def test_limits_change_while_it_runs(rig: Rig) -> None:
    team = rig.budget()
    for most in (4, 2):
        gather(rig, team, max_inputs=most, window_ms=1000)
        rig.upstream.next(embedding)
        ask_all(rig, team, [["a"], ["b"], ["c"], ["d"]])
        assert all(len(texts) <= most for texts in sent(rig))


def letter(rig: Rig, text: str) -> Letter:
    body = {"model": "x", "input": text}
    url = f"http://127.0.0.1:{rig.upstream.port}/v1/embeddings"
    return Letter("t", url, (), json.dumps(body).encode(), body, Timeouts(), True, time.monotonic() + 60)


def both_leave(
    rig: Rig, first: dict[str, Any], then: dict[str, Any]
) -> Callable[[MicroBatches], Coroutine[Any, Any, list[int]]]:
    """Post one call under one rule and another one under the next; return with how many others each was sent."""

    async def act(batches: MicroBatches) -> list[int]:
        rules = [MicroBatchAction.model_validate({"window_ms": 1000} | rule) for rule in (first, then)]
        waiting = asyncio.create_task(batches.post(rules[0], letter(rig, "one two three")))
        await asyncio.sleep(0)
        assert batches.waiting == 1
        made = await asyncio.gather(waiting, batches.post(rules[1], letter(rig, "four five six")))
        return [one.shared_by for one in made]

    return act


@pytest.mark.parametrize(
    ("then", "shared_by"),
    [({"max_inputs": 2}, 2), ({"min_inputs": 2}, 2), ({"max_bytes": 26}, 2), ({"max_tokens": 3}, 1),
     ({"window_ms": 0.001}, 2), ({"max_inputs": 1}, 1), ({"max_bytes": 13}, 1)],
    ids=["max", "min", "bytes", "tokens", "window", "smaller max", "fewer bytes"],
)  # fmt: skip
def test_each_limit_holds_from_the_next_call_on(
    rig: Rig, alone: Alone, then: dict[str, Any], shared_by: int
) -> None:
    rig.upstream.next(embedding)
    assert alone(both_leave(rig, {}, then)) == [shared_by, shared_by]


def test_a_batch_has_no_more_tokens_than_its_budget(rig: Rig, alone: Alone) -> None:
    rig.upstream.next(embedding)
    assert alone(both_leave(rig, {"max_tokens": 6}, {"max_tokens": 6})) == [2, 2]
    assert alone(both_leave(rig, {"max_tokens": 5}, {"max_tokens": 5, "window_ms": 0.001})) == [1, 1]


def test_more_batches_may_be_under_way_from_the_next_call_on(rig: Rig, alone: Alone) -> None:
    async def act(batches: MicroBatches) -> None:
        one, two = (MicroBatchAction.model_validate({"max_inputs": 1, "concurrent": count}) for count in (1, 2))
        made = [asyncio.create_task(batches.post(rule, letter(rig, text))) for rule, text in ((one, "a"), (one, "b"))]
        await asyncio.sleep(0)
        assert (batches.waiting, batches.batches) == (1, 0)  # the second one waits for the first
        made.append(asyncio.create_task(batches.post(two, letter(rig, "c"))))
        await asyncio.sleep(0)
        assert batches.waiting == 1  # and goes with the first one that may be beside it
        rig.upstream.release.set()
        assert [one.shared_by for one in await asyncio.gather(*made)] == [1, 1, 1]

    rig.upstream.next(waits(rig.upstream, embedding))
    alone(act)


def test_a_batch_waits_for_those_of_another_worker_and_goes_when_they_have_gone(rig: Rig, tmp_path: Path) -> None:
    async def act() -> None:
        tables = PlaceTable(tmp_path), PlaceTable(tmp_path)
        client = Client()
        here, there = (MicroBatches(client, lambda table=table: table) for table in tables)
        rule = MicroBatchAction.model_validate({"max_inputs": 1, "concurrent": 1})
        made = [asyncio.create_task(batches.post(rule, letter(rig, "a"))) for batches in (here, there, there)]
        await asyncio.to_thread(rig.upstream.arrived.wait)
        assert (here.under_way, there.under_way, there.waiting) == (1, 0, 2)
        rig.upstream.release.set()
        assert [one.status for one in await asyncio.gather(*made)] == [200] * 3
        assert (here.batches, there.batches, there.under_way, there.waiting) == (1, 2, 0, 0)
        client.close()
        for table in tables:
            table.close()

    rig.upstream.next(waits(rig.upstream, embedding))
    asyncio.run(act())


def test_a_batch_leaves_early_for_a_call_whose_time_is_short_and_once_enough_wait(rig: Rig) -> None:
    team = rig.budget()
    gather(rig, team, max_inputs=9, window_ms=1000)
    rig.upstream.next(embedding)
    with rig.client(team, timeout=120) as client:
        made = client.embeddings.create(
            model="gpt-plain", input="a", extra_headers={semconv.HEADER_DEADLINE: "3000"}
        )
    assert made.usage.prompt_tokens == 1
    gather(rig, team, max_inputs=9, min_inputs=1, window_ms=1000)
    assert ask_all(rig, team, [["b"]])[0].usage.prompt_tokens == 1
    until(lambda: len(rig.spans(team)) == 2, "both are recorded")
    assert all(span[semconv.PROXY_SECONDS] < 90 for span in rig.spans(team))


def test_what_is_cached_is_not_gathered(rig: Rig) -> None:
    team = rig.budget()
    rig.cache(team)
    gather(rig, team, max_inputs=2, window_ms=1000)
    rig.upstream.next(embedding)
    ask_all(rig, team, [["a"], ["b"]])
    made = ask_all(rig, team, [["a", "cc"], ["b", "ddd"]])
    assert sent(rig) == [["a", "b"], ["cc", "ddd"]]
    assert [one.usage.prompt_tokens for one in made] == [2, 3]
