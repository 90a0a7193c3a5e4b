"""The price book's rows, as a price becomes one."""
from __future__ import annotations

from farthing.prices import Price

COLUMNS = (
    "provider", "model", "valid_from", "valid_to", "input", "cache_read", "cache_write", "output",
    "tier_over", "tier_input", "tier_cache_read", "tier_cache_write", "tier_output", "version",
)  # fmt: skip


def row_of(price: Price) -> tuple[object, ...]:
    """Return the row of a price."""
    tier = price.tier_rates or price.rates
    return (
        price.provider, price.model, price.valid_from, price.valid_to,
        price.rates.input, price.rates.cache_read, price.rates.cache_write, price.rates.output,
        price.tier_over, tier.input, tier.cache_read, tier.cache_write, tier.output, price.version,
    )  # fmt: skip
