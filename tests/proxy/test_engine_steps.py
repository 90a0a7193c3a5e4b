from __future__ import annotations

import random

import pytest
import torch

from proxy.engine.sample import Sampler, Sampling, choose, nucleus
from proxy.engine.steps import Row, StepEvent, StepLog, WorkModel, shares_ns
from proxy.engine.work import fit_work, non_negative


def test_shares_sum_to_the_duration_to_the_nanosecond() -> None:
    rng = random.Random(7)
    for _ in range(2000):
        rows = [Row(str(i), rng.randint(1, 9), rng.randint(1, 9000)) for i in range(rng.randint(1, 9))]
        duration = rng.randint(0, 10**rng.randint(1, 11))
        for work in (None, WorkModel(0.03, 0.005, 2.0, 1e-6)):
            shares = shares_ns(duration, rows, work)
            assert sum(shares) == duration and min(shares) >= 0


def test_without_a_fit_shares_follow_the_new_tokens() -> None:
    assert shares_ns(900, [Row("a", 1, 500), Row("b", 2, 5)]) == (300, 600)


def test_with_a_fit_a_longer_context_costs_more() -> None:
    work = WorkModel(fixed_s=0.02, token_s=0.0, free_tokens=0.0, context_s=1e-5)
    # 10 ms of fixed work each, plus 1 and 4 ms of context
    assert shares_ns(25_000_000, [Row("a", 1, 100), Row("b", 1, 400)], work) == (11_000_000, 14_000_000)


def test_a_fit_without_any_work_splits_evenly() -> None:
    assert shares_ns(10, [Row("a", 1, 1), Row("b", 1, 1)], WorkModel(0.0, 0.0, 0.0, 0.0)) == (5, 5)


def steps_of(work: WorkModel, count: int) -> list[StepEvent]:
    rng = random.Random(3)
    events: list[StepEvent] = []
    for i in range(count):
        rows = tuple(Row(str(r), 1, rng.randint(50, 2000)) for r in range(rng.randint(1, 8)))
        interrupted = 9.0 if i % 20 == 0 else 1.0
        duration = int(work.seconds(rows) * rng.uniform(0.98, 1.02) * interrupted * 1e9)
        events.append(StepEvent(0, duration, "decode", rows, shares_ns(duration, rows)))
    return events


def test_the_fit_finds_what_steps_are_made_of_despite_interruptions() -> None:
    true = WorkModel(fixed_s=0.030, token_s=0.004, free_tokens=2.0, context_s=5e-6)
    found = fit_work(steps_of(true, 600))
    assert found is not None
    for rows in ([Row("a", 1, 100)], [Row("a", 1, 1900)] * 8, [Row("a", 1, 500)] * 4):
        assert found.seconds(rows) == pytest.approx(true.seconds(rows), rel=0.05)
    assert found.context_s == pytest.approx(true.context_s, rel=0.1) and found.error < 0.03


def test_too_few_steps_give_no_fit() -> None:
    assert fit_work(steps_of(WorkModel(0.03, 0.0, 0.0, 0.0), 63)) is None


def test_factors_are_never_negative() -> None:
    import numpy

    terms = numpy.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    factors, _ = non_negative(terms, numpy.array([3.0, 2.0, 1.0]))  # falls with the second term
    assert factors == [pytest.approx(2.0), 0.0]


def test_the_log_keeps_the_last_steps_and_the_totals_of_all() -> None:
    log = StepLog(size=2)
    for duration in (5, 7, 11):
        log.add(StepEvent(0, duration, "decode", (Row("a", 1, 1),), (duration,)))
    assert [event.duration_ns for event in log.recent()] == [7, 11]
    assert [event.duration_ns for event in log.recent(1)] == [11] and log.recent(0) == []
    assert (log.totals.steps, log.totals.decode_ns, log.totals.decode_tokens) == (3, 23, 3)


def test_greedy_takes_the_likeliest_and_a_seed_repeats_its_draws() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.9, 0.0]])
    assert choose(logits, [Sampler(Sampling(temperature=0.0))]) == [1]

    def draws(seed: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        return [choose(logits, [sampler])[0] for _ in range(40)]

    assert draws(5) == draws(5) != draws(6)
    assert set(draws(5)) >= {1, 2}


def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p() -> None:
    chances = torch.tensor([0.1, 0.5, 0.3, 0.1])
    kept, ids = nucleus(chances, 0.7)
    assert ids.tolist() == [1, 2] and kept.tolist() == pytest.approx([0.5, 0.3])
    assert nucleus(chances, 0.5)[1].tolist() == [1]


def test_a_flat_distribution_needs_more_than_the_first_candidates() -> None:
    flat = torch.full((2000,), 1 / 2000)
    assert len(nucleus(flat, 0.9)[1]) == pytest.approx(1800, abs=2)
