"""Logistic regression on sparse rows, by L-BFGS: what a few thousand outcomes need, without a library for it.

Linear in the number of stored words, so a hundred thousand rows take seconds and never a dense matrix.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

_HISTORY = 8  # steps remembered of the curvature
_ITERATIONS = 60
_TOLERANCE = 1e-4  # of the gradient's largest entry, relative to the rows


@dataclass(frozen=True, slots=True)
class Sparse:
    """Rows of a matrix, as their columns and values one after the other."""

    columns: NDArray[np.int64]  # [entries]
    values: Vector  # [entries]
    starts: NDArray[np.int64]  # [rows + 1]
    width: int

    @property
    def rows(self) -> int:
        return len(self.starts) - 1

    def dot(self, weights: Vector) -> Vector:
        """Return the product of each row with `weights`, [rows]."""
        sums = np.concatenate(([0.0], np.cumsum(self.values * weights[self.columns])))
        return sums[self.starts[1:]] - sums[self.starts[:-1]]

    def back(self, residual: Vector) -> Vector:
        """Return the sum of the rows, each times its residual, [width]."""
        spread = np.repeat(residual, np.diff(self.starts))
        return np.bincount(self.columns, spread * self.values, self.width).astype(np.float64)

    def pick(self, chosen: NDArray[np.int64]) -> Sparse:
        """Return some of the rows, in the order asked for."""
        lengths = np.diff(self.starts)[chosen]
        starts = np.concatenate(([0], np.cumsum(lengths)))
        entries = np.arange(starts[-1]) + np.repeat(self.starts[:-1][chosen] - starts[:-1], lengths)
        return Sparse(self.columns[entries], self.values[entries], starts, self.width)


def sparse(rows: Sequence[tuple[Sequence[int], Sequence[float]]], width: int) -> Sparse:
    """Return rows of (columns, values) as one matrix."""
    lengths = [len(columns) for columns, _ in rows]
    return Sparse(
        np.fromiter((c for columns, _ in rows for c in columns), np.int64),
        np.fromiter((v for _, values in rows for v in values), np.float64),
        np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))),
        width,
    )


def sigmoid(logits: Vector) -> Vector:
    return 1.0 / (1.0 + np.exp(-np.clip(logits, -30, 30)))


def fit_logistic(x: Sparse, right: Vector, weight: Vector, strength: float) -> tuple[Vector, float]:
    """Return weights and bias that minimise strength · weighted log loss + |weights|² / 2; the bias goes unpunished."""
    weight = weight * strength

    def loss(at: Vector) -> tuple[float, Vector]:
        logits = x.dot(at[:-1]) + at[-1]
        residual = weight * (sigmoid(logits) - right)
        value = float(weight @ (np.logaddexp(0, logits) - right * logits)) + 0.5 * float(at[:-1] @ at[:-1])
        return value, np.append(x.back(residual) + at[:-1], residual.sum())

    at = np.zeros(x.width + 1)
    mean = np.clip(np.average(right, weights=weight), 1e-3, 1 - 1e-3)
    at[-1] = np.log(mean / (1 - mean))
    at = _minimise(loss, at, _TOLERANCE * float(weight.sum()) / 10)
    return at[:-1], float(at[-1])


def _minimise(loss: Callable[[Vector], tuple[float, Vector]], at: Vector, tolerance: float) -> Vector:
    """Walk down by L-BFGS (Nocedal & Wright, algorithm 7.5) with a backtracking line search."""
    value, slope = loss(at)
    steps: list[tuple[Vector, Vector]] = []
    for _ in range(_ITERATIONS):
        if np.abs(slope).max() <= tolerance:
            break
        direction = _direction(slope, steps)
        length, descent = 1.0 if steps else 1.0 / max(1.0, float(np.linalg.norm(slope))), float(direction @ slope)
        for _ in range(20):
            following = at + length * direction
            next_value, next_slope = loss(following)
            if next_value <= value + 1e-4 * length * descent:
                break
            length /= 2
        moved, turned = following - at, next_slope - slope
        if float(moved @ turned) > 1e-12:
            steps = [*steps, (moved, turned)][-_HISTORY:]
        at, value, slope = following, next_value, next_slope
    return at


def _direction(slope: Vector, steps: list[tuple[Vector, Vector]]) -> Vector:
    direction = -slope
    kept: list[float] = []
    for moved, turned in reversed(steps):
        share = float(moved @ direction) / float(moved @ turned)
        kept.append(share)
        direction = direction - share * turned
    if steps:
        moved, turned = steps[-1]
        direction = direction * float(moved @ turned) / float(turned @ turned)
    for (moved, turned), share in zip(steps, reversed(kept), strict=True):
        direction = direction + moved * (share - float(turned @ direction) / float(moved @ turned))
    return direction
