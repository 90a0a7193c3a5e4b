"""How much each part of a conversation has to do with its last turn: BM25 over words, in microseconds.

Robertson & Zaragoza, The Probabilistic Relevance Framework (2009), with their usual k1 and b. Words are bytes between
blanks and marks; in scripts that part no words (Chinese, Japanese, Korean) pairs of characters stand for them.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import log

_K1, _B = 1.2, 0.75
_UNPARTED = 0xE3  # the first byte in UTF-8 of scripts that part no words, and of all that lies above them


def relevance(documents: Sequence[Sequence[bytes]], query: Sequence[bytes]) -> list[float]:
    """Return for each document how well it answers `query`, from 0 to 1, where 1 is the best of them."""
    if any(word[0] >= _UNPARTED for word in query):
        documents, query = [_paired(document) for document in documents], _paired(query)
    wanted = frozenset(query)
    counts = [Counter([word for word in document if word in wanted]) for document in documents]
    held = Counter([word for count in counts for word in count])
    weights = {word: log(1 + (len(documents) - n + 0.5) / (n + 0.5)) for word, n in held.items()}
    mean = (sum(map(len, documents)) / len(documents) if documents else 0.0) or 1.0
    scores = [
        _score(count, weights, _K1 * (1 - _B + _B * len(document) / mean))
        for count, document in zip(counts, documents, strict=True)
    ]
    best = max(scores, default=0.0)
    return [score / best for score in scores] if best else scores


def _paired(words: Sequence[bytes]) -> list[bytes]:
    """Return words with the pairs of characters of those that are runs of a script that parts none."""
    found: list[bytes] = []
    for word in words:
        if word[0] < _UNPARTED:
            found.append(word)
            continue
        text = word.decode("utf-8", "replace")
        found += [text[at : at + 2].encode() for at in range(max(1, len(text) - 1))]
    return found


def _score(count: Counter[bytes], weights: dict[bytes, float], damping: float) -> float:
    return sum([weights[word] * n * (_K1 + 1) / (n + damping) for word, n in count.items()])
