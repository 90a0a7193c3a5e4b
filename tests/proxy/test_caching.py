"""proxy/caches.py in the real proxy: what each level answers, what is recorded of it, and who waits for nobody."""
from __future__ import annotations

import asyncio
import base64
import json
import struct
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from farthing import semconv
from farthing.settings import Settings
from tests.proxy.rig import (
    COST,
    EVENTS,
    Behaviour,
    Received,
    Rig,
    answer_of,
    answers,
    asked,
    post,
    proxied,
    reply,
    resets,
    send_only,
    streams,
    until,
    waits,
)
from tests.redis_server import RedisServer


def level(rig: Rig, team: str, name: str) -> dict[str, Any]:
    """Return one level of a team's policy as the proxy counts it."""
    found = [one for one in rig.status()["caches"] if one["policy"] == f"cache-{team}" and one["level"] == name]
    return found[0] if found else {}


def cached_as(rig: Rig, team: str, count: int) -> list[str]:
    """Return the levels that answered a team's calls, once all are recorded and the ledger agrees."""
    until(lambda: len(rig.spans(team)) == count, "every call is recorded")
    rig.quiet()
    for span in rig.spans(team):
        rig.agrees(span, team)
    return sorted(span.get(semconv.CACHE_HIT, "") for span in rig.spans(team))


def body_of(**more: Any) -> bytes:
    return json.dumps(asked(temperature=0) | more).encode()


def first_then(first: Behaviour, then: Behaviour) -> Behaviour:
    """Do one thing for the first request and another for the rest."""
    left = [first]

    async def behave(*given: Any) -> None:
        await (left.pop() if left else then)(*given)

    return behave


def posted(rig: Rig, team: str, count: int, pool: ThreadPoolExecutor, **more: Any) -> list[Future[Any]]:
    """Send identical calls, and return once one of them is upstream and the others wait for it."""
    made = [pool.submit(post, rig, team, body_of(**more)) for _ in range(count)]
    assert rig.upstream.arrived.wait(120)
    until(lambda: rig.status()["calls_waiting_for_identical"] == count - 1, "the others wait")
    return made


def test_identical_calls_in_flight_share_one_answer_and_one_bill(rig: Rig) -> None:
    team = rig.budget()
    rig.cache(team, coalesce=True, exact=False)
    rig.upstream.next(waits(rig.upstream, answers(answer_of())))
    with ThreadPoolExecutor(4) as pool:
        made = posted(rig, team, 4, pool)
        rig.upstream.release.set()
        replies = [one.result() for one in made]
    assert {reply.whole for reply in replies} == {answer_of()} and len(rig.upstream.received) == 1
    assert sorted(reply.headers[semconv.HEADER_CACHE] for reply in replies) == ["coalesced"] * 3 + ["miss"]
    assert cached_as(rig, team, 4) == ["", "coalesced", "coalesced", "coalesced"]
    assert rig.balance(team)["spent_nusd"] == COST
    assert level(rig, team, "coalesced") | {"hits": 3, "saved_nusd": 3 * COST} == level(rig, team, "coalesced")
    rig.upstream.next(answers(answer_of()))
    assert post(rig, team, body_of()).headers[semconv.HEADER_CACHE] == "miss"  # nothing is kept without `exact`


def test_a_leader_that_fails_fails_nobody_else(rig: Rig) -> None:
    team = rig.budget()
    rig.cache(team, coalesce=True)
    rig.upstream.next(first_then(waits(rig.upstream, resets), answers(answer_of())))
    with ThreadPoolExecutor(3) as pool:
        made = posted(rig, team, 3, pool)
        rig.upstream.release.set()
        statuses = sorted(one.result().status for one in made)
    assert statuses == [200, 200, 502] and len(rig.upstream.received) == 2
    assert cached_as(rig, team, 3) == ["", "", "coalesced"]


def test_a_leader_whose_client_goes_away_hands_over(rig: Rig) -> None:
    team = rig.budget()
    rig.cache(team, coalesce=True)
    rig.upstream.next(first_then(waits(rig.upstream, resets), answers(answer_of())))
    body = body_of(model="own")
    sock = send_only(rig, team, body)
    assert rig.upstream.arrived.wait(120)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(post, rig, team, body)
        until(lambda: rig.status()["calls_waiting_for_identical"] == 1, "the second one waits")
        sock.close()
        assert second.result().status == 200
    assert cached_as(rig, team, 2) == ["", ""]


