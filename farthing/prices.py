"""What a model call costs: the user's own prices first, then the public price history of `genai-prices`.

A model without a price resolves to nothing, never to 0, and a self-hosted model is never priced as the public model of
the same name, because prices are looked up by (provider, model) and nothing is guessed from the name alone.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal, InvalidOperation
from importlib.metadata import version as package_version

from genai_prices import data_snapshot, types

from farthing.errors import PriceError
from farthing.money import cost_nusd, price_from_usd_per_mtok
from farthing.semconv import canonical_provider
from farthing.settings import PriceOverride

FIRST_DAY = date(1970, 1, 1)
LAST_DAY = date(2149, 6, 6)

# OpenTelemetry's provider names -> those of genai-prices, where they differ
_PROVIDERS = {
    "aws.bedrock": "aws",
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "gcp.gemini": "google",
    "gcp.vertex_ai": "google",
    "gcp.gen_ai": "google",
    "mistral_ai": "mistral",
    "moonshot_ai": "moonshotai",
    "x_ai": "x-ai",
}


@dataclass(frozen=True)
class Usage:
    """Tokens of one call; the three kinds of input are disjoint and sum to the total."""

    input_uncached: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0  # reasoning included

    @property
    def input(self) -> int:
        return self.input_uncached + self.cache_read + self.cache_write


@dataclass(frozen=True)
class Rates:
    """nUSD per million tokens of each kind."""

    input: int
    cache_read: int
    cache_write: int
    output: int


@dataclass(frozen=True)
class Price:
    """The price of one model over the days [valid_from, valid_to], both inclusive, UTC."""

    provider: str
    model: str
    rates: Rates
    version: str  # where the price comes from
    valid_from: date = FIRST_DAY
    valid_to: date = LAST_DAY
    tier_over: int = 0  # input tokens past which `tier_rates` hold for the whole call; 0 = no tier
    tier_rates: Rates | None = None

    def cost_nusd(self, usage: Usage) -> int:
        """Return what `usage` costs, nano-dollars; the rule that the warehouse applies too."""
        over = self.tier_rates is not None and self.tier_over > 0 and usage.input > self.tier_over
        rates = self.tier_rates if over and self.tier_rates is not None else self.rates
        return cost_nusd(
            (
                (usage.input_uncached, rates.input),
                (usage.cache_read, rates.cache_read),
                (usage.cache_write, rates.cache_write),
                (usage.output, rates.output),
            )
        )

    def bound_nusd(self, max_input: int, max_output: int) -> int:
        """Return the most that a call of at most so many tokens can cost, at the dearest tier and kind."""
        tiers = [self.rates] + ([self.tier_rates] if self.tier_rates is not None else [])
        dearest_input = max(max(r.input, r.cache_read, r.cache_write) for r in tiers)
        dearest_output = max(r.output for r in tiers)
        return cost_nusd(((max_input, dearest_input), (max_output, dearest_output)))


class PriceBook:
    """Resolves (provider, model) to its price history.

    Raises:
        PriceError: an override cannot be read; the message names it and what is allowed.
    """

    def __init__(self, overrides: Sequence[PriceOverride] = ()) -> None:
        self._overrides: dict[tuple[str, str], list[Price]] = {}
        for override in overrides:
            price = _from_override(override)
            self._overrides.setdefault((price.provider, price.model), []).append(price)
        for history in self._overrides.values():
            history.sort(key=lambda price: price.valid_from)
        self._public_version = f"genai-prices {package_version('genai-prices')}"

    def history(self, provider: str, model: str) -> list[Price]:
        """Return the prices of a model, oldest first, without overlaps; empty = unpriced."""
        provider = canonical_provider(provider)
        own = self._overrides.get((provider, model), [])
        if own:
            public = self._public(provider, model) if own[0].valid_from > FIRST_DAY else []
            return _chain([price for price in public if price.valid_from < own[0].valid_from] + own)
        return _chain(self._public(provider, model))

    def at(self, provider: str, model: str, day: date) -> Price | None:
        """Return the price of a model on `day`, UTC; None = unpriced."""
        for price in self.history(provider, model):
            if price.valid_from <= day <= price.valid_to:
                return price
        return None

    def own(self) -> list[tuple[str, str]]:
        """Return the (provider, model) pairs that the user has priced."""
        return list(self._overrides)

    def _public(self, provider: str, model: str) -> list[Price]:
        if not provider or not model:
            return []
        snapshot = data_snapshot.get_snapshot()
        try:
            _, found = snapshot.find_provider_model(model, None, _PROVIDERS.get(provider, provider), None)
        except LookupError:
            return []
        starts = [FIRST_DAY]
        if isinstance(found.prices, list):
            starts += sorted(
                {
                    one.constraint.start_date
                    for one in found.prices
                    if isinstance(one.constraint, types.StartDateConstraint)
                }
            )
        base = Price(provider, model, Rates(0, 0, 0, 0), self._public_version)
        prices = [_from_public(base, found, start) for start in starts]
        return [price for price in prices if price is not None]


def _chain(history: list[Price]) -> list[Price]:
    """End each price on the day before the next one starts."""
    if not history:
        return []
    ends = [following.valid_from - timedelta(days=1) for following in history[1:]] + [LAST_DAY]
    return [replace(price, valid_to=end) for price, end in zip(history, ends, strict=True) if end >= price.valid_from]


def _from_public(base: Price, found: types.ModelInfo, start: date) -> Price | None:
    noon = datetime.combine(start, time(12), tzinfo=timezone.utc)
    quoted = found.get_prices(noon).__dict__
    if quoted.get("input_mtok") is None and quoted.get("output_mtok") is None:
        return None
    tier_over = _tier_start(quoted.get("input_mtok"))
    return replace(
        base,
        rates=_rates(quoted, tiered=False),
        valid_from=start,
        tier_over=tier_over,
        tier_rates=_rates(quoted, tiered=True) if tier_over else None,
    )


def _tier_start(quoted: Decimal | types.TieredPrices | None) -> int:
    return quoted.tiers[0].start if isinstance(quoted, types.TieredPrices) and quoted.tiers else 0


def _rates(quoted: dict[str, Decimal | types.TieredPrices | None], tiered: bool) -> Rates:
    def one(kind: str, default: int) -> int:
        value = quoted.get(f"{kind}_mtok")
        if isinstance(value, types.TieredPrices):
            value = value.tiers[0].price if tiered and value.tiers else value.base
        return default if value is None else price_from_usd_per_mtok(value)

    plain = one("input", 0)
    return Rates(plain, one("cache_read", plain), one("cache_write", plain), one("output", 0))


def _from_override(override: PriceOverride) -> Price:
    where = f"price of {override.provider}/{override.model}"

    def rate(name: str, text: str) -> int:
        try:
            value = Decimal(text)
        except InvalidOperation:
            value = Decimal(-1)
        if not value.is_finite() or value < 0:
            raise PriceError(f'{where}: {name} = {text!r}; write USD per million tokens, such as "0.25"')
        return price_from_usd_per_mtok(value)

    try:
        valid_from = date.fromisoformat(override.valid_from)
    except ValueError:
        raise PriceError(f"{where}: valid_from = {override.valid_from!r}; write a date, such as 2026-11-21") from None
    plain = rate("input", override.input)
    rates = Rates(
        plain,
        rate("cache_read", override.cache_read) if override.cache_read else plain,
        rate("cache_write", override.cache_write) if override.cache_write else plain,
        rate("output", override.output),
    )
    return Price(canonical_provider(override.provider), override.model, rates, "own", valid_from)
