"""What a router may know of a prompt: hashed words and counts of marks, in a few microseconds and 600 bytes at most.

The recorded form is what the decision itself reads, so a model trained on stored rows sees exactly what it will see
when it decides. The hash is keyed, but few words have few hashes: whoever holds the key can test a guess. It is less
than the prompt and not anonymous.
"""
from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from math import log2

__all__ = ["BUCKETS", "MARKS", "MAX_WORDS", "Features", "Reader", "Text", "Words"]

BUCKETS = 16_384  # places a word can hash to; twice as many gained 0.001 APGR and half as many lost 0.002
MAX_WORDS = 256  # distinct words kept of one prompt
HEAD, TAIL = 1_536, 512  # characters read of a prompt's begin and end: questions stand at either
SYSTEM = 1_024  # characters read of a system prompt
_SYSTEM_WORDS = 64  # distinct words of it
_MEMO = 16_384  # words whose hash is remembered, about 2 MB
_MEMO_WORD = 32  # bytes of the longest word remembered
_SYSTEMS = 256  # system prompts whose words are remembered
_VERSION = 1

# ASCII letters in lower case, any digit as 0, other bytes of UTF-8 as they are, and the rest parts words.
_FOLD = bytes(
    ord("0") if chr(byte).isdigit() else ord(chr(byte).lower()) if chr(byte).isalpha() or byte > 127 else ord(" ")
    for byte in range(128)
) + bytes(range(128, 256))
_DIGITS = b"0123456789"
_NO_DIGITS = bytes(byte for byte in range(256) if byte not in _DIGITS)
_OPTION = re.compile(rb"\n\(?[A-Ea-e1-5][.):]").findall

# Marks, each one byte: counts on a logarithmic scale, so that a byte holds any of them.
_COUNTED = tuple("?\n:=+*/^\\<{;(\"$_`%|-")
MARKS = ("characters", "words", "system_characters", "digits", "options", "turns", "tools", *_COUNTED)


@dataclass(frozen=True, slots=True)
class Text:
    """What is asked: the last user message, the system prompt, and what surrounds them."""

    user: str
    system: str = ""
    turns: int = 1  # messages in the conversation
    tools: int = 0  # tools offered


@dataclass(frozen=True, slots=True)
class Features:
    """One prompt as a router sees it."""

    buckets: frozenset[int]  # hashed words, at most MAX_WORDS
    marks: bytes  # one byte for each of MARKS
    tag: int = -1  # bucket of the task tag, -1 = none

    def to_bytes(self) -> bytes:
        """Return the form that rows store: version, marks, tag, then the words, two bytes each, little-endian."""
        words = array("H", (self.tag + 1, *sorted(self.buckets)))
        if sys.byteorder == "big":
            words.byteswap()
        return bytes((_VERSION, len(self.marks))) + self.marks + words.tobytes()

    @classmethod
    def from_bytes(cls, stored: bytes) -> Features:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError: another version or a damaged value; leave that row out of a training.
        """
        if len(stored) < 2 or stored[0] != _VERSION or stored[1] != len(MARKS):
            begin = stored[:2].hex() or "nothing"
            raise ValueError(f"features begin with {begin}; this version writes {_HEADER.hex()}")
        rest = stored[2 + len(MARKS) :]
        if len(rest) % 2 or not 2 <= len(rest) <= 2 * (MAX_WORDS + 1):
            raise ValueError(f"features hold {len(rest)} bytes of words; 2 to {2 * (MAX_WORDS + 1)} are possible")
        words = array("H", rest)
        if sys.byteorder == "big":
            words.byteswap()
        if max(words[1:], default=0) >= BUCKETS or words[0] > BUCKETS:
            raise ValueError(f"features name a bucket above {BUCKETS - 1}")
        return cls(frozenset(words[1:]), stored[2 : 2 + len(MARKS)], words[0] - 1)


_HEADER = bytes((_VERSION, len(MARKS)))


class _Memo(dict[bytes, int]):
    """Remembers hashes; emptied when full, which costs a slow moment and bounds what a flood of new words takes."""

    def __init__(self, hashed: Callable[[bytes], int]) -> None:
        super().__init__()
        self._hashed = hashed

    def __missing__(self, word: bytes) -> int:
        if len(self) >= _MEMO:
            self.clear()
        bucket = self._hashed(word)
        if len(word) <= _MEMO_WORD:  # a text without spaces is one long word
            self[word] = bucket
        return bucket


class Words:
    """A prompt's begin and end, cut into folded words once for whoever reads them."""

    __slots__ = ("found", "window")

    def __init__(self, user: str) -> None:
        if len(user) > HEAD + TAIL:
            user = f"{user[:HEAD]} {user[-TAIL:]}"
        self.window = user.encode("utf-8", "replace")
        self.found = self.window.translate(_FOLD).split()


