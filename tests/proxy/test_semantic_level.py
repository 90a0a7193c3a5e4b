"""proxy/semantic_level.py in the real proxy: shadow until told to serve, and a miss wherever anything is in doubt."""
from __future__ import annotations

import asyncio
import base64
import csv
import gzip
import json
import math
import struct
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import openai
import pytest
from pydantic import ValidationError

from farthing import http_json, semconv
from farthing.errors import ServeError
from farthing.policy.caching import CacheAction
from farthing.settings import Deployment, Settings
from tests.proxy.conftest import ENGINE_CACHE, Serve
from tests.proxy.rig import COST, Received, Rig, answer_of, asked, proxied, reply, until
from tests.proxy.test_caching import level

QUESTION = "how do i reset my password"
ANSWERS = {QUESTION: "open the settings and choose reset", "what is your address": "we live in the old mill"}
Behave = Any


def vector(text: str) -> list[float]:
    """Texts of the same letters lie near each other."""
    counts = Counter(letter for letter in text.lower() if letter.isalpha())
    return [float(counts[letter]) for letter in "abcdefghijklmnopqrstuvwxyz"]


def packed(values: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def provider(embeds: bool = True, told: Callable[[list[float]], object] = packed) -> Behave:
    """Both embed, where they are not away, and answer: the same to what means the same."""

    async def behave(request: Received, reader: Any, writer: asyncio.StreamWriter) -> None:
        given = request.json
        if request.path.endswith("/embeddings"):
            vectors = [told(vector(text)) for text in given["input"]]
            data = [{"object": "embedding", "index": n, "embedding": one} for n, one in enumerate(vectors)]
            body = {"object": "list", "data": data, "model": "x", "usage": {"prompt_tokens": 3, "total_tokens": 3}}
            writer.write(reply(json.dumps(body).encode(), status=200 if embeds else 500))
        else:
            text = ANSWERS.get(given["messages"][-1]["content"].strip("?!. "), "I do not know that one")
            writer.write(reply(answer_of(text), "content-type: application/json"))

    return behave


def policy(rig: Rig, team: str, **semantic: object) -> None:
    rule = {"embedder": "gpt-plain", "delta": 0.2, "verify_share": 0.001, "embed_timeout_s": 10} | semantic
    rig.cache(team, exact=False, semantic=rule)


def ask(rig: Rig, team: str, text: str, **more: Any) -> tuple[str, str]:
    """Ask, wait until the answer has been learned from, and return the answer and what the cache said."""
    with rig.client(team) as client:
        messages: Any = [{"role": "user", "content": text}]
        made = client.chat.completions.with_raw_response.create(**asked(temperature=0) | {"messages": messages} | more)
        learned(rig, team)
        return made.parse().choices[0].message.content or "", made.headers[semconv.HEADER_CACHE]


def learned(rig: Rig, team: str) -> dict[str, Any]:
    def report() -> dict[str, Any]:
        return rig.status()["semantic"].get(f"cache-{team}", {"learning": 0})

    until(lambda: report()["learning"] == 0, "the answers are learned from")
    return report()


def kinds(rig: Rig, team: str) -> list[tuple[str, str]]:
    """Return what the semantic cache made of each chat call, in order, and why."""
    rig.quiet()
    return [(span[semconv.CACHE_SEMANTIC], span.get(semconv.CACHE_SEMANTIC_REASON, ""))
            for span in rig.spans(team) if semconv.CACHE_SEMANTIC in span]  # fmt: skip


def test_would_be_hits_are_recorded_until_the_policy_serves_them(rig: Rig) -> None:
    team = rig.budget()
    policy(rig, team)
    rig.upstream.next(provider())
    for n in range(36):
        assert ask(rig, team, QUESTION + "?!. "[n % 4])[1] == "miss"
    found = kinds(rig, team)
    assert found[0] == ("miss", "empty") and found[1] == ("miss", "unproven") and found[-1] == ("shadow", "shadow")
    seen = learned(rig, team)["seen"]
    assert seen["hits"] == 0 and seen["shadow_hits"] == Counter(found)["shadow", "shadow"] and not seen["shadow_wrong"]

    policy(rig, team, serve=True)
    rig.upstream.next(provider())
    spent = rig.balance(team)["spent_nusd"]
    assert ask(rig, team, QUESTION + " ?") == (ANSWERS[QUESTION], "semantic")
    with rig.client(team) as client, client.chat.completions.stream(
        model="gpt-plain", messages=[{"role": "user", "content": QUESTION + "!?"}], temperature=0, max_tokens=20
    ) as events:
        assert events.get_final_completion().choices[0].message.content == ANSWERS[QUESTION]
    rig.quiet()
    assert [one.path.rpartition("/")[2] for one in rig.upstream.received] == ["embeddings"] * 2  # and these are charged
    assert rig.balance(team)["spent_nusd"] == spent + 2 * 3 * 1000
    hits = [span for span in rig.spans(team) if span.get(semconv.CACHE_HIT) == "semantic"]
    assert len(hits) == 2 and all(span[semconv.USAGE_INPUT_TOKENS] == 10 for span in hits)
    counted = level(rig, team, "semantic")
    assert (counted["hits"], counted["saved_nusd"], counted["entries"]) == (2, 2 * COST, 36)

    assert ask(rig, team, QUESTION.replace("my", "2 of my"))[1] == "miss"  # what its answer hangs on is another
    assert ask(rig, team, "what is your address") == (ANSWERS["what is your address"], "miss")
    assert [kind for kind, _ in kinds(rig, team)[-2:]] == ["miss", "miss"]
    rig.upstream.next(provider(embeds=False))
    assert ask(rig, team, QUESTION + "...") == (ANSWERS[QUESTION], "miss")  # no embedding, no hit, and no error
    assert learned(rig, team)["refused"] == {"embedder": 1}


def test_identical_questions_in_flight_are_embedded_once_and_answered_once(rig: Rig) -> None:
    team = rig.budget()
    rig.cache(team, coalesce=True, semantic={"embedder": "gpt-plain", "agree": "words"})
    rig.upstream.next(provider())
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda _: ask(rig, team, QUESTION), range(4)))
    assert {text for text, _ in said} == {ANSWERS[QUESTION]}
    assert len([one for one in rig.upstream.received if one.path.endswith("/chat/completions")]) == 1


