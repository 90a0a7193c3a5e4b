from __future__ import annotations

from datetime import datetime, timezone

from dashboard.filters import RANGES
from dashboard.period import MOST_BUCKETS, Period, filled, period_until, step_text, wall_time

NOON = datetime(2026, 11, 21, 12, 0, 3, tzinfo=timezone.utc)


def test_people_who_look_within_ten_seconds_ask_about_the_same_period() -> None:
    assert period_until(NOON, 3600) == period_until(NOON.replace(second=9), 3600)
    assert period_until(NOON, 3600).until == NOON.replace(second=10)


def test_every_range_has_at_most_sixty_four_buckets() -> None:
    for seconds in RANGES.values():
        period = period_until(NOON, seconds)
        assert 48 <= period.seconds / period.step_s <= MOST_BUCKETS


def test_the_period_before_ends_where_this_one_starts() -> None:
    period = period_until(NOON, 86_400)
    assert period.before().until == period.since
    assert period.before().seconds == period.seconds


def _period(since: int, until: int, step: int) -> Period:
    return Period(datetime.fromtimestamp(since, timezone.utc), datetime.fromtimestamp(until, timezone.utc), step)


def test_buckets_without_rows_are_put_in_as_none() -> None:
    rows = [{"bucket": 120}, {"bucket": 300}]
    assert [bucket for bucket, _ in filled(rows, _period(30, 400, 60))] == [0, 60, 120, 180, 240, 300, 360]
    assert [bucket for bucket, row in filled(rows, _period(30, 400, 60)) if row] == [120, 300]


def test_a_clock_change_shifts_the_grid_and_invents_no_bucket() -> None:
    rows = [{"bucket": 0}, {"bucket": 10_800 + 3600}, {"bucket": 2 * 10_800 + 3600}]
    assert [bucket for bucket, _ in filled(rows, _period(0, 3 * 10_800 + 3600, 10_800))] == [0, 14_400, 25_200]


def test_no_rows_make_no_buckets() -> None:
    assert filled([], _period(0, 600, 60)) == []


def test_a_bucket_that_the_period_cuts_is_not_whole() -> None:
    period = _period(30, 400, 60)
    assert [period.is_whole(bucket) for bucket in (0, 60, 300, 360)] == [False, True, True, False]


def test_a_moment_is_written_as_the_wall_clock_of_its_zone() -> None:
    assert wall_time(0, "Asia/Kolkata") == "1970-01-01 05:30:00"


def test_steps_are_written_for_people() -> None:
    assert [step_text(step) for step in (60, 1800, 10_800, 86_400)] == ["1 min", "30 min", "3 h", "1 d"]
