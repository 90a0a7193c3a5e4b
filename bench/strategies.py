"""Claim: choosing a deployment costs a request a few microseconds, whatever the strategy.

    python bench/strategies.py [--candidates 8]

Prints lines for people, then one line of JSON; exit 1 on a missed limit.
"""
from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from verdict import conclude

from farthing.policy import strategies
from farthing.policy.strategies import Candidate, Need, Tier, Weighting

# A quarter of the 80 µs that a governed request may take, for the dearest; most are far below.
LIMITS = {"slowest_us": ("<=", 20.0)}
CALLS, ROUNDS = 2_000, 15


def main() -> int:
    """Run the claim's measurements and judge them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--candidates", type=int, default=8)
    count = parser.parse_args().candidates
    pools = [_pool(count, seed) for seed in range(16)]
    figures = {f"{name}_us": _cpu_us(act, pools) for name, act in _strategies().items()}
    print(f"CPU µs of one choice among {count}, best of {ROUNDS} rounds")
    for name, value in figures.items():
        print(f"{name:24}{value:8.2f}")
    figures["slowest_us"] = max(figures.values())
    return conclude("strategies", figures, LIMITS)


def _pool(count: int, seed: int) -> list[Candidate]:
    dice = random.Random(seed)
    return [
        Candidate(
            f"replica-{number}",
            weight=dice.choice((1.0, 2.0)),
            in_flight=dice.randrange(40),
            capacity=64,
            latency_ms=dice.uniform(50, 900),
            error_rate=dice.uniform(0, 0.05),
            cost_nusd=dice.randrange(1_000, 90_000),
            quality=dice.uniform(0.5, 1),
        )
        for number in range(count)
    ]


def _strategies() -> dict[str, Callable[[list[Candidate], int], object]]:
    weighting, need = Weighting(1, 2, 1), Need(max_latency_ms=400, max_cost_nusd=40_000, min_quality=0.7)
    tiers = (
        Tier("small", frozenset({"extraction"}), {"complexity": 0.4}, 0.1),
        Tier("medium", max_scores={"complexity": 0.7}),
        Tier("large"),
    )
    scores = {"complexity": 0.6, "tokens": 200.0}
    return {
        "fixed": lambda pool, n: strategies.fixed(pool, "replica-3"),
        "weighted": lambda pool, n: strategies.weighted(pool, n % 97 / 97),
        "least_in_flight": lambda pool, n: strategies.least_in_flight(pool),
        "lower_latency": lambda pool, n: strategies.lower_latency(pool, n % 97 / 97, n % 89 / 89),
        "cheapest": lambda pool, n: strategies.cheapest(pool),
        "by_score": lambda pool, n: strategies.by_score(pool, weighting),
        "requirement": lambda pool, n: strategies.requirement(pool, need),
        "tier": lambda pool, n: strategies.tier(tiers, "code", scores, 0.2),
        "sticky": lambda pool, n: strategies.sticky(pool, b"session-%d" % n),
        "prefix_affinity": lambda pool, n: strategies.prefix_affinity(pool, b"prefix-%d" % n),
        "fallback": lambda pool, n: strategies.fallback(("large", "medium", "small"), (0.8, 0.95), n % 100 / 100),
    }


def _cpu_us(act: Callable[[list[Candidate], int], object], pools: list[list[Candidate]]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        for number in range(CALLS):
            act(pools[number % len(pools)], number)
        best = min(best, time.process_time() - started)
    return round(best / CALLS * 1e6, 2)


if __name__ == "__main__":
    raise SystemExit(main())
