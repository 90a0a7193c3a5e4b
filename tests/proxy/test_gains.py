"""proxy/gains.py and router.py: which gain model is used, and when a stronger model serves."""
from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from farthing.policy import CompiledDocument, Document
from farthing.policy.decide import decide
from farthing.policy.facts import Facts
from farthing.policy.features import MARKS, Text
from farthing.policy.gain import GainModel, Head, Weights
from farthing.policy.route import Pair
from farthing.policy.strategies import explored
from farthing.policy.trained import Trained
from farthing.prices import Price
from farthing.settings import Deployment, Settings
from policies.load import load
from proxy.budget_watch import BudgetWatch
from proxy.call import Call
from proxy.dispatch import Deployments
from proxy.gains import Gains
from proxy.request import Asked
from proxy.router import Chosen, Router
from proxy.upstream import Client
from tests.proxy.rig import Rig

AWAY = "http://127.0.0.1:1"
PAIR = Pair("small", "big", "right")


def gains(folder: Path, key: bytes = b"k", tenant: str = "default") -> Gains:
    return Gains(Client(), AWAY, folder, key, tenant)


def model(made: Gains, word: str = "prove", key: str = "") -> GainModel:
    """Return a model to which a prompt with `word` gains much and any other nothing."""
    buckets = sorted(made._reader.read(Text(word)).buckets)  # pyright: ignore[reportPrivateUsage]
    strong, weak = (Head(0.0, [0.0] * len(MARKS), [size] * len(buckets), [0.0] * len(buckets)) for size in (4.0, -4.0))
    return GainModel(Weights(buckets, [1.0] * len(buckets), strong, weak, 1.0, 0.0), {"key": key or made.key})


def trained(one: GainModel, tenant: str = "default", version: int = 1) -> Trained:
    return Trained(tenant=tenant, **PAIR._asdict(), version=version, checksum=one.checksum)


def document(*models: GainModel, version: int = 1) -> CompiledDocument:
    return CompiledDocument(Document(version=1, trained=tuple(trained(one, version=version) for one in models)))


def put(folder: Path, one: GainModel, body: bytes = b"") -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{one.checksum}.json").write_bytes(body or one.to_json())


def on_disk(folder: Path, one: GainModel, made: Gains, body: bytes = b"") -> Gains:
    """Have a worker start with a model on its disk, and the control plane away."""
    put(folder, one, body)

    async def follow() -> None:
        made.follow(document(one))
        await made.stop()

    asyncio.run(follow())
    return made


def question(text: str) -> Asked:
    return Asked(b"", {}, {}, "many", turns=[{"role": "user", "content": text}])


def test_the_last_good_model_is_used_while_the_control_plane_is_away(tmp_path: Path) -> None:
    made = gains(tmp_path)
    on_disk(tmp_path, model(made), made)
    hard, easy = (made.predict(Facts("default"), PAIR, question(text)) for text in ("prove it", "list it"))
    assert hard.gain is not None and hard.gain > 0.9 and easy.gain == 0
    assert (hard.version, made.told()) == (1, "default/small>big:right@1")


def test_each_tenant_s_calls_are_predicted_by_its_own_model_and_by_none_where_it_has_none(tmp_path: Path) -> None:
    made = gains(tmp_path)
    old, own, theirs = (model(made, word) for word in ("add", "prove", "derive"))
    for one in (old, theirs):
        put(tmp_path, one)

    def gain(tenant: str, word: str) -> float | None:
        return made.predict(Facts(tenant), PAIR, question(f"{word} it")).gain

    async def follow() -> None:
        named = (trained(old, ""), trained(theirs, "acme"))  # a proxy's own, of before there were several
        made.follow(CompiledDocument(Document(version=1, trained=named)))
        assert (gain("default", "prove"), gain("default", "derive")) == (0, 0)
        assert [round(gain("default", "add") or 0, 1), gain("acme", "add")] == [1.0, 0]
        put(tmp_path, own)
        made.follow(CompiledDocument(Document(version=2, trained=(*named, trained(own)))))
        await made.stop()

    asyncio.run(follow())
    found = [[gain(tenant, word) for word in ("prove", "derive")] for tenant in ("default", "acme", "nobody")]
    assert found == [[pytest.approx(1, abs=0.1), 0], [0, pytest.approx(1, abs=0.1)], [None, None]]
    assert made.predict(Facts("acme"), PAIR, question("prove it")).tenant == "acme"
    assert made.predict(Facts("default"), PAIR, question("prove it")).tenant == ""
    assert made.told() == "small>big:right@1, acme/small>big:right@1, default/small>big:right@1"


@pytest.mark.parametrize(
    ("change", "why"),
    [("damage", "not a gain model"), ("other", "the document names"), ("key", "another hash_key")],
)
def test_a_model_that_is_not_what_was_named_is_refused_and_said(tmp_path: Path, change: str, why: str) -> None:
    made = gains(tmp_path)
    named = model(made, key="ffffffff" if change == "key" else "")
    bodies = {"damage": b"{", "other": model(made, "derive").to_json(), "key": named.to_json()}
    on_disk(tmp_path, named, made, bodies[change])
    assert why in str(made.status()[0]["refused"]) and made.status()[0]["version_in_use"] is None
    assert made.told().startswith("default/small>big:right@1 missing (")
    assert made.predict(Facts("default"), PAIR, question("prove it")).gain is None


