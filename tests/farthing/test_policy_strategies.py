"""The routing strategies: what each promises, for whatever candidates."""
from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.policy.strategies import (
    Candidate,
    Need,
    Tier,
    Weighting,
    by_score,
    cheapest,
    fallback,
    fixed,
    least_in_flight,
    lower_latency,
    prefix_affinity,
    requirement,
    sticky,
    tier,
    weighted,
)

KEYS = [f"session-{number}".encode() for number in range(2_000)]

draws = st.floats(0, 1, exclude_max=True)
candidates = st.lists(
    st.builds(
        Candidate,
        name=st.text("abcdef", min_size=1, max_size=6),
        weight=st.floats(0, 10),
        in_flight=st.integers(0, 200),
        capacity=st.sampled_from((0, 50, 100)),
        latency_ms=st.floats(0, 5_000),
        error_rate=st.floats(0, 1),
        cost_nusd=st.integers(0, 10**9),
        quality=st.floats(0, 1),
        region=st.sampled_from(("eu", "us")),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda candidate: candidate.name,
)


def _pool(*weights: float) -> list[Candidate]:
    return [Candidate(f"replica-{number}", weight) for number, weight in enumerate(weights)]


@given(candidates, draws, draws)
def test_every_strategy_chooses_one_of_the_candidates_and_the_same_one_again(
    pool: list[Candidate], first: float, second: float
) -> None:
    choices = [
        lambda: weighted(pool, first),
        lambda: least_in_flight(pool),
        lambda: lower_latency(pool, first, second),
        lambda: cheapest(pool),
        lambda: by_score(pool, Weighting(1, 2, 3)),
        lambda: sticky(pool, b"session"),
        lambda: prefix_affinity(pool, b"prefix"),
    ]
    for choose in choices:
        assert choose() in pool
        assert choose() is choose()


@given(candidates, draws, draws)
def test_a_full_candidate_is_chosen_only_where_all_are_full(
    pool: list[Candidate], first: float, second: float
) -> None:
    if all(candidate.is_full for candidate in pool):
        return
    for chosen in (least_in_flight(pool), cheapest(pool), by_score(pool, Weighting()), prefix_affinity(pool, b"p")):
        assert not chosen.is_full


def test_weighted_shares_converge_to_the_weights() -> None:
    pool = _pool(1, 3, 0, 6)
    drawn = Counter(weighted(pool, (number + 0.5) / 10_000).name for number in range(10_000))
    assert drawn == {"replica-0": 1_000, "replica-1": 3_000, "replica-3": 6_000}


def test_weights_that_are_all_zero_share_alike() -> None:
    drawn = Counter(weighted(_pool(0, 0), number / 100).name for number in range(100))
    assert drawn == {"replica-0": 50, "replica-1": 50}


def test_a_fixed_name_that_is_not_there_is_none() -> None:
    assert fixed(_pool(1, 1), "replica-1") == Candidate("replica-1")
    assert fixed(_pool(1, 1), "replica-9") is None


def test_least_in_flight_counts_per_weight() -> None:
    pool = [Candidate("small", 1, in_flight=4), Candidate("large", 4, in_flight=10)]
    assert least_in_flight(pool).name == "large"


def test_of_two_drawn_ones_the_slower_is_never_chosen() -> None:
    pool = [Candidate(f"r{n}", latency_ms=100.0 * (n + 1)) for n in range(5)]
    drawn = Counter(lower_latency(pool, a / 5, b / 4).name for a in range(5) for b in range(4))
    assert drawn == {"r0": 8, "r1": 6, "r2": 4, "r3": 2}


def test_a_candidate_that_fails_half_its_calls_costs_twice_its_price() -> None:
    pool = [Candidate("flaky", cost_nusd=60, error_rate=0.5), Candidate("sound", cost_nusd=100)]
    assert cheapest(pool).name == "sound"


@pytest.mark.parametrize(
    ("weighting", "chosen"),
    [(Weighting(1, 0, 0), "idle"), (Weighting(0, 1, 0), "quick"), (Weighting(0, 0, 1), "cheap")],
)
def test_the_score_follows_what_is_weighed(weighting: Weighting, chosen: str) -> None:
    pool = [
        Candidate("idle", in_flight=0, latency_ms=900, cost_nusd=90),
        Candidate("quick", in_flight=8, latency_ms=10, cost_nusd=80),
        Candidate("cheap", in_flight=9, latency_ms=800, cost_nusd=10),
    ]
    assert by_score(pool, weighting).name == chosen


needs = st.builds(
    Need,
    max_latency_ms=st.none() | st.floats(0, 5_000),
    max_cost_nusd=st.none() | st.integers(0, 10**9),
    min_quality=st.none() | st.floats(0, 1),
    region=st.sampled_from(("", "eu")),
)


@given(candidates, needs)
def test_no_infeasible_candidate_is_chosen_where_a_feasible_one_exists(pool: list[Candidate], need: Need) -> None:
    pick = requirement(pool, need)
    allowed = [c for c in pool if not need.region or c.region == need.region]
    if not allowed:
        assert pick is None
        return
    assert pick is not None
    assert pick.candidate in allowed
    assert pick.violates == need.broken_by(pick.candidate)
    if any(not need.broken_by(c) for c in allowed):
        assert pick.violates == ()
    else:
        assert need.excess(pick.candidate) == min(need.excess(c) for c in allowed)


def test_what_no_candidate_meets_is_named() -> None:
    pool = [Candidate("a", latency_ms=400, quality=0.9), Candidate("b", latency_ms=3_000, quality=0.9)]
    pick = requirement(pool, Need(max_latency_ms=200, min_quality=0.8))
    assert pick is not None
    assert (pick.candidate.name, pick.violates) == ("a", ("max_latency_ms",))


def test_when_a_replica_goes_only_its_own_sessions_move() -> None:
    pool = _pool(1, 1, 1, 1, 1)
    before = {key: sticky(pool, key).name for key in KEYS}
    after = {key: sticky(pool[:-1], key).name for key in KEYS}
    moved = [key for key in KEYS if before[key] != after[key]]
    assert moved == [key for key in KEYS if before[key] == "replica-4"]
    assert len(moved) / len(KEYS) == pytest.approx(1 / 5, abs=0.03)
    assert len({after[key] for key in moved}) == 4


def test_sessions_are_shared_by_weight_and_none_goes_to_weight_zero() -> None:
    shares = Counter(sticky(_pool(1, 3, 0), key).name for key in KEYS)
    assert shares["replica-0"] / len(KEYS) == pytest.approx(0.25, abs=0.03)
    assert "replica-2" not in shares


def test_the_order_of_replicas_does_not_move_a_session() -> None:
    pool = _pool(1, 2, 3)
    assert all(sticky(pool, key) == sticky(pool[::-1], key) for key in KEYS[:200])


def test_a_popular_prefix_never_loads_a_replica_above_the_bound() -> None:
    pool = _pool(1, 1, 1, 1)
    for placed in range(1, 401):
        chosen = prefix_affinity(pool, b"popular")
        pool = [replace(c, in_flight=c.in_flight + 1) if c is chosen else c for c in pool]
        assert max(c.in_flight for c in pool) <= max(1, math.ceil(1.25 * placed / 4))


def test_a_prefix_stays_on_its_owner_while_load_allows() -> None:
    pool = [replace(candidate, in_flight=10) for candidate in _pool(1, 1, 1)]
    assert all(prefix_affinity(pool, key) == sticky(pool, key) for key in KEYS[:200])


TIERS = (
    Tier("small", frozenset({"classification", "extraction"}), {"complexity": 0.5}, max_gain=0.1),
    Tier("medium", max_scores={"complexity": 0.7, "tokens": 500}),
    Tier("large"),
)


@pytest.mark.parametrize(
    ("task", "scores", "gain", "model"),
    [
        ("extraction", {"complexity": 0.2, "tokens": 50}, 0.05, "small"),
        ("extraction", {"complexity": 0.2, "tokens": 50}, 0.3, "medium"),
        ("extraction", {"complexity": 0.2, "tokens": 50}, None, "medium"),
        ("code", {"complexity": 0.6, "tokens": 100}, 0.0, "medium"),
        ("code", {"complexity": 0.9, "tokens": 100}, 0.0, "large"),
        ("code", {"complexity": 0.6}, 0.0, "large"),
    ],
)
def test_the_first_tier_that_fits_serves_and_an_unknown_score_fits_no_limit(
    task: str, scores: dict[str, float], gain: float | None, model: str
) -> None:
    assert tier(TIERS, task, scores, gain) == model


@pytest.mark.parametrize(
    ("used", "model"),
    [(0.0, "large"), (0.79, "large"), (0.8, "medium"), (0.95, "small"), (3.0, "small"), (math.nan, "small")],
)
def test_a_budget_nearly_gone_moves_down_one_model_at_each_start(used: float, model: str) -> None:
    assert fallback(("large", "medium", "small"), (0.8, 0.95), used) == model