@pytest.mark.parametrize(("more", "why"), [
    ({"n": 2}, "choices"), ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"messages": [{"role": "user", "content": "x" * 2001}]}, "length"),
])  # fmt: skip
def test_what_cannot_be_compared_is_not(rig: Rig, more: dict[str, Any], why: str) -> None:
    team = rig.budget()
    policy(rig, team)
    rig.upstream.next(provider())
    assert ask(rig, team, QUESTION, **more)[1] == "miss"
    assert learned(rig, team)["refused"] == {why: 1} and len(rig.upstream.received) == 1


def test_an_embedder_that_knows_no_base64_fills_the_cache_too(rig: Rig) -> None:
    team = rig.budget()
    policy(rig, team)
    rig.upstream.next(provider(told=lambda values: [int(value) for value in values]))
    for end in ("?", "!"):
        assert ask(rig, team, QUESTION + end) == (ANSWERS[QUESTION], "miss")
    assert kinds(rig, team) == [("miss", "empty"), ("miss", "unproven")]


def test_an_embedding_that_cannot_be_compared_is_a_miss_and_no_error(rig: Rig) -> None:
    team = rig.budget()
    policy(rig, team)
    for failures, told in enumerate((packed([math.nan] * 26), packed([0.0] * 26), "AAAA", "", [], [0, 0])):
        rig.upstream.next(provider(told=lambda _, told=told: told))
        text = QUESTION + "?" * failures  # of which no vector is kept
        assert ask(rig, team, text) == (ANSWERS[QUESTION], "miss")
        assert learned(rig, team)["refused"] == {"embedder": failures + 1}
        rig.upstream.next(provider())
        assert ask(rig, team, text + "!") == (ANSWERS[QUESTION], "miss")  # so that the embedder is not left alone
    rig.upstream.next(provider(told=lambda values: packed(values[:20])))  # it embeds by another model from now on
    assert ask(rig, team, QUESTION + ".") == (ANSWERS[QUESTION], "miss")
    assert kinds(rig, team)[-1] == ("miss", "empty")


@pytest.mark.parametrize("rule", [
    {}, {"embedder": ""}, {"embedder": "m", "delta": 0}, {"embedder": "m", "delta": 0.5},
    {"embedder": "m", "verify_share": 0}, {"embedder": "m", "agree": "letters"},
])  # fmt: skip
def test_a_rule_that_would_serve_anything_is_refused(rule: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CacheAction.model_validate({"semantic": rule})


def questions(shared: Callable[[str], Path], kinds: int, most: int) -> list[tuple[str, str]]:
    """Return real questions of a few kinds, in a random order, each with its kind."""
    with gzip.open(shared("data/banking77_train.csv.gz"), "rt", encoding="utf-8") as lines:
        rows = [(row["text"], row["category"]) for row in csv.DictReader(lines)]
    known = sorted({kind for _, kind in rows})[:kinds]
    asked_of = [row for row in rows if row[1] in known]
    Random(1).shuffle(asked_of)
    return asked_of[:most]


@pytest.mark.proof
def test_of_real_questions_embedded_by_the_engine_at_most_one_in_a_hundred_is_served_wrong(
    rig: Rig, serve_engine: Serve, shared: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = questions(shared, kinds=6, most=900)
    kind_of = dict(rows)

    async def answers_by_kind(request: Received, reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(answer_of(kind_of[request.json["messages"][-1]["content"]])))

    encoder = Deployment("all-minilm-l6-v2", engine="all-minilm-l6-v2", context_tokens=512)
    rig.upstream.next(answers_by_kind)
    with serve_engine(Settings(cache_dir=ENGINE_CACHE, deployments=(encoder,))) as engine:
        until(lambda: is_loaded(engine), "the engine answers", 60)
        known = (*rig.settings.deployments, replace(encoder, url=f"{engine}/v1", provider="own", engine=""))
        made = Settings(**vars(rig.settings) | {"deployments": known, "data_dir": tmp_path})
        with proxied(made) as port:
            team = f"team-{uuid.uuid4().hex[:8]}"  # without a budget: the encoder has no price here
            rule = {"embedder": encoder.model, "serve": True, "embed_timeout_s": 10}
            rig.cache(team, exact=False, ttl_s=86_400, semantic=rule)
            with rig.client(team, base_url=f"http://127.0.0.1:{port}/v1") as client:
                served = [served_wrong(client, text, kind) for text, kind in rows]
    hits = [wrong for wrong in served if wrong is not None]
    assert len(hits) > 100 and sum(hits) <= 0.01 * len(hits)


def is_loaded(engine: str) -> bool:
    try:
        return bool(http_json.call("GET", f"{engine}/healthz"))
    except ServeError:  # it is loading
        return False


def served_wrong(client: openai.OpenAI, text: str, kind: str) -> bool | None:
    """Ask, and tell whether the cache served another kind's answer; None where it served nothing."""
    body: Any = asked(temperature=0) | {"messages": [{"role": "user", "content": text}]}
    made = client.chat.completions.with_raw_response.create(**body)
    is_hit = made.headers[semconv.HEADER_CACHE] == "semantic"
    return made.parse().choices[0].message.content != kind if is_hit else None
