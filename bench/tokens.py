"""Claim: trimming 50 turns of 20 KB costs a call under 2 ms of CPU, and a token policy that does not fit under 1 µs.

    python bench/tokens.py

Prints lines for people, then one line of JSON; exit 1 on a missed limit.
"""
from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import msgspec
from verdict import conclude

from farthing.policy import CompiledDocument, Document, Facts, Policy, decide
from farthing.policy.tokens import TokensAction
from proxy.formats import FORMATS
from proxy.tokens.control import rewritten
from proxy.tokens.plan import plan
from proxy.tokens.turns import SHAPES

TURNS, WORDS = 50, 66
ROUNDS, CALLS = 15, 40
LIMITS = {"trim_us": ("<=", 2000.0), "all_us": ("<=", 2000.0), "unmatched_us": ("<=", 1.0)}
ACTIONS = {
    "trim": {"history": {"max_tokens": 2000}},
    "all": {
        "history": {"max_tokens": 2000}, "compress": {"phrases": ["Sent from my phone"]},
        "retrieval": {"max_passages": 3}, "max_input": 5000, "max_output": 500,
    },
    "count": {"max_input": 1_000_000},
    "output": {"max_output": 500},
}  # fmt: skip


def main() -> int:
    """Run the claim's measurements and judge them."""
    form, shape, body = FORMATS[0], SHAPES["chat/completions"], _body()
    asked = form.read(body)
    figures: dict[str, float] = {"body_bytes": len(body)}
    print(f"CPU µs of one call with {TURNS} turns and {len(body)} bytes, best of {ROUNDS} rounds")
    for name, given in ACTIONS.items():
        action = TokensAction.model_validate(given)
        figures[f"{name}_us"] = _cpu_us(lambda a=action: rewritten(form, asked, shape, plan(shape, asked.fields, a)))
        print(f"{name:10}{figures[f'{name}_us']:10.1f}")
    figures["unmatched_us"] = _unmatched_us()
    print(f"a token policy of another team adds {figures['unmatched_us']:.2f} µs to a decision")
    return conclude("tokens", figures, LIMITS)


def _body() -> bytes:
    dice = random.Random(3)
    text = (Path(__file__).parent.parent / "analyzer" / "task_passages.txt").read_text().split()
    turns = [{"role": "system", "content": "You are helpful."}]
    for number in range(TURNS):
        said = " ".join(dice.choices(text, k=WORDS))
        turns.append({"role": "assistant" if number % 2 else "user", "content": said})
    turns.append({"role": "user", "content": "And what about the weather in the harbour?"})
    return msgspec.json.encode({"model": "gpt", "messages": turns, "max_tokens": 1000})


def _unmatched_us() -> float:
    """Return what a token policy that does not fit adds to a decision among 100 cache policies."""
    caches = [
        Policy.model_validate({"name": f"p{number}", "match": {"team": f"t{number}"}, "action": {"cache": {}}})
        for number in range(100)
    ]
    facts, today = Facts("acme", team="t7", model="gpt"), date(2026, 11, 21)
    without, beside = (
        CompiledDocument(Document(version=1, policies=tuple(policies))) for policies in (caches, [*caches, _policy()])
    )
    plain = _cpu_us(lambda: decide(without, facts, today), 2000)
    return round(_cpu_us(lambda: decide(beside, facts, today), 2000) - plain, 2)


def _policy() -> Policy:
    return Policy.model_validate({"name": "x", "match": {"team": "else"}, "action": {"tokens": {"max_output": 5}}})


def _cpu_us(act: Callable[[], object], calls: int = CALLS) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(calls):
            act()
        best = min(best, time.process_time() - started)
    return round(best / calls * 1e6, 2)


if __name__ == "__main__":
    raise SystemExit(main())
