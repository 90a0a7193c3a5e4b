"""policies/gain_models.py: versions of gain models, and which of them the document names."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from farthing.policy import Document
from farthing.policy.features import MARKS
from farthing.policy.gain import GainModel, Head, Weights
from farthing.policy.route import Pair
from policies.database import open_database
from policies.gain_models import KEPT, GainStore
from policies.load import load

PAIR = Pair("small", "big", "right")
GAIN = "strategy: gain, models: [small, big]"
POLICY = "apiVersion: farthing/v1\nkind: Policy\nmetadata: {name: p}\nmatch: {model: [m]}\naction: {route: {%s}}\n"
ROUTE = "apiVersion: farthing/v1\nkind: Route\nmetadata: {name: r}\nmatch: {model: [m]}\n" + GAIN.replace(", ", "\n", 1)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = open_database(f"sqlite:///{tmp_path / 'control.db'}")
    yield made
    made.dispose()


def model(number: int) -> GainModel:
    head = Head(float(number), [0.0] * len(MARKS), [1.0], [0.0])
    return GainModel(Weights([7], [1.0], head, head, 1.0, 0.0), {"rows": number})


def document(text: str) -> Document:
    return Document.of(1, load(text).items)


def test_versions_ascend_the_last_few_are_kept_and_the_same_model_is_no_new_one(engine: Engine) -> None:
    store = GainStore(engine)
    made = [store.put(PAIR, model(number)) for number in range(KEPT + 2)]
    assert [one.version for one in made] == list(range(1, KEPT + 3))
    assert store.put(PAIR, model(KEPT + 1)) == made[-1]
    assert store.put(PAIR._replace(grade="polite"), model(0)).version == 1
    listed = [(one["grade"], one["version"], one["trained"]["rows"]) for one in store.listed()]
    assert listed == [("polite", 1, 0), *(("right", one.version, one.version - 1) for one in reversed(made[2:]))]
    body = store.body(made[-1].checksum)
    assert body is not None and GainModel.from_json(body.encode()).checksum == made[-1].checksum
    assert store.body(made[1].checksum) is None  # gone, and nobody else's


@pytest.mark.parametrize("text", [POLICY % GAIN, ROUTE], ids=["Policy", "Route"])
def test_a_document_names_the_newest_model_of_the_pairs_that_its_routes_ask_for(engine: Engine, text: str) -> None:
    store = GainStore(engine)
    assert store.named_by(document(text)) == ()
    store.put(PAIR, model(1))
    newest = store.put(PAIR, model(2))
    assert store.named_by(document(text)) == (newest,)
    assert store.named_by(document(POLICY % "to: small")) == ()
    told = document(text).with_told((), (), [newest])
    assert told.checksum != document(text).checksum and Document.from_json(told.to_json()).trained == (newest,)
