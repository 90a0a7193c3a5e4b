"""policies/gain_models.py: versions of gain models, and which of them the document names."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from farthing.policy import Document
from farthing.policy.features import MARKS
from farthing.policy.gain import GainModel, Head, Weights
from farthing.policy.route import Pair
from farthing.policy.trained import Trained
from policies import migrations
from policies.database import open_database, writing
from policies.gain_models import KEPT, GainStore
from policies.load import load
from policies.migrations import GAIN_TENANTS

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


def document(written: str) -> Document:
    return Document.of(1, load(written).items)


def test_versions_ascend_the_last_few_are_kept_and_the_same_model_is_no_new_one(engine: Engine) -> None:
    store = GainStore(engine)
    made = [store.put("acme", PAIR, model(number)) for number in range(KEPT + 2)]
    assert [one.version for one in made] == list(range(1, KEPT + 3))
    assert store.put("acme", PAIR, model(KEPT + 1)) == made[-1]
    assert store.put("acme", PAIR._replace(grade="polite"), model(0)).version == 1
    listed = [(one["grade"], one["version"], one["trained"]["rows"]) for one in store.listed()]
    assert listed == [("polite", 1, 0), *(("right", one.version, one.version - 1) for one in reversed(made[2:]))]
    body = store.body(made[-1].checksum)
    assert body is not None and GainModel.from_json(body.encode()).checksum == made[-1].checksum
    assert store.body(made[1].checksum) is None  # gone, and nobody else's


@pytest.mark.parametrize("written", [POLICY % GAIN, ROUTE], ids=["Policy", "Route"])
def test_a_document_names_the_newest_model_of_the_pairs_that_its_routes_ask_for(engine: Engine, written: str) -> None:
    store = GainStore(engine)
    assert store.named_by(document(written)) == ()
    store.put("acme", PAIR, model(1))
    newest, others = store.put("acme", PAIR, model(2)), store.put("bolt", PAIR, model(1))
    assert [(one.tenant, one.version) for one in (newest, others)] == [("acme", 2), ("bolt", 1)]
    assert store.named_by(document(written)) == (newest, others)
    assert store.named_by(document(POLICY % "to: small")) == ()
    told = document(written).with_told((), (), [newest, others])
    assert told.checksum != document(written).checksum
    assert Document.from_json(told.to_json()).trained == (newest, others)


def test_a_model_of_before_there_were_several_tenants_stays_the_proxies_own(
    control_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[: migrations.MIGRATIONS.index(GAIN_TENANTS)])
        before = open_database(control_db)
    with writing(before) as connection:
        old = {**PAIR._asdict(), "version": 3, "checksum": "a" * 64, "created_ns": 1, "trained": "{}", "body": "{}"}
        columns = ", ".join(old)
        connection.execute(text(f"INSERT INTO gain_models ({columns}) VALUES (:{columns.replace(', ', ', :')})"), old)
    before.dispose()
    after = open_database(control_db)
    store = GainStore(after)
    kept = store.named_by(document(POLICY % GAIN))
    newer = store.put("acme", PAIR, model(1))
    assert kept == (Trained(**PAIR._asdict(), version=3, checksum="a" * 64),)
    assert store.named_by(document(POLICY % GAIN)) == (*kept, newer) and newer.version == 1
    after.dispose()
