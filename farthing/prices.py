"""What a model call costs: the user's own prices first, then the public price history of `genai-prices`.

A model without a price resolves to nothing, never to 0, and a self-hosted model is never priced as the public model of
the same name, because prices are looked up by (provider, model) and nothing is guessed from the name alone. A service
tier without a price of its own is without a price: the standard one is not taken for it.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date, timedelta

from farthing.prices_own import own_price
from farthing.prices_public import public_prices
from farthing.semconv import canonical_provider
from farthing.settings import PriceOverride
from farthing.tariff import FIRST_DAY, LAST_DAY, Price, Rates, SizeTier, Usage

__all__ = ["FIRST_DAY", "LAST_DAY", "Price", "PriceBook", "Rates", "SizeTier", "Usage"]


class PriceBook:
    """Resolves (provider, model, service tier) to its price history.

    Raises:
        PriceError: an override cannot be read; the message names it and what is allowed.
    """

    def __init__(self, overrides: Sequence[PriceOverride] = ()) -> None:
        self._set = [own_price(override) for override in overrides]  # by the settings
        self._own: dict[tuple[str, str], list[Price]] = {}
        self.add(())

    def add(self, added: Iterable[Price]) -> None:
        """Take what was added at run time, all of it and in the order it was added, beside the settings' prices."""
        own: dict[tuple[str, str], list[Price]] = {}
        for price in (*self._set, *added):
            own.setdefault((price.provider, price.model), []).append(price)
        self._own = own

    def history(self, provider: str, model: str, service_tier: str = "") -> list[Price]:
        """Return the prices of a model in one service tier, oldest first, without overlaps; empty = unpriced."""
        return [price for price in self.every(provider, model) if price.service_tier == service_tier]

    def every(self, provider: str, model: str) -> list[Price]:
        """Return the prices of a model in each service tier, without overlaps within a tier; empty = unpriced."""
        provider = canonical_provider(provider)
        own, public = self._own.get((provider, model), []), public_prices(provider, model)
        tiers = sorted({price.service_tier for price in (*own, *public)})
        return [price for tier in tiers for price in _chain(_in(tier, public), _in(tier, own))]

    def at(self, provider: str, model: str, day: date, service_tier: str = "") -> Price | None:
        """Return the price of a model on `day`, UTC; None = unpriced."""
        for price in self.history(provider, model, service_tier):
            if price.valid_from <= day <= price.valid_to:
                return price
        return None

    def own(self) -> list[tuple[str, str]]:
        """Return the (provider, model) pairs that the user has priced."""
        return list(self._own)


def _in(tier: str, prices: list[Price]) -> list[Price]:
    return [price for price in prices if price.service_tier == tier]


def _chain(public: list[Price], own: list[Price]) -> list[Price]:
    """End each price on the day before the next one starts; from the first own price on there are only own ones.

    Of two own prices that start on one day, the one that was said last holds.
    """
    starts = {price.valid_from: price for price in own}
    first_own = min(starts, default=LAST_DAY + timedelta(days=1))
    starts = {price.valid_from: price for price in public if price.valid_from < first_own} | starts
    history = [starts[day] for day in sorted(starts)]
    ends = [following.valid_from - timedelta(days=1) for following in history[1:]] + [LAST_DAY]
    return [replace(price, valid_to=end) for price, end in zip(history, ends, strict=True)]
