"""Caps what was retrieved: passages between a policy's markers, first come first kept, the newest message first.

A retriever puts the best passage first, so the order is taken as its judgement. A passage is kept whole or not at all.
"""
from __future__ import annotations

from dataclasses import dataclass

from farthing.policy.tokens import RetrievalRule


@dataclass(slots=True)
class Passages:
    """What may still be kept of one request."""

    rule: RetrievalRule
    passages: int = 0  # kept so far
    characters: int = 0

    def cap(self, text: str) -> str:
        """Return a text without the passages that are too many."""
        kept: list[str] = []
        at = 0
        finders = [_Finder(text, opening, closing) for opening, closing in self.rule.markers]
        while found := [place for finder in finders if (place := finder.next(at))]:
            start, end = min(found)
            kept.append(text[at:start])
            if self._takes(end - start):
                kept.append(text[start:end])
            at = end
        return "".join((*kept, text[at:])) if kept else text

    def _takes(self, size: int) -> bool:
        rule = self.rule
        is_one_too_many = rule.max_passages is not None and self.passages >= rule.max_passages
        is_too_long = rule.max_characters is not None and self.characters + size > rule.max_characters
        if is_one_too_many or is_too_long:
            return False
        self.passages, self.characters = self.passages + 1, self.characters + size
        return True


class _Finder:
    """Finds the passages of one pair of markers; looks at each character once, however many passages there are."""

    def __init__(self, text: str, opening: str, closing: str) -> None:
        self._text, self._opening, self._closing = text, opening, closing
        self._found: tuple[int, int] | None = (-1, -1)

    def next(self, at: int) -> tuple[int, int] | None:
        """Return where the first passage from `at` on begins and ends."""
        if self._found is not None and self._found[0] < at:
            self._found = self._find(at)
        return self._found

    def _find(self, at: int) -> tuple[int, int] | None:
        text, opening = self._text, self._opening
        start = text.find(opening, at)
        while start >= 0 and _goes_on(text, start + len(opening), opening):
            start = text.find(opening, start + 1)
        if start < 0:
            return None
        end = text.find(self._closing or opening, start + len(opening))
        if not self._closing:
            return start, end if end >= 0 else len(text)
        return (start, end + len(self._closing)) if end >= 0 else None


def _goes_on(text: str, at: int, opening: str) -> bool:
    """Tell whether a marker is only the begin of a longer word: `<documents>` is no `<document`."""
    return opening[-1].isalnum() and text[at : at + 1].isalnum()
