"""Money is integer nano-dollars (1 USD = 1,000,000,000 nUSD); a price is integer nUSD per million tokens.

One rounding rule for the ledger and the warehouse: the token products are summed exactly, then rounded half up once.
"""
from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_CEILING, Decimal, InvalidOperation

NUSD_PER_USD = 1_000_000_000
TOKENS_PER_PRICE = 1_000_000  # a price is quoted for this many tokens


def cost_nusd(terms: Iterable[tuple[int, int]]) -> int:
    """Return the cost of `(tokens, nUSD per million tokens)` terms, rounded half up once."""
    return rounded(sum([tokens * price for tokens, price in terms]))


def rounded(products: int) -> int:
    """Return the nano-dollars of a sum of token counts times their prices, rounded half up."""
    return (products + TOKENS_PER_PRICE // 2) // TOKENS_PER_PRICE


def nusd_from_usd(amount: str | int | Decimal) -> int:
    """Return `amount` US dollars as nano-dollars.

    Raises:
        ValueError: not a number, negative, or finer than a nano-dollar.
    """
    try:
        value = Decimal(amount) * NUSD_PER_USD
    except InvalidOperation:
        raise ValueError(f"{amount!r} is not an amount of money; write dollars, such as 12.50") from None
    if not value.is_finite() or value < 0:
        raise ValueError(f"{amount!r} is not an amount of money; it must be 0 or more")
    if value != value.to_integral_value():
        raise ValueError(f"{amount!r} is finer than a nano-dollar (0.000000001 USD)")
    return int(value)


def usd_from_nusd(nusd: int) -> Decimal:
    """Return nano-dollars as dollars, exact to nine places."""
    return Decimal(nusd).scaleb(-9)


def price_from_usd_per_mtok(usd: str | int | Decimal) -> int:
    """Return a price in USD per million tokens as nUSD per million tokens, rounded up to a whole nUSD."""
    return int((Decimal(usd) * NUSD_PER_USD).to_integral_value(rounding=ROUND_CEILING))


def format_usd(nusd: int) -> str:
    """Write an amount for people: cents where they say enough, all nine places where they do not."""
    usd = usd_from_nusd(nusd)
    if nusd == 0 or abs(usd) >= Decimal("0.01"):
        return f"${usd:,.2f}"
    return f"${usd:f}"