class Reader:
    """Reads prompts under one key; two readers with the same key agree, and keys do not share models."""

    def __init__(self, key: bytes = b"") -> None:
        self._key = key[:64]
        self._words = _Memo(self._bucket)
        self._systems: dict[str, frozenset[int]] = {}
        self._digits = {digit: self._bucket(b"\0digit " + bytes((digit,))) for digit in _DIGITS}

    def read(self, text: Text, tag: str = "", words: Words | None = None) -> Features:
        """Return the features of a prompt; `tag` is the task's name where the caller says it (route, feature)."""
        words = words or Words(text.user)
        buckets = set(map(self._words.__getitem__, words.found))
        digits = words.window.translate(None, _NO_DIGITS)
        if digits:
            buckets.update(map(self._digits.__getitem__, set(digits)))
        if text.system:
            buckets |= self._system(text.system)
        if len(buckets) > MAX_WORDS:
            buckets = set(islice(dict.fromkeys(map(self._words.__getitem__, words.found)), MAX_WORDS))
        return Features(frozenset(buckets), _marks(text, words, len(digits)), self.tag(tag))

    def tag(self, name: str) -> int:
        """Return the bucket of a task tag, -1 for none."""
        return self._words[b"\0tag " + name.encode("utf-8", "replace")] if name else -1

    def _system(self, system: str) -> frozenset[int]:
        """Return the buckets of a system prompt's first words, apart from the user's, and one of its whole begin."""
        begin = system[:SYSTEM]
        known = self._systems.get(begin)
        if known is None:
            if len(self._systems) >= _SYSTEMS:
                self._systems.clear()
            raw = begin.encode("utf-8", "replace")
            words = list(dict.fromkeys(raw.translate(_FOLD).split()))[:_SYSTEM_WORDS]
            known = self._systems[begin] = frozenset(self._bucket(b"\0system " + word) for word in (*words, raw))
        return known

    def _bucket(self, word: bytes) -> int:
        return int.from_bytes(blake2b(word, digest_size=4, key=self._key).digest(), "little") % BUCKETS


def _marks(text: Text, words: Words, digits: int) -> bytes:
    """Return the counts of MARKS, each as 16 · log2(1 + n), at most 255 (62,000)."""
    marks = words.window.translate(None, _NO_MARKS)  # few bytes are left, so that each count is quick
    options = len(_OPTION(words.window)) if b"\n" in marks else 0
    counts = (
        min(len(text.user), _MOST), len(words.found), min(len(text.system), _MOST), digits, options,
        min(text.turns, _MOST), min(text.tools, _MOST), *map(marks.count, _COUNTED_BYTES),
    )  # fmt: skip
    return bytes(map(_LOG.__getitem__, counts))


_MOST = 65_535
_LOG = bytes(min(255, round(16 * log2(1 + n))) for n in range(_MOST + 1))
_COUNTED_BYTES = tuple(mark.encode() for mark in _COUNTED)
_NO_MARKS = bytes(byte for byte in range(256) if byte not in b"".join(_COUNTED_BYTES))
