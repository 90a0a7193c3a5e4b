"""Fits a gain model to a tenant's outcomes: rows of features and which model was right, never a prompt.

All that is chosen (how strongly to regularise, how to calibrate) is chosen by cross-validation inside the rows given.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyzer.logistic import Sparse, Vector, fit_logistic, sigmoid, sparse
from farthing.policy.features import BUCKETS, MARKS, Features
from farthing.policy.gain import GainModel, Head, Weights

STRENGTHS = (0.1, 0.2, 0.3, 0.5, 0.8, 1.2)  # of the data against the prior
_REFERENCE = 0.3
FOLDS = 5
MIN_ROWS = 100  # of each model; fewer say nothing about words
_MARK_SCALE = 0.05  # a mark, in standard deviations, beside words whose squares sum to 1
_TAG_SCALE = 0.6  # the tag beside them
_MIN_SCALE = 0.05  # of the calibrated gain: a model that found nothing still orders prompts
_MIN_DOCUMENTS = 2  # rows a word must stand in


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one prompt; None where that model did not answer it."""

    features: Features
    strong: float | None  # 1 right, 0 wrong, or a grade between
    weak: float | None
    strong_propensity: float = 1.0  # chance that the strong model was asked
    weak_propensity: float = 1.0

    def __post_init__(self) -> None:
        for name, chance in (("strong", self.strong_propensity), ("weak", self.weak_propensity)):
            if not 0 < chance <= 1:
                raise ValueError(f"the {name} model's propensity is {chance:g}; it must be above 0 and 1 at most")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which words count and how much, learned from the training rows alone."""

    buckets: NDArray[np.int64]
    place: NDArray[np.int64]  # [BUCKETS], -1 = does not count
    rarity: Vector  # [BUCKETS] inverse document frequency
    mark_mean: Vector
    mark_sd: Vector

    @property
    def width(self) -> int:
        return 2 * len(self.buckets) + len(MARKS)

    @classmethod
    def of(cls, features: Sequence[Features]) -> Columns:
        seen = np.bincount([b for f in features for b in f.buckets], minlength=BUCKETS)
        tags = np.bincount([f.tag for f in features if f.tag >= 0], minlength=BUCKETS)
        buckets = np.flatnonzero((seen >= _MIN_DOCUMENTS) | (tags > 0))
        place = np.full(BUCKETS, -1)
        place[buckets] = np.arange(len(buckets))
        rarity = np.where(seen >= _MIN_DOCUMENTS, np.log((len(features) + 1) / (seen + 1)) + 1, 0.0)
        marks = np.array([list(f.marks) for f in features], float)
        return cls(buckets, place, rarity, marks.mean(axis=0), marks.std(axis=0) + 1e-9)

    def matrix(self, features: Sequence[Features]) -> Sparse:
        return sparse([self._row(f) for f in features], self.width)

    def _row(self, features: Features) -> tuple[list[int], list[float]]:
        found = np.array(sorted(features.buckets), np.int64)
        found = found[self.rarity[found] > 0]
        values = self.rarity[found] / (np.sqrt((self.rarity[found] ** 2).sum()) or 1.0)
        marks = (np.array(list(features.marks)) - self.mark_mean) / self.mark_sd * _MARK_SCALE
        words = len(self.buckets)
        columns = [*self.place[found], *range(2 * words, self.width)]
        entries = [*values, *marks]
        if features.tag >= 0 and self.place[features.tag] >= 0:
            columns.append(words + self.place[features.tag])
            entries.append(_TAG_SCALE)
        return columns, entries


def fit_gain(outcomes: Sequence[Outcome], seed: int = 0) -> GainModel:
    """Return the model that `outcomes` teach.

    Raises:
        ValueError: one of the models answered fewer than MIN_ROWS of the prompts.
    """
    features = [outcome.features for outcome in outcomes]
    columns = Columns.of(features)
    x = columns.matrix(features)
    strong = _arm("strong", [o.strong for o in outcomes], [o.strong_propensity for o in outcomes])
    weak = _arm("weak", [o.weak for o in outcomes], [o.weak_propensity for o in outcomes])
    tried = {strength: _held_out(x, strong, weak, strength, seed) for strength in STRENGTHS}
    observed = _observed_gain(strong, weak, tried[_REFERENCE])
    errors = {strength: _error(strong, weak, chances, observed) for strength, chances in tried.items()}
    strength = min(errors, key=errors.__getitem__)
    scale, shift = _calibrate(tried[strength][0] - tried[strength][1], observed)
    heads = [_head(columns, *_fit(x, arm, strength)) for arm in (strong, weak)]
    rarity = [float(value) for value in columns.rarity[columns.buckets]]
    weights = Weights([int(b) for b in columns.buckets], rarity, heads[0], heads[1], scale, shift)
    trained = {"rows": len(outcomes), "strength": strength, "error": round(errors[strength], 5)}
    return GainModel(weights, trained)


@dataclass(frozen=True, slots=True)
class _Arm:
    """One model's outcomes: which rows it answered, whether right, and how many rows each stands for."""

    rows: NDArray[np.int64]
    right: Vector
    weight: Vector  # 1 / propensity


