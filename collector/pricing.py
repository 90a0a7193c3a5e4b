"""Makes sure that every model in a segment has been looked up before the segment is inserted.

The views price at insert from a dictionary, so a model that is first seen in a batch must be in it by then. The model
names are found in the raw bytes, and only names not met before cost a query.
"""
from __future__ import annotations

import logging
import re
from itertools import groupby, product
from pathlib import Path
from typing import TypeVar

from farthing import semconv
from farthing.errors import WarehouseError
from farthing.prices import Price, PriceBook
from farthing.warehouse import Warehouse
from farthing.warehouse.lane import TRACES, Lane

log = logging.getLogger(__name__)
_Name = TypeVar("_Name")


def _patterns(facts: tuple[str, ...]) -> tuple[re.Pattern[bytes], ...]:
    """Return one pattern a dialect: the keys that carry these facts, and what follows them up to the next key.

    A dialect is the word that its keys begin with, because a search for a literal beginning is the quick one.
    """
    names = sorted(name for fact in facts for name in semconv.ALIASES[fact])
    by_dialect = {word: list(keys) for word, keys in groupby(names, key=lambda name: name.split(".", 1)[0] + ".")}
    return tuple(
        re.compile((re.escape(word) + f"(?:{'|'.join(re.escape(key[len(word):]) for key in keys)})").encode() + _VALUE)
        for word, keys in by_dialect.items()
    )


# tag | length of the value | tag | length of the text, text, and a bit of what follows; either length may be 10, a \n
_VALUE = rb"\x12(?s:.{1,5}?)\n(?s:.)[^\n]{0,400}"
_MODEL = tuple(name.encode() for fact in ("request_model", "response_model") for name in semconv.ALIASES[fact])
_NAMES = _patterns(("provider", "request_model", "response_model"))
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
        providers, models = _names(content)
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


def _names(content: bytes) -> tuple[set[bytes], set[bytes]]:
    """Return the providers and the models as they stand in the bytes, lengths included. [1.2 µs a span]

    A long value comes with some of what follows it, which is as good as a name.
    """
    providers: set[bytes] = set()
    models: set[bytes] = set()
    for found in {found for pattern in _NAMES for found in pattern.findall(content)}:
        key, _, rest = found.partition(b"\x12")
        value = rest[: 3 + rest[2]] if len(rest) > 2 and rest[0] < 128 else rest
        (models if key in _MODEL else providers).add(value)
    return providers, models
