"""Whether two answers say the same; only a mark of each is kept, never its text."""
from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b

import numpy

from proxy.semantic_guard import Guard, guard
from proxy.semantic_store import Vector

AT_LEAST = 0.95  # cosine of two answers that say the same, where vectors are compared


@dataclass(frozen=True, eq=False)
class VectorMark:
    """An answer by its meaning, and by what a vector hardly sees."""

    vector: Vector  # of length 1
    guard: Guard
    text: bytes  # digest of it: where it is the same nothing else needs to be judged
    at_least: float = AT_LEAST


Mark = bytes | VectorMark


def exact_mark(text: str, key: bytes) -> bytes:
    """Return the mark of an answer that agrees with none but itself."""
    return blake2b(text.encode(), digest_size=16, key=key[:64]).digest()


def normalised_mark(text: str, key: bytes) -> Mark:
    """Return the mark of an answer that agrees with those of the same words, whatever their case and punctuation."""
    words = re.findall(r"[^\W_]+(?:[.,][0-9]+)*|[^\w\s.,;:!?\"'“”‘’()\-–—*#`]", text.casefold())
    return exact_mark(" ".join(words), key)


def vector_mark(text: str, vector: Vector, key: bytes, at_least: float = AT_LEAST) -> Mark:
    """Return the mark of an answer that agrees with those near its vector, with the same numbers, dates and names.

    It also agrees with the same text, as the guards fit nothing to one that they cannot read: "42", or a sentence in
    another language.
    """
    return VectorMark(vector, guard(text, key), exact_mark(text, key), at_least)


def agree(one: Mark, other: Mark) -> bool:
    """Tell whether two answers say the same; marks of different kinds never do."""
    if isinstance(one, VectorMark) and isinstance(other, VectorMark):
        if one.text == other.text:
            return True
        if one.vector.shape != other.vector.shape:  # another model embeds from now on
            return False
        near = float(numpy.dot(one.vector, other.vector)) >= max(one.at_least, other.at_least)
        return near and not one.guard.difference(other.guard)
    return one == other
