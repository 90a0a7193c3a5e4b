"""banking77's questions with their categories, and the vectors of both, computed once with the engine's own code.

The questions are read from ../shared; the vectors are kept in bench/.cache under a name that says of which texts.
"""
from __future__ import annotations

import csv
import gzip
import time
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
PARTS = tuple(DATA / f"banking77_{part}.csv.gz" for part in ("train", "test"))
ENCODER = "all-minilm-l6-v2"


@dataclass(frozen=True)
class Questions:
    """All questions, row by row."""

    texts: list[str]
    categories: list[str]  # the right answers
    vectors: numpy.ndarray  # [rows, 384] float32, of length 1
    by_text: dict[str, numpy.ndarray]  # the vectors of questions and categories
    embed_ms: float  # CPU a text when it was embedded


def load() -> Questions:
    """Read the questions, and embed them and their categories where that was not done before."""
    rows = [row for part in PARTS for row in _rows(part)]
    questions, categories = [row["text"] for row in rows], [row["category"] for row in rows]
    texts = [*questions, *sorted(set(categories))]
    digest = blake2b("\0".join(texts).encode(), digest_size=6).hexdigest()
    path = ROOT / "bench" / ".cache" / f"banking77-{ENCODER}-{digest}.npz"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        vectors, embed_ms = _embed(texts)
        numpy.savez(path, vectors=vectors, embed_ms=embed_ms)
    kept = numpy.load(path)
    vectors = kept["vectors"]
    by_text = dict(zip(texts, vectors, strict=True))
    return Questions(questions, categories, vectors[: len(questions)], by_text, float(kept["embed_ms"]))


def _rows(path: Path) -> Iterable[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from csv.DictReader(lines)


def _embed(texts: list[str]) -> tuple[numpy.ndarray, float]:
    """Return the vectors of `texts`, and the CPU milliseconds that one took."""
    import torch  # beside the proxy, and where the vectors are not there yet

    from proxy.engine.encoder import TextTokenizer, load_encoder, locate_encoder

    torch.set_num_threads(1)
    folder = locate_encoder(ENCODER)
    encoder = load_encoder(folder)
    tokenizer = TextTokenizer(folder, encoder.shape)
    rows = [tokenizer.encode(text) for text in texts]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    vectors = numpy.zeros((len(rows), encoder.shape.hidden), numpy.float32)
    started = time.process_time()
    for i in range(0, len(order), 64):
        vectors[order[i : i + 64]] = encoder.encode([rows[j] for j in order[i : i + 64]]).numpy()
    return vectors, 1e3 * (time.process_time() - started) / len(rows)
