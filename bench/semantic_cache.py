"""What the semantic cache serves, and how much of it wrong: banking77's questions through the real proxy.

    python bench/semantic_cache.py [--orders 3] [--questions 13083]

Every question is asked of a proxy worker behind the real control plane, one after the other in a random order, under a
policy that serves and says nothing else: delta, guards, verified share and alarm are the defaults. The upstream answers
with the question's category, so an answer from the cache is wrong where it is another category. Each order is a policy
of its own, which begins with nothing. Beside it, over the first order, other values of `delta` through the proxy too,
and two rules of others in their plainest form: a plain threshold and vCache's. Vectors are computed once and kept, so
the processes that are measured load no torch. The questions are read from ../shared; without them there is no verdict.
The last line is one JSON object, and the exit code is 1 where a limit is missed.
"""
from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy
from proxy_governed import Governed, governed, status
from semantic_peers import Served, plain_thresholds, vcache
from semantic_questions import ENCODER, PARTS, Questions, load
from semantic_upstream import upstream
from servers import cpu_s, rss_mb
from verdict import conclude

from farthing import semconv
from proxy.semantic_bound import poisson_upper

MODEL = "gpt-4o"
DELTAS = (0.005, 0.02)  # beside the default
THRESHOLDS = (0.80, 0.90, 0.93, 0.95, 0.98, 0.99)
LIMITS = {"wrong_share": ("<=", 0.01), "wrong_share_worst_order": ("<=", 0.01)}


@dataclass(frozen=True)
class Run:
    """One order through the proxy."""

    served: Served
    seen: dict[str, Any]  # what the proxy counted
    saved_nusd: int
    cpu_ms: float  # of the worker, a question, its embedding and what is learned included


def main() -> int:
    """Measure, print, and return the exit code."""
    arguments = _arguments()
    orders, most = arguments.orders, arguments.questions
    if not all(part.exists() for part in PARTS):
        print(f"{', '.join(map(str, PARTS))}: not all there; nothing was measured", file=sys.stderr)
        return 1
    questions = load()
    rows = [numpy.random.default_rng(seed).permutation(len(questions.texts))[:most].tolist() for seed in range(orders)]
    asked = {f"order-{i}": ("", order) for i, order in enumerate(rows)}
    asked |= {f"delta-{delta:g}".replace(".", "-"): (f", delta: {delta}", rows[0]) for delta in DELTAS}
    text = "---\n".join(policy(name, more) for name, (more, _) in asked.items())
    with (
        tempfile.TemporaryDirectory() as folder,
        upstream() as port,
        governed(Path(folder), port, models=(MODEL, ENCODER), teams=list(asked), text=text) as running,
    ):
        runs = {name: through(running, name, questions, order) for name, (_, order) in asked.items()}
        rss = rss_mb(running.workers[0].pid)
    baseline = compare(questions, rows[0])
    figures = judged([runs[f"order-{i}"] for i in range(orders)])
    figures |= baseline | {"proxy_rss_mb": round(rss, 1), "embed_ms": round(questions.embed_ms, 2)}
    return conclude("semantic_cache", figures, LIMITS, numpy=numpy.__version__)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--orders", type=int, default=3, help="random orders, each with an empty cache")
    parser.add_argument("--questions", type=int, help="of each order; default: all of them")
    return parser.parse_args()


def policy(name: str, more: str) -> str:
    """Return a policy that serves what means the same to the team of its name."""
    return (
        f"apiVersion: farthing/v1\nkind: Policy\nmetadata: {{name: {name}}}\nmatch: {{team: {name}}}\n"
        f"action: {{cache: {{ttl_s: 86400, semantic: {{embedder: {ENCODER}, serve: true{more}}}}}}}\n"
    )


