"""What the semantic cache serves, and how much of it wrong: banking77's questions in random orders, category = answer.

Beside it, over the first order: a plain threshold, a learned bound on similarity alone, vCache's rule, and the cache
without its guards. The questions are read from ../shared; without them there is no verdict.
Run `python bench/semantic_cache.py`; the last line is one JSON object, and the exit code is 1 where a limit is missed.
"""
from __future__ import annotations

import csv
import gzip
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy
import torch
from semantic_peers import Served, plain_threshold, vcache
from verdict import conclude

from proxy.engine.encoder import TextTokenizer, load_encoder, locate_encoder
from proxy.semantic import Query, SemanticCache, SemanticPolicy
from proxy.semantic_agree import exact_mark
from proxy.semantic_bound import poisson_upper
from proxy.semantic_guard import Guard, guard
from proxy.semantic_store import Reply

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
CACHE = ROOT / "bench" / ".cache" / "banking77_minilm.npz"
KEY = b"bench"
ORDERS = 5
DELTAS = (0.005, 0.02, 0.05)  # beside the default
THRESHOLDS = (0.80, 0.90, 0.93, 0.95, 0.98, 0.99)
LIMITS = {"wrong_share": ("<=", 0.01), "wrong_share_worst_order": ("<=", 0.01)}


@dataclass(frozen=True)
class Questions:
    """All questions, row by row."""

    vectors: numpy.ndarray  # [rows, 384] float32, of length 1
    guards: list[Guard]
    categories: list[str]
    embed_ms: float  # CPU a question when it was embedded


def load() -> Questions:
    """Read the questions, and embed them with the engine's own code where that was not done before."""
    rows = [row for part in ("train", "test") for row in _rows(DATA / f"banking77_{part}.csv.gz")]
    texts = [row["text"] for row in rows]
    if not CACHE.exists():
        CACHE.parent.mkdir(exist_ok=True)
        vectors, embed_ms = embed(texts)
        numpy.savez(CACHE, vectors=vectors, embed_ms=embed_ms)
    kept = numpy.load(CACHE)
    guards = [guard(text, KEY) for text in texts]
    return Questions(kept["vectors"], guards, [row["category"] for row in rows], float(kept["embed_ms"]))


