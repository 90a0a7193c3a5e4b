"""A gain model as data: what is written is what decides, and damage is refused."""
from __future__ import annotations

import json

import pytest

from farthing.errors import DocumentError
from farthing.policy.features import MARKS, Reader, Text
from farthing.policy.gain import GainModel, Head, Weights

READER = Reader(b"k")
PROVE, = READER.read(Text("prove")).buckets
LIST, = READER.read(Text("list")).buckets
TAG = READER.tag("maths")
NO_MARKS = [0.0] * len(MARKS)


def _model(scale: float = 1.0) -> GainModel:
    strong = Head(1.0, NO_MARKS, [2.0, 0.0, 0.0], [0.0, 0.0, 0.5])
    weak = Head(1.0, NO_MARKS, [-2.0, 0.0, 0.0], [0.0, 0.0, -0.5])
    return GainModel(Weights([PROVE, LIST, TAG], [1.0, 1.0, 0.0], strong, weak, scale, 0.0), {"rows": 2})


def test_words_move_the_gain_and_unknown_words_do_not() -> None:
    model = _model()
    hard = model.predict(READER.read(Text("prove")))
    assert (hard.strong, hard.weak) == pytest.approx((0.95257, 0.26894), abs=1e-5)
    assert hard.gain == pytest.approx(hard.strong - hard.weak)
    assert model.predict(READER.read(Text("list"))).gain == 0
    assert model.predict(READER.read(Text("prove zyzzyva"))) == hard
    assert 0 < model.predict(READER.read(Text("prove list"))).gain < hard.gain


def test_a_known_tag_counts_and_another_does_not() -> None:
    model = _model()
    assert model.predict(READER.read(Text("list"), "maths")).gain > 0.15
    assert model.predict(READER.read(Text("list"), "cooking")).gain == 0


def test_the_calibrated_gain_stays_a_difference_of_chances() -> None:
    assert _model(scale=40.0).predict(READER.read(Text("prove"))).gain == 1.0


def test_a_model_reads_back_with_the_same_checksum_and_decides_the_same() -> None:
    model = _model()
    read = GainModel.from_json(model.to_json())
    features = READER.read(Text("please prove and list"), "maths")
    assert read.checksum == model.checksum
    assert read.predict(features) == model.predict(features)
    assert read.trained == {"rows": 2}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"scale": 2.0}, "checksum"),
        ({"format": "farthing/gain-9"}, "this version reads 'farthing/gain-1'"),
        ({"rarity": "AAAA"}, "not a gain model"),
        ({"strong": {}}, "not a gain model"),
    ],
)
def test_a_damaged_model_is_refused(change: dict[str, object], complaint: str) -> None:
    damaged = {**json.loads(_model().to_json()), **change}
    with pytest.raises(DocumentError, match=complaint):
        GainModel.from_json(json.dumps(damaged).encode())
