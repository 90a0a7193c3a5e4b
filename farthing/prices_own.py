"""Prices of the user's own, as written in farthing.toml or added with `farthing prices add`.

Money is text until here, so that 0.1 stays 0.1; what cannot be read is refused with the value and what is allowed.
"""
from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import Any

from farthing.errors import PriceError
from farthing.money import price_from_usd_per_mtok
from farthing.semconv import canonical_provider
from farthing.settings import PriceOverride
from farthing.tariff import FIRST_DAY, LAST_DAY, Price, Rates, SizeTier, service_tier

KINDS = (
    "input", "output", "cache_read", "cache_write", "cache_write_1h", "input_audio", "cache_audio", "output_audio",
)  # fmt: skip
MAX_USD_PER_MTOK = 1_000_000  # a dollar a token; beyond it somebody forgot the million
MAX_TIERS = 16


def own_price(override: PriceOverride) -> Price:
    """Return the price that an override says.

    Raises:
        PriceError: a value cannot be read; the message names it and what is allowed.
    """
    where = f"price of {override.provider}/{override.model}"
    if not override.provider.strip() or not override.model.strip():
        raise PriceError(f"{where}: provider and model must both be named")
    rates = _rates(where, {kind: getattr(override, kind) for kind in KINDS})
    return Price(
        canonical_provider(override.provider.strip()),
        override.model.strip(),
        rates,
        "own",
        service_tier(override.service_tier),
        _day(where, override.valid_from),
        tiers=_tiers(where, override.tiers),
    )


def _rates(where: str, given: Mapping[str, str]) -> Rates:
    rated = {kind: _rate(where, kind, text) for kind, text in given.items() if text or kind in ("input", "output")}
    return Rates.of(rated.pop("input"), rated.pop("output"), **rated)


def _rate(where: str, name: str, text: object) -> int:
    try:
        value = Decimal(str(text).strip())
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or not 0 <= value <= MAX_USD_PER_MTOK:
        raise PriceError(f'{where}: {name} = {text!r}; write USD per million tokens, such as "0.25"')
    return price_from_usd_per_mtok(value)


def _day(where: str, text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = date.min
    if not FIRST_DAY <= day <= LAST_DAY:
        raise PriceError(f"{where}: valid_from = {text!r}; write a date, such as 2026-11-21")
    return day


def _tiers(where: str, given: tuple[Mapping[str, Any], ...]) -> tuple[SizeTier, ...]:
    if len(given) > MAX_TIERS:
        raise PriceError(f"{where}: {len(given)} tiers; allowed are {MAX_TIERS}")
    tiers = sorted((_tier(where, one) for one in given), key=lambda tier: tier.over)
    for one, following in pairwise(tiers):
        if one.over == following.over:
            raise PriceError(f"{where}: two tiers begin over {one.over} input tokens; write one")
    return tuple(tiers)


def _tier(where: str, given: Mapping[str, Any]) -> SizeTier:
    unknown = sorted(set(given) - {"over", *KINDS})
    if unknown:
        raise PriceError(f"{where}: tiers: unknown key {unknown[0]!r}; known: over, {', '.join(KINDS)}")
    missing = [name for name in ("over", "input", "output") if name not in given]
    if missing:
        raise PriceError(f"{where}: tiers: {dict(given)!r} lacks {', '.join(missing)}")
    over = given["over"]
    if isinstance(over, bool) or not isinstance(over, (int, str)) or not str(over).isdecimal() or int(over) < 1:
        raise PriceError(f"{where}: tiers: over = {over!r}; write the input tokens past which it holds, such as 200000")
    return SizeTier(int(over), _rates(where, {kind: given.get(kind, "") for kind in KINDS}))
