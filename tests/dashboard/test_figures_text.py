from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import pytest

from dashboard import figures_text as text


@pytest.mark.parametrize(
    ("amount", "written"),
    [("0", "$0.00"), ("0.000123456", "$0.000123456"), ("0.01", "$0.01"), ("1234.5", "$1,234.50"), (None, "—")],
)
def test_small_amounts_are_never_written_as_nothing(amount: str | None, written: str) -> None:
    assert text.usd(None if amount is None else Decimal(amount)) == written


def test_the_exact_amount_has_nine_places() -> None:
    assert text.exact_usd(Decimal("27.44462635")) == "27.444626350"


@pytest.mark.parametrize(
    ("number", "written"),
    [(0, "0"), (9999, "9,999"), (12_300, "12.3k"), (280_900, "280.9k"), (27_150_000, "27.15M"), (None, "—")],
)
def test_counts_are_shortened_from_ten_thousand(number: int | None, written: str) -> None:
    assert text.count(number) == written


@pytest.mark.parametrize(
    ("duration", "written"),
    [(0.0042, "4.2 ms"), (0.35, "350 ms"), (2.2, "2.20 s"), (float("nan"), "—"), (None, "—")],
)
def test_durations_are_in_ms_below_a_second(duration: float | None, written: str) -> None:
    assert text.seconds(duration) == written


def test_a_small_share_is_not_written_as_none() -> None:
    assert [text.share(1, 1000), text.share(0, 1000), text.share(1, 3), text.share(0, 0)] == ["<1%", "0%", "33%", "—"]


def test_the_stores_times_are_read_as_utc() -> None:
    assert text.clock(datetime(2026, 11, 21, 12, 3, 10), "Asia/Kolkata") == "17:33:10"
