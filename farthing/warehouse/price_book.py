"""The price book's rows, as a price becomes one."""
from __future__ import annotations

from farthing.tariff import Price

COLUMNS = ("provider", "model", "service_tier", "valid_from", "valid_to", "rates", "version")


def row_of(price: Price) -> tuple[object, ...]:
    """Return the row of a price."""
    rates = [number for block in price.blocks() for number in block]
    return price.provider, price.model, price.service_tier, price.valid_from, price.valid_to, rates, price.version
