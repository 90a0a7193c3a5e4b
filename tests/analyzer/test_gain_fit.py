"""What a gain model learns from outcomes, prompts long gone."""
from __future__ import annotations

import csv
import gzip
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from analyzer.gain_fit import MIN_ROWS, Outcome, fit_gain
from analyzer.logistic import fit_logistic, sparse
from farthing.policy.features import Features, Reader, Text

READER = Reader(b"tests")
HARD = "prove derive integral theorem lattice"
EASY = "list colours animals greeting spell"
LOST = "riddle oracle unknowable future lottery"
FILLERS = ["the", "a", "please", "now", "here", "soon", "with", "of"]


def _rows(number: int, seed: int = 0) -> list[tuple[Features, float, float]]:
    """Return prompts of three kinds: only strong is right, both are, none is; a tenth is turned round by chance."""
    dice = random.Random(seed)
    rows: list[tuple[Features, float, float]] = []
    for _ in range(number):
        kind, strong, weak = dice.choice(((HARD, 1.0, 0.0), (EASY, 1.0, 1.0), (LOST, 0.0, 0.0)))
        words = [*dice.sample(kind.split(), 2), *dice.sample(FILLERS, 3)]
        dice.shuffle(words)
        flip = dice.random() < 0.1
        rows.append((READER.read(Text(" ".join(words))), strong, 1 - weak if flip else weak))
    return rows


def _gains(outcomes: list[Outcome]) -> dict[str, float]:
    model = fit_gain(outcomes)
    return {kind: model.predict(READER.read(Text(kind))).gain for kind in (HARD, EASY, LOST)}


def test_the_gain_is_high_where_only_strong_is_right_and_not_where_both_fail() -> None:
    gains = _gains([Outcome(*row) for row in _rows(600)])
    assert gains[HARD] > 0.6
    assert abs(gains[EASY]) < 0.25
    assert abs(gains[LOST]) < 0.25


def test_stored_bytes_teach_the_same_model_as_prompts() -> None:
    rows = _rows(300)
    stored = [(features.to_bytes(), strong, weak) for features, strong, weak in rows]
    again = fit_gain([Outcome(Features.from_bytes(features), strong, weak) for features, strong, weak in stored])
    assert again.checksum == fit_gain([Outcome(*row) for row in rows]).checksum


def test_one_answer_a_row_is_enough_and_propensities_undo_a_biased_choice() -> None:
    dice = random.Random(1)
    hard = READER.read(Text(HARD)).buckets
    outcomes: list[Outcome] = []
    for features, strong, weak in _rows(2_000):
        chance = 0.8 if features.buckets & hard else 0.2  # an old router's habit
        sent = dice.random() < chance
        outcomes.append(Outcome(features, strong if sent else None, None if sent else weak, chance, 1 - chance))
    gains = _gains(outcomes)
    assert gains[HARD] > 0.6
    assert abs(gains[EASY]) < 0.25
    assert abs(gains[LOST]) < 0.25


def test_the_mean_of_the_predicted_gains_is_the_gain_that_was_seen() -> None:
    train, test = _rows(800), _rows(800, seed=1)
    model = fit_gain([Outcome(*row) for row in train])
    predicted = np.mean([model.predict(features).gain for features, _, _ in test])
    assert predicted == pytest.approx(np.mean([strong - weak for _, strong, weak in test]), abs=0.05)


def test_too_few_answers_of_a_model_are_refused_with_the_number_needed() -> None:
    rows = [Outcome(features, strong, None) for features, strong, _ in _rows(200)]
    with pytest.raises(ValueError, match=f"weak model answered 0 .* at least {MIN_ROWS}"):
        fit_gain(rows)


def test_a_propensity_that_is_no_chance_is_refused() -> None:
    with pytest.raises(ValueError, match="propensity is 0"):
        Outcome(READER.read(Text("a")), 1.0, None, strong_propensity=0.0)


def test_outcomes_that_are_all_alike_still_give_a_model() -> None:
    gains = _gains([Outcome(features, 1.0, 1.0) for features, _, _ in _rows(200)])
    assert all(abs(gain) < 0.02 for gain in gains.values())


def test_logistic_regression_finds_the_minimum_that_its_gradient_names() -> None:
    generator = np.random.default_rng(0)
    dense = generator.normal(size=(200, 5))
    right = (generator.random(200) < 1 / (1 + np.exp(-dense @ [1, -2, 0, 0.5, 0]))).astype(float)
    x = sparse([(range(5), row) for row in dense], 5)
    weights, bias = fit_logistic(x, right, np.ones(200), 2.0)
    residual = 1 / (1 + np.exp(-(dense @ weights + bias))) - right
    assert np.abs(2.0 * dense.T @ residual + weights).max() < 0.1
    assert abs(residual.sum()) < 0.1
    assert weights[1] < -1 < 0.4 < weights[0]


@pytest.mark.parametrize(
    ("fitted", "better"), [(600, 1.6), pytest.param(1_500, 1.8, marks=pytest.mark.proof)], ids=["600", "1500"]
)
def test_on_public_answers_words_order_prompts_better_than_length_does(
    shared: Callable[[str], Path], fitted: int, better: float
) -> None:
    with gzip.open(shared("data/routellm_mmlu_responses.csv.gz"), "rt", encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    random.Random(3).shuffle(rows)
    outcomes = [
        Outcome(READER.read(Text(row["prompt"])), float(row["gpt-4-1106-preview"] == "True"), float(weak == "True"))
        for row in rows[:6_000]
        for weak in [row["mistralai/Mixtral-8x7B-Instruct-v0.1"]]
    ]
    model = fit_gain(outcomes[:fitted])
    held_out = sorted(outcomes[fitted:], key=lambda o: model.predict(o.features).gain, reverse=True)
    gains = [float(o.strong or 0) - float(o.weak or 0) for o in held_out]
    assert np.mean(gains[:900]) > better * np.mean(gains)