def _rows(path: Path) -> Iterable[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from csv.DictReader(lines)


def embed(texts: list[str]) -> tuple[numpy.ndarray, float]:
    """Return the vectors of `texts`, and the CPU milliseconds that one took."""
    folder = locate_encoder("all-minilm-l6-v2")
    encoder = load_encoder(folder)
    tokenizer = TextTokenizer(folder, encoder.shape)
    rows = [tokenizer.encode(text) for text in texts]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    vectors = numpy.zeros((len(rows), encoder.shape.hidden), numpy.float32)
    started = time.process_time()
    for i in range(0, len(order), 64):
        vectors[order[i : i + 64]] = encoder.encode([rows[j] for j in order[i : i + 64]]).numpy()
    return vectors, 1e3 * (time.process_time() - started) / len(rows)


def replay(questions: Questions, order: numpy.ndarray, policy: SemanticPolicy) -> Served:
    """Ask all questions in `order` and count what is served, and what of it is another category's answer."""
    cache = SemanticCache(Random(int(order[0])).random)
    hits: list[bool] = []
    wrong = 0
    for i in order.tolist():
        query = Query(b"bench", questions.vectors[i], questions.guards[i], i)
        category = questions.categories[i]
        found = cache.lookup(query, policy)
        hits.append(found.kind == "hit")
        if found.kind == "hit":
            wrong += found.reply.body.decode() != category
        else:
            cache.observe(query, found, Reply(category.encode(), exact_mark(category, KEY)), policy)
    return Served(hits, wrong)


def time_lookups(questions: Questions, entries: int) -> float:
    """Return the CPU microseconds of one lookup among `entries` examples."""
    policy = SemanticPolicy(serve=True)
    cache = SemanticCache(Random(1).random)
    queries = [Query(b"bench", questions.vectors[i], questions.guards[i], i) for i in range(entries + 1000)]
    for i, query in enumerate(queries[:entries]):
        category = questions.categories[i]
        reply = Reply(category.encode(), exact_mark(category, KEY))
        cache.observe(query, cache.lookup(query, policy), reply, policy)
    started = time.process_time()
    for query in queries[entries:]:
        cache.lookup(query, policy)
    return 1e6 * (time.process_time() - started) / 1000


def show(name: str, served: Served) -> None:
    """Print one line of the table."""
    upper = min(1.0, poisson_upper(served.wrong, 0.95) / max(1, served.count))
    print(
        f"{name:34} hit {served.share:6.1%} (second half {served.late_share:6.1%})  "
        f"wrong of served {served.wrong_share:6.2%} (95 % upper {upper:6.2%}, {served.wrong} of {served.count})",
        flush=True,
    )


def compare(questions: Questions, order: numpy.ndarray) -> dict[str, float]:
    """Print what other rules make of the first order; return the figures that the verdict shows."""
    vectors, categories = questions.vectors[order], [questions.categories[i] for i in order.tolist()]
    plain = {threshold: plain_threshold(vectors, categories, threshold) for threshold in THRESHOLDS}
    for threshold, served in plain.items():
        show(f"plain threshold {threshold:.2f}", served)
    show("learned bound, similarity alone", replay(questions, order, SemanticPolicy(serve=True, neighbours=1)))
    show("vCache's rule, delta 0.01", vcache(vectors, categories, 0.01, Random(1).random))
    same = Questions(vectors, [guard("what is it", KEY)] * len(vectors), categories, 0.0)
    show("no guards", replay(same, numpy.arange(len(vectors)), SemanticPolicy(serve=True)))
    safe = [served.share for served in plain.values() if served.wrong_share <= 0.01]
    return {
        "plain_hit_share_at_1_percent": round(max(safe, default=0.0), 4),
        "plain_hit_share_at_093": round(plain[0.93].share, 4),
        "plain_wrong_share_at_093": round(plain[0.93].wrong_share, 4),
    }


def curve(questions: Questions, order: numpy.ndarray, vary: Callable[[float], SemanticPolicy]) -> None:
    """Print the hits and errors over delta."""
    for delta in DELTAS:
        show(f"delta {delta:g}", replay(questions, order, vary(delta)))


def main() -> int:
    """Measure, print, and return the exit code."""
    if not (DATA / "banking77_test.csv.gz").exists():
        print(f"{DATA} has no banking77_train.csv.gz and banking77_test.csv.gz; nothing was measured", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    questions = load()
    orders = [numpy.random.default_rng(seed).permutation(len(questions.vectors)) for seed in range(ORDERS)]
    runs = [replay(questions, order, SemanticPolicy(serve=True)) for order in orders]
    for i, served in enumerate(runs):
        show(f"default, order {i}", served)
    curve(questions, orders[0], lambda delta: SemanticPolicy(serve=True, delta=delta))
    peers = compare(questions, orders[0])
    count, wrong = sum(run.count for run in runs), sum(run.wrong for run in runs)
    figures = {
        "questions": len(questions.vectors),
        "orders": ORDERS,
        "hit_share": round(count / (ORDERS * len(questions.vectors)), 4),
        "hit_share_second_half": round(sum(run.late_share for run in runs) / ORDERS, 4),
        "wrong_share": round(wrong / count, 5) if count else 0.0,
        "wrong_share_worst_order": round(max(run.wrong_share for run in runs), 5),
        "wrong_upper_95_worst_order": round(max(poisson_upper(run.wrong, 0.95) / max(1, run.count) for run in runs), 5),
        **peers,
        "lookup_1k_us": round(time_lookups(questions, 1_000), 1),
        "lookup_10k_us": round(time_lookups(questions, 10_000), 1),
        "embed_ms": round(questions.embed_ms, 2),
    }
    return conclude("semantic_cache", figures, LIMITS, numpy=numpy.__version__, torch=torch.__version__, threads=1)


if __name__ == "__main__":
    sys.exit(main())
