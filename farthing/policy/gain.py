"""How much likelier the strong model is right than the weak one: two logistic heads over hashed words, as plain data.

A router that predicts how hard a prompt is sends it upwards for nothing where both models fail; the difference is what
a strong call buys. The weights are the tenant's own, fitted on the outcomes of its own requests.
"""
from __future__ import annotations

import json
import sys
from array import array
from base64 import b64decode, b64encode
from collections.abc import Sequence, Set
from dataclasses import dataclass
from hashlib import sha256
from math import exp, sqrt
from operator import mul
from typing import Any, cast

from farthing.errors import DocumentError
from farthing.policy.features import BUCKETS, MARKS, Features

__all__ = ["FORMAT", "Gain", "GainModel", "Head", "Weights"]

FORMAT = "farthing/gain-1"
_UNIT = 1 << 24  # a weight of 1 as a whole number: the same sum, to the last bit, in whatever order words come


@dataclass(frozen=True, slots=True)
class Gain:
    """What a model expects of one prompt."""

    strong: float  # P(the strong model is right)
    weak: float  # P(the weak model is right)
    gain: float  # their difference, calibrated on held-out rows


@dataclass(frozen=True, slots=True)
class Head:
    """One model's chance to be right, a logistic regression."""

    bias: float
    marks: Sequence[float]  # one for each of MARKS
    words: Sequence[float]  # one for each of the model's buckets, times its rarity
    tags: Sequence[float]  # the same for a tag, which counts beside the words and not among them


@dataclass(frozen=True, slots=True)
class Weights:
    """All that decides."""

    buckets: Sequence[int]  # the words that count
    rarity: Sequence[float]  # inverse document frequency of each
    strong: Head
    weak: Head
    scale: float  # gain = shift + scale · (P(strong right) - P(weak right))
    shift: float

    def to_dict(self) -> dict[str, Any]:
        """Return them JSON-ready; floats of 32 bits, little-endian, in base64."""
        heads = {
            name: {"bias": head.bias, "marks": list(head.marks), "words": _pack(head.words), "tags": _pack(head.tags)}
            for name, head in (("strong", self.strong), ("weak", self.weak))
        }
        words = {"buckets": _pack(self.buckets, "H"), "rarity": _pack(self.rarity)}
        return {"format": FORMAT, **words, **heads, "scale": self.scale, "shift": self.shift}

    @classmethod
    def from_dict(cls, read: dict[str, Any]) -> Weights:
        """Read what `to_dict` wrote; raises KeyError, TypeError or ValueError where it cannot."""
        if read["format"] != FORMAT:
            raise ValueError(f"its format is {read['format']!r}; this version reads {FORMAT!r}")
        buckets = _unpack(read["buckets"], "H")
        rarity = _unpack(read["rarity"])
        if len(rarity) != len(buckets) or max(buckets, default=0) >= BUCKETS:
            raise ValueError(f"it names {len(buckets)} words and {len(rarity)} weights")
        strong, weak = (_head(read[name], len(buckets)) for name in ("strong", "weak"))
        return cls(buckets, rarity, strong, weak, float(read["scale"]), float(read["shift"]))


class GainModel:
    """Frozen weights of one pair of models; the same answer in the proxy, in a plan and in a replay."""

    def __init__(self, weights: Weights, trained: dict[str, Any]) -> None:
        """Spread the weights for look-up; `trained` says on what they were fitted, for people."""
        self.trained = trained
        self._weights = weights
        buckets, rarity, strong, weak = weights.buckets, weights.rarity, weights.strong, weights.weak
        self._scale, self._shift = weights.scale, weights.shift
        self._squares = _spread(buckets, [value * value for value in rarity])  # sums of whole numbers need no order
        self._strong, self._weak = _Spread(buckets, strong), _Spread(buckets, weak)

    def predict(self, features: Features) -> Gain:
        """Return what is expected of a prompt; words that no training row held do not count."""
        found = features.buckets
        norm = sqrt(sum(map(self._squares.__getitem__, found)) / _UNIT) or 1.0
        strong, weak = self._strong.chance(found, norm, features), self._weak.chance(found, norm, features)
        return Gain(strong, weak, max(-1.0, min(1.0, self._shift + self._scale * (strong - weak))))

    @property
    def checksum(self) -> str:
        """sha256 of the weights in canonical form, hex: equal checksums mean equal decisions."""
        return sha256(json.dumps(self._weights.to_dict(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> bytes:
        """Return the model as JSON, UTF-8."""
        return json.dumps({**self._weights.to_dict(), "trained": self.trained, "checksum": self.checksum}).encode()

    @classmethod
    def from_json(cls, body: bytes) -> GainModel:
        """Read what `to_json` wrote.

        Raises:
            DocumentError: another format, a damaged file, or weights that do not belong together.
        """
        try:
            read = cast("dict[str, Any]", json.loads(body))
            model = cls(Weights.from_dict(read), read["trained"])
        except (KeyError, TypeError, ValueError) as error:
            raise DocumentError(f"not a gain model: {error}; train it anew") from None
        if model.checksum != read.get("checksum"):
            raise DocumentError("the gain model's checksum does not fit its weights; train it anew")
        return model


class _Spread:
    """One head, with its weights where a bucket finds them at once."""

    def __init__(self, buckets: Sequence[int], head: Head) -> None:
        self._bias, self._marks = head.bias, tuple(head.marks)
        self._words, self._tags = _spread(buckets, head.words), _spread(buckets, head.tags)

    def chance(self, found: Set[int], norm: float, features: Features) -> float:
        logit = self._bias + sum(map(self._words.__getitem__, found)) / _UNIT / norm
        logit += sum(map(mul, self._marks, features.marks))
        if features.tag >= 0:
            logit += self._tags[features.tag] / _UNIT
        return 1.0 / (1.0 + exp(-max(-30.0, min(30.0, logit))))


def _spread(buckets: Sequence[int], values: Sequence[float]) -> list[int]:
    everywhere = [0] * BUCKETS
    for bucket, value in zip(buckets, values, strict=True):
        everywhere[bucket] = round(value * _UNIT)
    return everywhere


def _head(read: dict[str, Any], words: int) -> Head:
    marks = [float(mark) for mark in read["marks"]]
    head = Head(float(read["bias"]), marks, _unpack(read["words"]), _unpack(read["tags"]))
    if len(head.marks) != len(MARKS) or len(head.words) != words or len(head.tags) != words:
        raise ValueError(f"it has weights for {len(head.marks)} marks; this version counts {len(MARKS)}")
    return head


def _pack(values: Sequence[float], kind: str = "f") -> str:
    packed = array(kind, values)
    if sys.byteorder == "big":
        packed.byteswap()
    return b64encode(packed.tobytes()).decode()


def _unpack(text: str, kind: str = "f") -> array[Any]:
    packed = array(kind, b64decode(text, validate=True))
    if sys.byteorder == "big":
        packed.byteswap()
    return packed