def test_a_call_that_is_refused_lets_the_next_identical_one_try(rig: Rig) -> None:
    team = rig.budget(limit="0 USD")
    rig.cache(team, coalesce=True)
    with ThreadPoolExecutor(3) as pool:
        replies = list(pool.map(lambda _: post(rig, team, body_of()), range(3)))
    assert [reply.status for reply in replies] == [429] * 3


def test_each_policy_keeps_answers_of_its_own_until_it_is_gone(rig: Rig) -> None:
    one, other = rig.budget(), rig.budget()
    for team in (one, other):
        rig.cache(team)
    body = body_of(seed=7)
    said = [post(rig, team, body).headers[semconv.HEADER_CACHE] for team in (one, one, other, other)]
    assert said == ["miss", "hit", "miss", "hit"]
    found = level(rig, one, "exact")
    assert (found["hits"], found["misses"], found["entries"]) == (1, 1, 1) and found["saved_nusd"] == COST
    rig.apply(f"apiVersion: farthing/v1\nkind: Policy\nmetadata: {{name: cache-{one}}}\nmatch: {{team: {one}}}\n"
              "action: {route: {to: gpt-plain}}\n")  # fmt: skip
    post(rig, other, body)
    assert level(rig, one, "exact") == {} and level(rig, other, "exact")["hits"] == 2


def embeds(request: Received) -> bytes:
    """Answer an embeddings request: a text's vector is its length and its first letter, and it costs its length."""
    given = request.json
    inputs = [given["input"]] if isinstance(given["input"], str) else given["input"]
    vectors = [[float(len(text)), float(ord(text[0]))] for text in inputs]
    told: list[Any] = vectors
    if given.get("encoding_format") == "base64":
        told = [base64.b64encode(struct.pack("<2f", *one)).decode() for one in vectors]
    data = [{"object": "embedding", "index": n, "embedding": one} for n, one in enumerate(told)]
    used = sum(map(len, inputs))
    return json.dumps({"object": "list", "data": data, "model": "x",
                       "usage": {"prompt_tokens": used, "total_tokens": used}}).encode()  # fmt: skip


async def embedding(request: Received, reader: Any, writer: asyncio.StreamWriter) -> None:
    writer.write(reply(embeds(request), "content-type: application/json"))


@pytest.mark.parametrize("encoding", ["base64", "float"])
def test_only_the_inputs_that_are_new_are_sent_on_and_charged(rig: Rig, encoding: str) -> None:
    team = rig.budget()
    rig.cache(team)
    rig.upstream.next(embedding)
    options: Any = {"encoding_format": "float"} if encoding == "float" else {}  # the client asks for base64 by itself
    with rig.client(team) as client:
        def ask(*texts: str) -> tuple[list[float], int, str]:
            made = client.embeddings.with_raw_response.create(model="gpt-plain", input=list(texts), **options)
            found = made.parse()
            lengths = [one.embedding[0] for one in found.data]
            return lengths, found.usage.prompt_tokens, made.headers[semconv.HEADER_CACHE]

        assert ask("a", "bb") == ([1.0, 2.0], 3, "miss")
        assert ask("ccc", "bb", "a", "ccc") == ([3.0, 2.0, 1.0, 3.0], 3, "partial")
        assert rig.upstream.received[-1].json["input"] == ["ccc"]
        assert ask("bb", "ccc") == ([2.0, 3.0], 0, "hit")
    assert len(rig.upstream.received) == 2
    assert cached_as(rig, team, 3) == ["", "", "embedding"]
    assert [span.get(semconv.CACHE_SAVED_INPUT_TOKENS) for span in rig.spans(team)] == [None, 6, None]
    assert [span[semconv.USAGE_INPUT_TOKENS] for span in rig.spans(team)] == [3, 3, 5]
    assert rig.balance(team)["spent_nusd"] == 6 * 1000
    found = level(rig, team, "embedding")
    assert (found["hits"], found["misses"], found["entries"], found["saved_nusd"]) == (5, 3, 3, 11_000)


