"""farthing/money.py: nano-dollars, exact, rounded once."""
from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.money import cost_nusd, format_usd, nusd_from_usd, price_from_usd_per_mtok, usd_from_nusd


def test_a_cost_is_summed_exactly_and_rounded_half_up_once() -> None:
    # 1 token at 0.4 nUSD and 1 at 0.1 nUSD are 0.5 nUSD together: 1, where two roundings would give 0
    assert cost_nusd([(1, 400_000), (1, 100_000)]) == 1
    assert cost_nusd([(1, 400_000)]) == 0


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**12)), max_size=5))
def test_a_cost_is_within_half_a_nano_dollar_of_the_exact_one(terms: list[tuple[int, int]]) -> None:
    exact = sum(Decimal(tokens) * price for tokens, price in terms) / 1_000_000
    assert abs(cost_nusd(terms) - exact) <= Decimal("0.5")


def test_dollars_and_nano_dollars_convert_without_loss() -> None:
    assert nusd_from_usd("0.000000001") == 1
    assert usd_from_nusd(nusd_from_usd("12.345678901")) == Decimal("12.345678901")


@pytest.mark.parametrize("amount", ["free", "-1", "NaN", "inf", "0.0000000001"])
def test_what_is_not_an_amount_is_refused_with_its_value(amount: str) -> None:
    with pytest.raises(ValueError, match=amount.replace(".", r"\.")):
        nusd_from_usd(amount)


def test_a_price_of_a_third_of_a_cent_is_kept_exactly() -> None:
    assert price_from_usd_per_mtok("0.0375") == 37_500_000


def test_a_tiny_amount_is_shown_in_full() -> None:
    assert [format_usd(n) for n in (0, 123, 1_234_567_890_123)] == ["$0.00", "$0.000000123", "$1,234.57"]
