"""Fits what a decode step's time is made of, from the steps themselves, so that shares follow the work.

Non-negative least squares over three terms; with so few, trying every subset of them is exact and needs no solver.
"""
from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy
from numpy.typing import NDArray

from proxy.engine.steps import StepEvent, WorkModel

MIN_STEPS = 64  # fewer tell nothing
FREE_TOKENS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)  # new tokens per step below which a step may cost the same
OUTLIER = 4.0  # median deviations; a step that the machine interrupted says nothing about work

Array = NDArray[numpy.float64]


def fit_work(events: Sequence[StepEvent]) -> WorkModel | None:
    """Return the model that fits the durations of `events` best, or None where they are too few or all alike."""
    if len(events) < MIN_STEPS:
        return None
    time_s = numpy.array([event.duration_s for event in events])
    new = numpy.array([sum(row.new_tokens for row in event.rows) for event in events], dtype=float)
    context = numpy.array([sum(row.context_tokens for row in event.rows) for event in events], dtype=float)
    if numpy.ptp(context) == 0:
        return None
    first = _best(time_s, new, context)
    kept = _undisturbed(time_s - _predict(first, new, context))
    best = _best(time_s[kept], new[kept], context[kept])
    error = numpy.median(numpy.abs(_predict(best, new, context) / time_s - 1))
    return WorkModel(best.fixed_s, best.token_s, best.free_tokens, best.context_s, float(error))


def _best(time_s: Array, new: Array, context: Array) -> WorkModel:
    """Return the fit with the smallest squared error over all numbers of free tokens."""
    fits: list[tuple[float, WorkModel]] = []
    for free in FREE_TOKENS:
        terms = numpy.stack([numpy.ones_like(new), numpy.maximum(0.0, new - free), context], axis=1)
        factors, loss = non_negative(terms, time_s)
        fits.append((loss, WorkModel(factors[0], factors[1], float(free), factors[2])))
        if free >= new.max():
            break
    return min(fits, key=lambda fit: fit[0])[1]


def non_negative(terms: Array, target: Array) -> tuple[list[float], float]:
    """Return the factors, none below zero, that bring `terms` nearest to `target`, and the squared error left.

    Args:
        terms: [observations, terms]
        target: [observations]
    """
    count = terms.shape[1]
    best, least = [0.0] * count, float(target @ target)
    for size in range(1, count + 1):
        for subset in combinations(range(count), size):
            part = terms[:, subset]
            solved = numpy.linalg.lstsq(part, target, rcond=None)[0]
            left = target - part @ solved
            if (solved >= 0).all() and float(left @ left) < least:
                least = float(left @ left)
                best = [float(solved[subset.index(i)]) if i in subset else 0.0 for i in range(count)]
    return best, least


def _predict(model: WorkModel, new: Array, context: Array) -> Array:
    return model.fixed_s + model.token_s * numpy.maximum(0.0, new - model.free_tokens) + model.context_s * context


def _undisturbed(left: Array) -> NDArray[numpy.bool_]:
    """Tell which residuals lie within a few median deviations of their median."""
    away = numpy.abs(left - numpy.median(left))
    return away <= OUTLIER * max(float(numpy.median(away)), 1e-9)
