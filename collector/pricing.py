"""Makes sure that every model in a segment has been looked up before the segment is inserted.

The views price at insert from a dictionary, so a model that is first seen in a batch must be in it by then. The model
names are found in the raw bytes, and only names not met before cost a query.
"""
from __future__ import annotations

import logging
from itertools import product
from pathlib import Path
from typing import TypeVar

from farthing import semconv
from farthing.errors import WarehouseError
from farthing.prices import Price, PriceBook
from farthing.warehouse import Warehouse
from farthing.warehouse.lane import TRACES, Lane

log = logging.getLogger(__name__)
_Name = TypeVar("_Name")


def _marks_of(*facts: str) -> tuple[bytes, ...]:
    """Return the attribute keys that carry these facts, each with the byte that leads to its value."""
    return tuple(name.encode() + b"\x12" for fact in facts for name in semconv.ALIASES[fact])


_MODEL = _marks_of("request_model", "response_model")
_PROVIDER = _marks_of("provider")
MAX_NAMES = 20_000  # names remembered at most: a sender that makes them up must not fill the memory


class Pricing:
    """Resolves models against a price book and keeps the warehouse's prices filled."""

    def __init__(self, warehouse: Warehouse, book: PriceBook) -> None:
        self._warehouse = warehouse
        self._book = book
        self._checked: set[tuple[bytes, bytes]] = set()  # (provider, model) as they stand in the bytes
        self._resolved: set[tuple[str, str]] = set()
        self._is_started = False
        self.unpriced: set[tuple[str, str]] = set()  # looked up, and without a price

    def start(self) -> None:
        """Fill the warehouse's prices anew, so that an override that was taken back is gone."""
        try:
            self._start_anew()
        except WarehouseError as error:  # a full disk, say: what senders bring can be spooled nevertheless
            log.warning("the prices are filled with the first segment: %s", error)

    def _start_anew(self) -> None:
        self._warehouse.command("TRUNCATE TABLE price_book")
        self._resolved.clear()
        self._resolve(self._book.own())
        self._is_started = True

    def prepare(self, segment: Path, lane: Lane = TRACES) -> None:
        """Look up every model of the segment that was not met before."""
        if not self._is_started:
            self._start_anew()
        if lane is not TRACES:  # few and small, so the store itself may look
            self._resolve(self._warehouse.unseen_models(segment, lane))
            return
        content = segment.read_bytes()
        providers, models = _strings(_PROVIDER, content), _strings(_MODEL, content)
        is_countable = len(providers) * len(models) <= MAX_NAMES
        pairs = set(product(providers, models)) if is_countable else set[tuple[bytes, bytes]]()
        if is_countable and pairs <= self._checked:
            return
        self._resolve(self._warehouse.unseen_models(segment))
        _remember(self._checked, pairs)

    def _resolve(self, pairs: list[tuple[str, str]]) -> None:
        found = {pair: self._book.history(*pair) for pair in pairs if pair not in self._resolved}
        prices: list[Price] = [price for history in found.values() for price in history]
        if prices:
            self._warehouse.put_prices(prices)  # where this fails, the next attempt looks them up again
        _remember(self._resolved, set(found))
        _remember(self.unpriced, {pair for pair, history in found.items() if not history})


def _remember(known: set[_Name], more: set[_Name]) -> None:
    """Add to a set that starts over when it is full."""
    if len(known) + len(more) > MAX_NAMES:
        known.clear()
    known |= more


def _strings(marks: tuple[bytes, ...], content: bytes) -> set[bytes]:
    """Return what stands behind the keys, lengths included; a long value with some of what follows, as good as a name.

    Searched key by key, 0.2 µs a span and key; a dialect that does not occur costs one search for all of its keys.
    """
    found: set[bytes] = set()
    dialects = {mark: mark.split(b".", 1)[0] + b"." for mark in marks}
    present = {dialect for dialect in set(dialects.values()) if dialect in content}
    for mark in marks:
        if dialects[mark] not in present:
            continue
        for rest in content.split(mark)[1:]:  # length of the value | tag | length of the text | text
            found.add(rest[: 3 + rest[2]] if len(rest) > 2 and rest[0] < 128 else rest[:400])
    return found