def test_the_model_before_stays_in_use_until_its_successor_is_here_and_goes_when_it_is_named_no_more(
    tmp_path: Path,
) -> None:
    made = gains(tmp_path)
    first, second = model(made), model(made, "derive")
    put(tmp_path, first)

    def kept() -> list[str]:
        return [path.stem for path in tmp_path.iterdir()]

    async def change() -> None:
        made.follow(document(first))
        made.follow(document(second, version=2))  # which nobody can fetch
        assert made.status()[0]["version_in_use"] == 1 and "missing (on its way)" in made.told()
        assert kept() == [first.checksum]
        made.follow(document())
        assert made.status() == [] and kept() == []
        await made.stop()

    asyncio.run(change())


def test_a_share_of_the_calls_is_drawn_and_its_chance_is_known() -> None:
    assert explored(True, 0.0, 0.99) == (True, None)
    assert [explored(True, 0.2, draw) for draw in (0.0, 0.89, 0.9, 0.99)] == [(True, 0.9)] * 2 + [(False, 0.1)] * 2
    assert [explored(False, 1.0, draw) for draw in (0.49, 0.5)] == [(False, 0.5), (True, 0.5)]


Choose = Callable[[dict[str, Any], str, float], Chosen]


@pytest.fixture
def choose(tmp_path: Path) -> Choose:
    """Route a prompt by a route action, with one draw, by a model that knows `prove`."""
    made = gains(tmp_path)
    on_disk(tmp_path, model(made), made)
    deployments = Deployments(Settings(deployments=tuple(Deployment(name, AWAY) for name in ("small", "mid", "big"))))

    def unpriced(*_: object) -> Price | None:
        return None

    def act(action: dict[str, Any], text: str, draw: float) -> Chosen:
        router = Router(deployments, unpriced, BudgetWatch(Client(), AWAY), made, lambda: draw)
        head = "apiVersion: farthing/v1\nkind: Policy\nmetadata: {name: p}\nmatch: {model: [many]}\naction: "
        compiled = CompiledDocument(Document.of(1, load(head + json.dumps({"route": action})).items))
        call = Call("req_1", b"t" * 16, b"s" * 8, b"", Facts("default", model="many"))
        call.decision = decide(compiled, call.facts, date(2026, 11, 21))
        return router.choose(call, question(text), call.decision, "openai")

    return act


GAIN = {"strategy": "gain", "models": ["small", "big"], "gain": {"above": 0.3, "explore": 0.2}}
TIERS = {"strategy": "tier", "gain": {"explore": 0.2}, "tiers": [{"model": "small", "max_gain": 0.3}, {"model": "big"}]}
TASKS = {**TIERS, "tiers": [{"model": "small", "tasks": "translation", "max_gain": 0.3}, {"model": "mid"},
                            {"model": "big"}]}  # fmt: skip
CASCADE = {"strategy": "cascade", "models": ["small", "big"], "gain": {"above": 0.3, "explore": 0.2}}


@pytest.mark.parametrize(
    ("action", "text", "draw", "model", "drawn"),
    [
        (GAIN, "prove it", 0.5, "big", ("big", 0.9)),
        (GAIN, "list it", 0.5, "small", ("small", 0.9)),
        (GAIN, "list it", 0.95, "big", ("big", 0.1)),
        (TIERS, "prove it", 0.5, "big", ("big", 0.9)),
        (TIERS, "list it", 0.5, "small", ("small", 0.9)),
        (TIERS, "prove it", 0.95, "small", ("small", 0.1)),
        (TASKS, "prove it", 0.95, "mid", None),  # not what the small one may do, so no coin sends it there
        (CASCADE, "prove it", 0.5, "big", None),
        (CASCADE, "prove it", 0.15, "small", ("small", 0.1)),
        (CASCADE, "list it", 0.05, "big", ("big", 0.1)),
    ],
    ids=range(10),
)
def test_a_stronger_model_serves_where_it_gains_enough_and_now_and_then_by_a_coin(
    choose: Choose, action: dict[str, Any], text: str, draw: float, model: str, drawn: tuple[str, float] | None
) -> None:
    chosen = choose(action, text, draw)
    assert chosen.targets[0].deployment.model == model and chosen.levels == []
    assert (chosen.drawn and (chosen.drawn[0], round(chosen.drawn[1], 6))) == drawn


def test_a_cascade_begins_with_the_weak_model_where_the_strong_one_gains_little(choose: Choose) -> None:
    chosen = choose(CASCADE, "list it", 0.5)
    assert [level[0].deployment.model for level in chosen.levels] == ["small", "big"] and chosen.drawn is None


def test_nothing_is_sent_to_the_weak_model_while_nobody_knows_but_by_the_coin(choose: Choose) -> None:
    unknown = {**GAIN, "gain": {"grade": "polite", "explore": 0.2}}  # no model was trained on such grades
    assert choose(unknown, "list it", 0.5).targets[0].deployment.model == "big"
    assert choose(unknown, "list it", 0.95).targets[0].deployment.model == "small"
    assert choose(unknown, "list it", 0.5).reason == "gain unknown, drawn with 0.900: big"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"score": 1}, "say which call"),
        ({"request_id": "req_1", "score": 1.5}, "Expected `float` <= 1.0 - at `$.score`"),
        ({"request_id": "req_1"}, "missing required field `score`"),
        ({"request_id": "req_1", "score": 1, "grade": "x"}, "unknown field `grade`"),
    ],
)
def test_a_grade_that_makes_no_sense_is_refused_with_what_is_allowed(rig: Rig, body: dict[str, Any], why: str) -> None:
    connection = http.client.HTTPConnection(rig.proxy.removeprefix("http://"), timeout=120)
    connection.request("POST", "/v1/grades", json.dumps(body))
    answer = connection.getresponse()
    error = json.loads(answer.read())["error"]
    connection.close()
    assert (answer.status, error["code"]) == (400, "invalid_grade") and why in error["message"]

