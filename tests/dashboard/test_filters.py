from __future__ import annotations

import pytest

from dashboard.filters import Filter, chips, read_filter, stored, write_search, zones


def test_an_empty_url_is_the_default_filter_and_back() -> None:
    assert read_filter("") == read_filter(None) == Filter()
    assert write_search(Filter()) == ""


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(range="7d"),
        Filter(teams=("search", "R&D = 100 %"), models=("gpt-4.1", "org/model:free")),
        Filter(zone="Asia/Kolkata", compare=False),
        Filter(teams=("(none)",), unused=(("status", "error"),)),
    ],
)
def test_a_filter_survives_its_own_url(wanted: Filter) -> None:
    assert read_filter(write_search(wanted)) == wanted


def test_a_part_that_means_nothing_here_is_kept_and_shown() -> None:
    found = read_filter("?range=5y&status=error&tz=Mars/Olympus")
    assert (found.range, found.zone) == ("24h", "UTC")
    labels = [chip.label for chip in chips(found)]
    assert labels == ["range=5y (not used here)", "status=error (not used here)", "tz=Mars/Olympus (not used here)"]


def test_every_active_part_has_a_chip_and_each_chip_removes_that_part_alone() -> None:
    active = read_filter("?range=7d&team=a&team=b&model=m&tz=Europe/Berlin&cmp=0")
    made = {chip.label: chip.href for chip in chips(active)}
    assert list(made) == ["last 7d", "team: a", "team: b", "model: m", "time zone: Europe/Berlin", "no comparison"]
    assert read_filter(made["team: a"].partition("?")[2]).teams == ("b",)
    assert all(len(chips(read_filter(href.partition("?")[2]))) == 5 for href in made.values())


def test_the_last_chip_leads_to_the_bare_address() -> None:
    assert [chip.href for chip in chips(Filter(range="1h"))] == ["/"]


def test_a_team_named_twice_is_one_team() -> None:
    assert read_filter("?team=a&team=a").teams == ("a",)


def test_calls_without_a_team_can_be_asked_for() -> None:
    assert stored(("(none)", "a")) == ["", "a"]


def test_utc_comes_first_among_the_time_zones() -> None:
    assert zones()[0] == "UTC"
    assert "America/New_York" in zones()