def _arm(name: str, right: Sequence[float | None], propensity: Sequence[float]) -> _Arm:
    rows = [row for row, value in enumerate(right) if value is not None]
    if len(rows) < MIN_ROWS:
        raise ValueError(f"the {name} model answered {len(rows)} of these prompts; at least {MIN_ROWS} are needed")
    values = np.array([right[row] for row in rows], float)
    return _Arm(np.array(rows, np.int64), values, np.array([1.0 / propensity[row] for row in rows]))


def _fit(x: Sparse, arm: _Arm, strength: float) -> tuple[Vector, float]:
    return fit_logistic(x.pick(arm.rows), arm.right, arm.weight / arm.weight.mean(), strength)


def _held_out(x: Sparse, strong: _Arm, weak: _Arm, strength: float, seed: int) -> tuple[Vector, Vector]:
    """Return both models' chances on each row, [rows] each, from fits that did not see the row."""
    fold = np.random.default_rng(seed).permutation(x.rows) % FOLDS
    chances = np.zeros((2, x.rows))
    for number in range(FOLDS):
        own = np.flatnonzero(fold == number)
        for which, arm in enumerate((strong, weak)):
            others = fold[arm.rows] != number
            weights, bias = _fit(x, _Arm(arm.rows[others], arm.right[others], arm.weight[others]), strength)
            chances[which, own] = sigmoid(x.pick(own).dot(weights) + bias)
    return chances[0], chances[1]


def _observed_gain(strong: _Arm, weak: _Arm, chances: tuple[Vector, Vector]) -> Vector:
    """Return an unbiased gain for each row, though only one model may have answered it (doubly robust, AIPW).

    Where both answered for certain it is the plain difference of what happened.
    """
    gain = chances[0] - chances[1]
    for sign, arm, chance in ((1, strong, chances[0]), (-1, weak, chances[1])):
        gain[arm.rows] += sign * (arm.right - chance[arm.rows]) * arm.weight
    return gain


def _error(strong: _Arm, weak: _Arm, chances: tuple[Vector, Vector], observed: Vector) -> float:
    """Return how far held-out chances are from what happened: of the gain, or of each arm where answers are missing.

    A gain estimated from one answer is so noisy that it would choose among the strengths nearly by chance.
    """
    if len(strong.rows) == len(weak.rows) == len(observed):
        return float(np.mean((observed - (chances[0] - chances[1])) ** 2))
    arms = ((strong, chances[0]), (weak, chances[1]))
    return float(sum(np.average((arm.right - chance[arm.rows]) ** 2, weights=arm.weight) for arm, chance in arms))


def _calibrate(predicted: Vector, observed: Vector) -> tuple[float, float]:
    """Return scale and shift, by least squares, under which a held-out gain fits what happened; the order stays."""
    spread = float(np.var(predicted))
    covariance = float(np.mean((predicted - predicted.mean()) * (observed - observed.mean())))
    scale = max(_MIN_SCALE, covariance / spread) if spread > 0 else 1.0
    return scale, float(observed.mean() - scale * predicted.mean())


def _head(columns: Columns, weights: Vector, bias: float) -> Head:
    words = len(columns.buckets)
    marks = weights[2 * words :] * _MARK_SCALE / columns.mark_sd
    return Head(
        bias - float(marks @ columns.mark_mean),
        [float(value) for value in marks],
        [float(value) for value in weights[:words] * columns.rarity[columns.buckets]],
        [float(value) for value in weights[words : 2 * words] * _TAG_SCALE],
    )