def test_a_part_is_never_answered_by_another_model_than_the_rest(rig: Rig) -> None:
    team = rig.budget()
    rig.cache(team)
    rig.apply(f"apiVersion: farthing/v1\nkind: Policy\nmetadata: {{name: route-{team}}}\nmatch: {{team: {team}}}\n"
              "action: {route: {fallbacks: [pair]}}\n")  # fmt: skip
    rig.upstream.next(embedding)
    with rig.client(team) as client:
        client.embeddings.create(model="gpt-plain", input=["a"])
        rig.upstream.next(answers(b"{}", status=503))
        with pytest.raises(openai.InternalServerError):
            client.embeddings.create(model="gpt-plain", input=["a", "b"])
    assert {one.json["model"] for one in rig.upstream.received} == {"gpt-plain"}


def test_what_is_no_list_of_inputs_is_the_upstream_s_to_refuse(rig: Rig) -> None:
    team = rig.budget()
    rig.cache(team)
    rig.upstream.next(answers(b'{"error": {"message": "bad input"}}', status=400))
    with rig.client(team) as client, pytest.raises(openai.BadRequestError, match="bad input"):
        client.embeddings.create(model="gpt-plain", input=["a", 5])  # type: ignore[list-item]


@contextmanager
def another(rig: Rig, folder: Path, **settings: Any) -> Iterator[str]:
    """Run one more proxy beside the rig's, in a folder of its own; yield its URL once it has the rig's policies."""
    settings["cache_redis_timeout_s"] = 60.0  # a busy machine is no reason for a miss here
    made = Settings(**vars(rig.settings) | {"data_dir": folder, "hash_key": "the same on all hosts", **settings})
    with proxied(made) as port:
        yield f"http://127.0.0.1:{port}"


def page_at(url: str) -> str:
    with urllib.request.urlopen(url, timeout=120) as answer:
        return answer.read().decode()


def embed_at(rig: Rig, team: str, url: str, *texts: str) -> tuple[list[float], str]:
    with rig.client(team, base_url=f"{url}/v1") as client:
        made = client.embeddings.with_raw_response.create(model="gpt-plain", input=list(texts))
        return [one.embedding[0] for one in made.parse().data], made.headers[semconv.HEADER_CACHE]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


def test_answers_outlive_the_proxy_on_its_disk_and_reach_others_through_redis(
    rig: Rig, redis: RedisServer, tmp_path: Path
) -> None:
    teams = {tier: rig.budget() for tier in ("disk", "shared", "neither")}
    for tier, team in teams.items():
        rig.cache(team, disk=tier == "disk", shared=tier == "shared")
    said: dict[str, list[str]] = {tier: [] for tier in teams}

    def ask(url: str, stream: bool) -> None:
        for tier, team in teams.items():
            rig.upstream.next(answers(answer_of()) if not stream else streams(EVENTS))
            made = post(rig, team, body_of(seed=3, stream=stream), url)
            said[tier].append(made.headers[semconv.HEADER_CACHE])
            rig.upstream.next(embedding)
            said[tier].append(embed_at(rig, team, url, *(["a", "bb"] if not stream else ["bb", "ccc"]))[1])

    with another(rig, tmp_path / "one", cache_redis_url=redis.url) as url:
        until(lambda: not rig.status(url)["cache_tiers"]["shared"]["is_away"], "Redis is there")
        ask(url, stream=False)
    with another(rig, tmp_path / "one", cache_redis_url="redis://127.0.0.1:1/0") as url:
        ask(url, stream=True)  # the other form of the answer, after a restart, and without the server
        tiers = rig.status(url)["cache_tiers"]
        assert tiers["disk"]["hits"] > 0 and tiers["shared"]["is_away"]
        page = page_at(f"{url}/metrics")
        assert 'farthing_cache_tier_away{tier="shared"} 1' in page and 'farthing_cache_tier_away{tier="disk"} 0' in page
    with another(rig, tmp_path / "two", cache_redis_url=redis.url) as url:
        until(lambda: not rig.status(url)["cache_tiers"]["shared"]["is_away"], "Redis is there")
        ask(url, stream=True)
    assert said == {
        "disk": ["miss", "miss", "hit", "partial", "miss", "miss"],
        "shared": ["miss", "miss", "miss", "miss", "hit", "partial"],
        "neither": ["miss"] * 6,
    }
