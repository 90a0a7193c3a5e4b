"""What two texts must have in common, word for word, before one may be answered with the other's answer.

Embeddings barely see a number, a date, a name or a `not` ("is it safe" and "is it not safe" lie at cosine 0.995), and
those change the answer. Only a keyed digest of them is kept, in the order of the text; the text itself never is.
The rules know English; what they cannot judge is never answered from the cache.
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

from proxy.semantic_words import (
    CURRENCIES,
    DATES,
    FUNCTION_WORDS,
    NEGATIONS,
    NUMBER_WORDS,
    OPENERS,
    OPPOSITES,
    PARTICLE_VERBS,
    PARTICLES,
    PLACES,
    PRONOUNS,
    SHARED_WORDS,
)

KINDS = ("numbers", "dates", "names", "negation", "opposites")
_COUNTED = ("numbers", "negation")  # a name said twice is still one name; two negations are none
MIN_LATIN = 0.8  # share of the letters; a text below it is in a script that the rules do not read
FOREIGN_WORDS = 5  # a text of that many words without one that is English alone may be in another language
SHARED = 0.4  # share of words that English has in common with others; a text below it is taken to be in another

_ENGLISH = (OPENERS | NEGATIONS.keys()) - SHARED_WORDS
_WORD = re.compile(r"[^\W_]+(?:[.,:/_@'’\-][^\W_]+)*|[$€£¥₹%]|[<>=≤≥≠+*^]+", re.UNICODE)
_SENTENCE_END = re.compile(r"[.!?:;\n\"“(]\s*$")
_SIGNS = {"$": "usd", "€": "eur", "£": "gbp", "¥": "jpy", "₹": "inr"}


@dataclass(frozen=True)
class Guard:
    """Digests of what a text's answer hangs on, one a kind, in the order of `KINDS`; empty where it has none."""

    digests: tuple[bytes, ...] = ()
    unreadable: str = ""  # why the rules cannot judge this text; such a text fits none

    def difference(self, other: Guard) -> str:
        """Return the first kind in which the two differ, or nothing where they agree in all."""
        if self.unreadable or other.unreadable:
            return self.unreadable or other.unreadable
        pairs = zip(KINDS, self.digests, other.digests, strict=True)
        return next((kind for kind, mine, theirs in pairs if mine != theirs), "")


def guard(text: str, key: bytes) -> Guard:
    """Return the guard of `text`; `key` keeps an outsider from testing guesses against it."""
    unreadable = _unreadable(text)
    if unreadable:
        return Guard(unreadable=unreadable)
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for kind, token in marked(text):
        if kind in _COUNTED or token not in found[kind]:
            found[kind].append(token)
    return Guard(tuple(_digest(tokens, key) for tokens in found.values()))


def marked(text: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, canonical token) of everything that is guarded, in order."""
    shouts = text.isupper()  # then capitals say nothing
    end, before = 0, ""
    for match in _WORD.finditer(text):
        word = match[0].replace("’", "'")
        is_first = end == 0 or bool(_SENTENCE_END.search(text[end : match.start()]))
        end = match.end()
        if found := _mark(word.lower() if shouts else word, is_first, before):
            yield found
        before = word.casefold()


def _mark(word: str, is_first: bool, before: str) -> tuple[str, str] | None:
    low = word.casefold()
    if low in NEGATIONS or low.endswith("n't"):
        return "negation", NEGATIONS.get(low, "not")
    if word in _SIGNS or low in CURRENCIES or low in NUMBER_WORDS:
        return "numbers", _SIGNS.get(word) or CURRENCIES.get(low) or NUMBER_WORDS[low]
    if any(character.isdigit() for character in low):
        return "numbers", low.replace(",", "")
    if low in DATES:
        return "dates", DATES[low]
    if low in OPPOSITES or not word[0].isalnum():
        return "opposites", OPPOSITES.get(low, low)
    if low in PARTICLES and before in PARTICLE_VERBS:
        return "opposites", low
    if low in PLACES or _is_name(word, low, is_first):
        return "names", low.removesuffix("'s")
    return None


def _is_name(word: str, low: str, is_first: bool) -> bool:
    """Tell whether a word is written as a name; the first of a sentence counts unless it often begins one."""
    base = low.split("'")[0]
    if base in PRONOUNS or not any(character.isupper() for character in word):
        return False
    if len(word) > 1 and any(character.isupper() for character in word[1:]):
        return True  # EU, US, iPhone
    return base not in (OPENERS if is_first else FUNCTION_WORDS)


def _unreadable(text: str) -> str:
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return "no words"
    latin = sum(character < "\u0250" for character in letters)
    if latin < MIN_LATIN * len(letters):
        return "script"
    words = re.findall(r"[^\W\d_]+", text.casefold())
    if len(words) < FOREIGN_WORDS or any(word in _ENGLISH for word in words):
        return ""
    return "" if sum(word in SHARED_WORDS for word in words) >= SHARED * len(words) else "language"


def _digest(tokens: list[str], key: bytes) -> bytes:
    return blake2b("\0".join(tokens).encode(), digest_size=8, key=key[:64]).digest() if tokens else b""
