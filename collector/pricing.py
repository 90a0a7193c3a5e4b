"""Makes sure that every model in a segment has been looked up before the segment is inserted.

The views price at insert from a dictionary, so a model that is first seen in a batch must be in it by then. The model
names are found in the raw bytes, and only names not met before cost a query.
"""
from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from farthing import semconv
from farthing.errors import WarehouseError
from farthing.prices import Price, PriceBook
from farthing.prices_own import own_price
from farthing.servers import Rule, providers
from farthing.settings import PriceOverride
from farthing.warehouse import Warehouse
from farthing.warehouse import segment as record
from farthing.warehouse.lane import TRACES, Lane
from farthing.warehouse.price_store import Added, Period, PriceStore

log = logging.getLogger(__name__)
_Name = TypeVar("_Name")


# tag | length of the value | tag | length of the text, text, and a bit of what follows; either length may be 10, a \n
_VALUE = rb"\x12((?s:.{1,5}?)\n(?s:.)[^\n]{0,400})"


def _pattern(word: str, *facts: str) -> re.Pattern[bytes]:
    """Return what finds the values of the keys that hold `word` and carry these facts.

    It begins with the word, because a search for a literal beginning is the quick one: a pass for each of three words,
    where one for each dialect took twice the time. [1.0 µs a span]
    """
    keys = [key for fact in facts for key in semconv.ALIASES[fact] if word in key]
    cut = [(key[: key.rindex(word) + len(word)], key[key.rindex(word) + len(word) :]) for key in keys]
    ends = "|".join(f"(?<={re.escape(begin)}){re.escape(end)}" for begin, end in cut)
    return re.compile(f"{word}(?:{ends})".encode() + _VALUE)


_PROVIDERS = (_pattern("provider", "provider"), _pattern("system", "provider"))
_MODELS = (_pattern("model", "request_model", "response_model"),)
_PIECE = 4 * 1024 * 1024  # bytes of a segment that are read at once
MAX_NAMES = 20_000  # names remembered at most: a sender that makes them up must not fill the memory


class Pricing:
    """Resolves models against a price book and keeps the warehouse's prices filled.

    `on_repriced` is told the period whose rows are priced anew, before and after, so that what was summed up of it is
    summed up again.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        book: PriceBook,
        on_repriced: Callable[[datetime, datetime], None] = lambda *_: None,
        servers: Sequence[Rule] = (),
    ) -> None:
        self._warehouse = warehouse
        self._servers = servers
        self._on_repriced = on_repriced
        self.store = PriceStore(warehouse)
        self.book = book
        self._lock = threading.RLock()  # the book in memory and the one in the warehouse change together
        self._change = threading.Lock()  # one change at a time by people; inserts go on
        self._checked: set[tuple[bytes, bytes]] = set()  # (provider, model) as they stand in the bytes
        self._resolved: set[tuple[str, str]] = set()
        self._is_started = False
        self.unpriced: set[tuple[str, str]] = set()  # looked up, and without a price

    def start(self) -> None:
        """Fill the warehouse's prices anew, so that an override that was taken back is gone."""
        try:
            with self._lock:
                self._start_anew()
        except WarehouseError as error:  # a full disk, say: what senders bring can be spooled nevertheless
            log.warning("the prices are filled with the first segment: %s", error)

    def _start_anew(self) -> None:
        self.book.add(self.store.own())
        self.store.clear()
        self.store.put_servers(self._servers)
        self._resolved.clear()
        self._resolve(self.book.own())
        self._is_started = True

    def prepare(self, segment: Path, lane: Lane = TRACES) -> None:
        """Look up every model of the segment that was not met before."""
        with self._lock:
            self._prepare(segment, lane)

    def add(self, override: PriceOverride, by: str, reason: str) -> list[Price]:
        """Keep a price of the user's own for good and price by it from now on; return the model's new history.

        Raises:
            PriceError: it cannot be read; nothing was changed.
        """
        price = own_price(override)
        with self._change, self._lock:
            if not self._is_started:
                self._start_anew()
            self.store.add(Added(override, by, reason, datetime.now(timezone.utc)))
            self.book.add(self.store.own())
            pair = price.provider, price.model
            history = self.book.every(*pair)
            self.store.replace(*pair, history)
            self._resolved.add(pair)
            self.unpriced.discard(pair)
        return history

    def reprice(self, period: Period, by: str, reason: str, is_dry: bool = False) -> list[dict[str, Any]]:
        """Price the rows of a period by the book as it stands, and return per model what that changed.

        What is inserted meanwhile is priced by the same book. Where nothing would change, nothing is written.
        """
        with self._change:
            with self._lock:
                if not self._is_started:
                    self._start_anew()
                self._resolve(self.store.models(period))
            changes = self.store.compare(period)
            if is_dry:
                return changes
            if any(row["changed"] for row in changes):
                self._on_repriced(period.since, period.until)  # a crash must not leave the sums behind
                self.store.reprice(period)
            self.store.note(period, by, reason, changes)
        self._on_repriced(period.since, period.until)
        return changes

    def _prepare(self, segment: Path, lane: Lane) -> None:
        if not self._is_started:
            self._start_anew()
        if lane is not TRACES:  # few and small, so the store itself may look
            self._resolve(self._warehouse.unseen_models(segment, lane))
            return
        providers, models = set[bytes](), set[bytes]()
        for content in record.pieces(segment, _PIECE):
            found = _names(content)
            providers |= found[0]
            models |= found[1]
        is_countable = len(providers) * len(models) <= MAX_NAMES
        pairs = set(product(providers, models)) if is_countable else set[tuple[bytes, bytes]]()
        if is_countable and pairs <= self._checked:
            return
        named = self._warehouse.names(segment)
        calls = [(provider, model) for provider, model, is_call in named if is_call and model]
        self._resolve(calls)
        if is_countable:  # any of these providers may be met with any of these models next, which is then not looked at
            met = ({provider for provider, _, _ in named}, {model for _, model, _ in named if model})
            self._resolve(list(product(*met)), are_calls=False)
        _remember(self._checked, pairs)

    def _resolve(self, pairs: list[tuple[str, str]], are_calls: bool = True) -> None:
        found = {pair: self.book.every(*pair) for pair in pairs if pair not in self._resolved}
        elsewhere = {(by, model): self.book.every(by, model) for _, model in found for by in providers(self._servers)}
        prices: list[Price] = [price for history in (elsewhere | found).values() for price in history]
        if prices:
            self._warehouse.put_prices(prices)  # where this fails, the next attempt looks them up again
        _remember(self._resolved, set(found))
        if are_calls:
            _remember(self.unpriced, {pair for pair, history in found.items() if not history})


def _remember(known: set[_Name], more: set[_Name]) -> None:
    """Add to a set that starts over when it is full."""
    if len(known) + len(more) > MAX_NAMES:
        known.clear()
    known |= more


def _names(content: bytes) -> tuple[set[bytes], set[bytes]]:
    """Return the providers and the models as they stand in the bytes, lengths included."""
    return _values(_PROVIDERS, content), _values(_MODELS, content)


def _values(patterns: Iterable[re.Pattern[bytes]], content: bytes) -> set[bytes]:
    """Return what follows the keys; a long value comes with some of what follows it, which is as good as a name."""
    found = {value for pattern in patterns for value in pattern.findall(content)}
    return {value[: 3 + value[2]] if value[0] < 128 else value for value in found}