def through(running: Governed, name: str, questions: Questions, order: Sequence[int]) -> Run:
    """Ask all questions in `order` with the key of that name, and hold what is served against what is right."""
    worker = running.workers[0]
    headers = {"authorization": f"Bearer {running.keys[name]}", "content-type": "application/json"}
    hits: list[bool] = []
    wrong, before = 0, cpu_s(worker.pid)
    with closing(http.client.HTTPConnection("127.0.0.1", worker.port, timeout=120)) as client:
        for row in order:
            is_hit, answer = ask(client, headers, questions.texts[row])
            hits.append(is_hit)
            wrong += is_hit and answer != questions.categories[row]
    spent = cpu_s(worker.pid) - before
    told = status(worker.port, running.keys["operator"])
    (saved,) = (one["saved_nusd"] for one in told["caches"] if (one["policy"], one["level"]) == (name, "semantic"))
    run = Run(Served(hits, wrong), told["semantic"][name], saved, 1e3 * spent / len(order))
    show(name, run.served)
    print(f"{'':34} {_counted(run)}", flush=True)
    return run


def ask(client: http.client.HTTPConnection, headers: dict[str, str], text: str) -> tuple[bool, str]:
    """Return whether the cache answered by meaning, and the answer."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0}
    client.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = client.getresponse()
    told = response.read()
    if response.status != 200:
        raise SystemExit(f"{response.status}: {told[:300]!r}")
    return response.headers[semconv.HEADER_CACHE] == "semantic", json.loads(told)["choices"][0]["message"]["content"]


def _counted(run: Run) -> str:
    seen = run.seen["seen"]
    refused = ", ".join(f"{count} {why}" for why, count in run.seen["refused"].items()) or "none"
    return (
        f"verified {seen['verified']}, {seen['verified_wrong']} of them wrong; {seen['alarms']} alarms; not looked at: "
        f"{refused}; saved {run.saved_nusd / 1e9:.4f} USD; {run.cpu_ms:.2f} ms of the worker's CPU a question"
    )


def show(name: str, served: Served) -> None:
    """Print one line of the table."""
    print(
        f"{name:34} hit {served.share:6.1%} (second half {served.late_share:6.1%})  wrong of served "
        f"{served.wrong_share:6.2%} (95 % upper {_upper(served):6.2%}, {served.wrong} of {served.count})",
        flush=True,
    )


def _upper(served: Served) -> float:
    return min(1.0, poisson_upper(served.wrong, 0.95) / max(1, served.count))


def compare(questions: Questions, order: Sequence[int]) -> dict[str, float]:
    """Print what other rules make of the first order; return the figures that the verdict shows."""
    vectors, categories = questions.vectors[order], [questions.categories[i] for i in order]
    plain = plain_thresholds(vectors, categories, THRESHOLDS)
    for threshold, served in plain.items():
        show(f"plain threshold {threshold:.2f}", served)
    show("vCache's rule, delta 0.01", vcache(vectors, categories, 0.01, Random(1).random))
    safe = [served.share for served in plain.values() if served.wrong_share <= 0.01]
    return {
        "plain_hit_share_at_1_percent": round(max(safe, default=0.0), 4),
        "plain_hit_share_at_093": round(plain[0.93].share, 4),
        "plain_wrong_share_at_093": round(plain[0.93].wrong_share, 4),
    }


def judged(runs: list[Run]) -> dict[str, float]:
    """Return the figures of the default over all orders."""
    served = [run.served for run in runs]
    count, wrong = sum(one.count for one in served), sum(one.wrong for one in served)
    asked = sum(len(one.hits) for one in served)
    return {
        "questions": asked // len(runs),
        "orders": len(runs),
        "served": count,
        "wrong": wrong,
        "hit_share": round(count / asked, 4),
        "hit_share_second_half": round(sum(one.late_share for one in served) / len(runs), 4),
        "wrong_share": round(wrong / count, 5) if count else 0.0,
        "wrong_share_worst_order": round(max(one.wrong_share for one in served), 5),
        "wrong_upper_95_worst_order": round(max(_upper(one) for one in served), 5),
        "saved_usd": round(sum(run.saved_nusd for run in runs) / 1e9, 6),
        "question_cpu_ms": round(min(run.cpu_ms for run in runs), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
