from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.semantic_bound import NEVER, OWN_WEIGHT, Threshold, entry_upper, poisson_upper


@pytest.mark.parametrize(("seen", "upper"), [(0, 2.9957), (1, 4.7439), (2, 6.2958), (10, 16.9622), (50, 63.2871)])
def test_the_upper_limit_is_the_tables(seen: int, upper: float) -> None:
    assert poisson_upper(seen, 0.95) == pytest.approx(upper, abs=1e-3)


def test_nothing_is_served_before_enough_outcomes_were_right() -> None:
    threshold = Threshold(0.01, 0.95)
    for i in range(288):
        threshold.add(0.9, False)
        assert threshold.score == NEVER, i
    for _ in range(32):
        threshold.add(0.9, False)
    assert threshold.score == 0.9 and threshold.upper == pytest.approx(2.9957 / 320, abs=1e-5)


def test_a_wrong_outcome_of_a_served_score_counts_at_once() -> None:
    threshold = Threshold(0.01, 0.95)
    for _ in range(320):
        threshold.add(0.9, False)
    threshold.add(0.9, True)
    assert threshold.score == NEVER


def test_scores_that_are_often_wrong_are_kept_out() -> None:
    random, threshold = Random(1), Threshold(0.01, 0.95)
    for _ in range(2000):
        score = random.random()
        threshold.add(score, score < 0.6 and random.random() < 0.2)
    assert 0.5 < threshold.score < 0.6 and threshold.upper <= 0.01


@given(st.integers(0, 2**32), st.floats(0.005, 0.1))
def test_the_bound_is_never_over_what_is_asked(seed: int, delta: float) -> None:
    random, threshold = Random(seed), Threshold(delta, 0.95)
    outcomes = [(score := random.random(), random.random() > score) for _ in range(320)]
    for score, is_wrong in outcomes:
        threshold.add(score, is_wrong)
    above = [is_wrong for score, is_wrong in outcomes if score >= threshold.score]
    if threshold.score == NEVER:
        assert threshold.upper == 1.0
    else:
        assert sum(above) / len(above) < threshold.upper <= delta


def test_what_a_policy_changes_counts_for_the_outcomes_there_are() -> None:
    threshold = Threshold(0.01, 0.95)
    for _ in range(96):
        threshold.add(0.9, False)
    assert threshold.score == NEVER
    threshold.demand(0.05, 0.95)
    assert threshold.score == 0.9
    threshold.demand(0.001, 0.95)
    assert threshold.score == NEVER


def test_an_entry_that_was_wrong_once_needs_many_right_ones() -> None:
    threshold = Threshold(0.01, 0.95)
    for _ in range(320):
        threshold.add(0.9, False)
    assert entry_upper([], threshold) == threshold.upper <= 0.01
    assert entry_upper([(0.9, True)], threshold) == pytest.approx((1 + OWN_WEIGHT * threshold.upper) / (1 + OWN_WEIGHT))
    assert entry_upper([(0.9, True)] + [(0.9, False)] * 60, threshold) > 0.01
    assert entry_upper([(0.9, True)] + [(0.9, False)] * 100, threshold) < 0.01
    assert entry_upper([(0.8, True)], threshold) == threshold.upper  # under the score that is served
