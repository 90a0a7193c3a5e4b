"""farthing/prices.py: own prices first, then public history; unknown stays unknown."""
from __future__ import annotations

from datetime import date, datetime, timezone
from decimal import Decimal

import pytest
from genai_prices import Usage as PublicUsage
from genai_prices import calc_price

from farthing.errors import PriceError
from farthing.money import usd_from_nusd
from farthing.prices import LAST_DAY, PriceBook, Usage
from farthing.settings import PriceOverride

TODAY = date(2026, 11, 1)


@pytest.mark.parametrize(
    ("provider", "public", "model", "day"),
    [
        ("openai", "openai", "gpt-4o-mini", date(2026, 11, 1)),
        ("openai", "openai", "o3", date(2024, 6, 1)),
        ("openai", "openai", "o3", date(2026, 11, 1)),
        ("anthropic", "anthropic", "claude-sonnet-4-5", date(2026, 11, 1)),
        ("gcp.gemini", "google", "gemini-2.5-pro", date(2026, 11, 1)),
    ],
)
@pytest.mark.parametrize("total", [1_000, 250_000])
def test_a_public_price_agrees_with_its_source(provider: str, public: str, model: str, day: date, total: int) -> None:
    price = PriceBook().at(provider, model, day)
    assert price is not None
    ours = price.cost_nusd(Usage(input_uncached=total - 400, cache_read=400, output=77))
    theirs = calc_price(
        PublicUsage(input_tokens=total, cache_read_tokens=400, output_tokens=77),
        model,
        provider_id=public,
        genai_request_timestamp=datetime(day.year, day.month, day.day, 12, tzinfo=timezone.utc),
    )
    assert abs(usd_from_nusd(ours) - theirs.total_price) <= Decimal("0.0000000005")


@pytest.mark.parametrize(
    "pair", [("farthing", "gpt-4o"), ("", "gpt-4o"), ("openai", "no-such-model"), ("nobody", "gpt-4o")]
)
def test_what_has_no_price_has_none(pair: tuple[str, str]) -> None:
    assert PriceBook().history(*pair) == []


def test_an_own_price_ends_the_public_one_on_the_day_before() -> None:
    book = PriceBook([PriceOverride("openai", "gpt-4o-mini", input="1", output="2", valid_from="2026-10-01")])
    before, after = book.at("openai", "gpt-4o-mini", date(2026, 9, 30)), book.at("openai", "gpt-4o-mini", TODAY)
    assert before is not None and before.version.startswith("genai-prices") and before.valid_to == date(2026, 9, 30)
    assert after is not None and (after.version, after.rates.output, after.valid_to) == ("own", 2 * 10**9, LAST_DAY)


def test_the_bound_is_never_below_the_cost() -> None:
    price = PriceBook().at("anthropic", "claude-sonnet-4-5", TODAY)
    assert price is not None
    for usage in (Usage(250_000, 0, 0, 10), Usage(0, 0, 900, 10), Usage(0, 900, 0, 0), Usage(10, 10, 10, 500)):
        assert price.cost_nusd(usage) <= price.bound_nusd(usage.input, usage.output)


def test_a_bad_override_names_the_value_and_what_is_allowed() -> None:
    with pytest.raises(PriceError, match="input = 'cheap'; write USD per million tokens"):
        PriceBook([PriceOverride("x", "y", input="cheap", output="1")])
    with pytest.raises(PriceError, match="valid_from = 'soon'; write a date"):
        PriceBook([PriceOverride("x", "y", input="1", output="1", valid_from="soon")])
