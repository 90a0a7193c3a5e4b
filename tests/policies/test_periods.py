"""policies/periods.py: every instant lies in exactly one period, whatever clocks do."""
from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.policy import Window
from farthing.policy.periods import NS_PER_S, period_at
from policies.periods import iso

HOUR_NS = 3600 * NS_PER_S


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).astimezone(timezone.utc).timestamp()) * NS_PER_S


@pytest.mark.parametrize(
    ("calendar", "tz", "at", "name", "start", "end"),
    [
        ("day", "UTC", "2026-03-01T12:00Z", "day:2026-03-01", "2026-03-01T00:00Z", "2026-03-02T00:00Z"),
        ("week", "UTC", "2026-03-01T12:00Z", "week:2026-02-23", "2026-02-23T00:00Z", "2026-03-02T00:00Z"),
        ("month", "UTC", "2026-12-31T23:59Z", "month:2026-12-01", "2026-12-01T00:00Z", "2027-01-01T00:00Z"),
        ("month", "Asia/Tokyo", "2026-03-31T15:00Z", "month:2026-04-01", "2026-03-31T15:00Z", "2026-04-30T15:00Z"),
        ("day", "Europe/London", "2026-03-29T12:00Z", "day:2026-03-29", "2026-03-29T00:00Z", "2026-03-29T23:00Z"),
        ("day", "Europe/London", "2026-10-25T12:00Z", "day:2026-10-25", "2026-10-24T23:00Z", "2026-10-26T00:00Z"),
        # clocks skip midnight here: the day begins at 01:00
        ("day", "America/Sao_Paulo", "2018-11-04T12:00Z", "day:2018-11-04", "2018-11-04T03:00Z", "2018-11-05T02:00Z"),
    ],
)
def test_a_period_runs_from_midnight_to_midnight_of_its_zone(
    calendar: str, tz: str, at: str, name: str, start: str, end: str
) -> None:
    period = period_at(Window.model_validate({"calendar": calendar, "tz": tz}), ns(at))
    assert (period.name, period.start_ns, period.end_ns) == (name, ns(start), ns(end))


def test_a_total_never_ends() -> None:
    period = period_at(Window(calendar="total"), ns("2026-03-01T00:00Z"))
    assert (period.name, period.end_ns) == ("total", None)
    assert period.holds(0) and period.holds(10**19)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["day", "week", "month"]),
    st.sampled_from(["UTC", "Europe/London", "America/Sao_Paulo", "America/Havana", "Africa/Cairo", "Pacific/Apia"]),
    st.integers(ns("2009-01-01T00:00Z"), ns("2030-01-01T00:00Z")),
)
def test_periods_leave_no_gap_and_do_not_overlap(calendar: str, tz: str, at_ns: int) -> None:
    window = Window.model_validate({"calendar": calendar, "tz": tz})
    period = period_at(window, at_ns)
    assert period.end_ns is not None and period.holds(at_ns)
    assert period_at(window, period.end_ns - 1) == period
    after = period_at(window, period.end_ns)
    assert after.start_ns == period.end_ns and after.name != period.name


def test_instants_are_written_in_utc() -> None:
    assert iso(ns("2026-03-01T00:00Z") + 1_500_000) == "2026-03-01T00:00:00.001500Z"
    assert iso(None) is None
