"""Makes sure that every model in a segment has been looked up before the segment is inserted.

The views price at insert from a dictionary, so a model that is first seen in a batch must be in it by then. The model
names are found by a regular expression over the raw bytes, and only names not met before cost a query.
"""
from __future__ import annotations

import re
from itertools import product
from pathlib import Path

from farthing import semconv
from farthing.prices import Price, PriceBook
from farthing.warehouse import Warehouse


def _values_of(facts: tuple[str, ...]) -> re.Pattern[bytes]:
    keys = b"|".join(re.escape(name.encode()) for fact in facts for name in semconv.ALIASES[fact])
    return re.compile(rb"(?:" + keys + rb")\x12.{1,2}?\x0a([\x00-\xff]{1,2}?)", re.DOTALL)


_MODEL = _values_of(("request_model", "response_model"))
_PROVIDER = _values_of(("provider",))


class Pricing:
    """Resolves models against a price book and keeps the warehouse's prices filled."""

    def __init__(self, warehouse: Warehouse, book: PriceBook) -> None:
        self._warehouse = warehouse
        self._book = book
        self._checked: set[tuple[bytes, bytes]] = set()  # (provider, model) as they stand in the bytes
        self._resolved: set[tuple[str, str]] = set()
        self.unpriced: set[tuple[str, str]] = set()  # looked up, and without a price

    def start(self) -> None:
        """Fill the warehouse's prices anew, so that an override that was taken back is gone."""
        self._warehouse.command("TRUNCATE TABLE price_book")
        self._resolve(self._book.own())

    def prepare(self, segment: Path) -> None:
        """Look up every model of the segment that was not met before."""
        content = segment.read_bytes()
        pairs = set(product(_strings(_PROVIDER, content), _strings(_MODEL, content)))
        if pairs <= self._checked:
            return
        self._resolve(self._warehouse.unseen_models(segment))
        self._checked |= pairs

    def _resolve(self, pairs: list[tuple[str, str]]) -> None:
        found: list[Price] = []
        for pair in pairs:
            if pair in self._resolved:
                continue
            history = self._book.history(*pair)
            found += history
            self._resolved.add(pair)
            if not history:
                self.unpriced.add(pair)
        if found:
            self._warehouse.put_prices(found)


def _strings(pattern: re.Pattern[bytes], content: bytes) -> set[bytes]:
    """Return the string values behind the keys that `pattern` finds; a long one is cut, which is as good as a name."""
    return {content[match.end() - 1 : match.end() + match.group(1)[0] % 128] for match in pattern.finditer(content)}
