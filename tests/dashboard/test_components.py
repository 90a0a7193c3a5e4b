from __future__ import annotations

import ast
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import dashboard
from dashboard.components.chart import money_format
from dashboard.components.kpi import Change, Kpi, kpi_card
from dashboard.components.palette import COLOURS, model_colours
from dashboard.components.sparkline import sparkline

FOLDER = Path(dashboard.__file__).parent


def change_text(change: Change) -> str:
    card = str(kpi_card(Kpi("k", "Label", "1", "1", change=change)))
    return card


def test_a_growing_cost_is_bad_and_growing_savings_are_good() -> None:
    assert "delta bad" in change_text(Change(2.0, 1.0, "1", "down"))
    assert "delta good" in change_text(Change(2.0, 1.0, "1", "up"))
    assert "delta flat" in change_text(Change(2.0, 1.0, "1", "neither"))


def test_a_change_below_one_per_cent_is_no_change() -> None:
    assert "• 0.5%" in change_text(Change(1.005, 1.0, "1", "down"))


def test_an_absurd_change_is_written_as_a_bound() -> None:
    assert "▲ >999%" in change_text(Change(2778.0, 1.0, "1", "down"))


def test_nothing_before_is_new_and_not_an_infinite_growth() -> None:
    assert "'new'" in change_text(Change(5.0, 0.0, "0", "down"))


def test_an_unknown_figure_is_not_compared() -> None:
    assert "nothing to compare" in change_text(Change(None, 1.0, "1", "down"))


def test_a_model_keeps_its_colour_when_the_filter_hides_others() -> None:
    models = ["a", "b", "c"]
    assert model_colours(models, ["c", "a"])["c"] == model_colours(models, ["c"])["c"] == COLOURS[2]


def test_two_shown_models_never_share_a_colour() -> None:
    models = [f"m{number:02}" for number in range(25)]
    assert len(set(model_colours(models, ["m00", "m10", "m20"]).values())) == 3


def drawing(line: Any) -> str:
    return unquote(line.style["--m"])


def test_a_sparkline_of_nearly_equal_ratios_is_nearly_flat() -> None:
    path = drawing(sparkline([1.0, 1.01, 1.0], from_zero=False)).rpartition("d='M")[2].partition("'")[0]
    heights = [float(point.split(",")[1]) for point in path.split("L")]
    assert max(heights) - min(heights) < 2


def test_a_sparkline_breaks_where_a_value_is_missing() -> None:
    assert drawing(sparkline([1, 2, None, 3, 4], from_zero=True)).count("M") == 4  # two areas and two lines


def test_the_smallest_amount_of_a_chart_can_be_read() -> None:
    assert money_format([12.0, 3.4]) == "$,.2f"
    assert money_format([12.0, 0.0034]) == "$,.4f"
    assert money_format([]) == "$,.2f"


def test_every_server_callback_is_async_because_a_plain_one_blocks_the_event_loop() -> None:
    found = 0
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                calls = [one.func for one in node.decorator_list if isinstance(one, ast.Call)]
                if any(isinstance(call, ast.Attribute) and call.attr == "callback" for call in calls):
                    assert isinstance(node, ast.AsyncFunctionDef), f"{path}:{node.lineno}"
                    found += 1
    assert found == 1


def test_no_stylesheet_or_script_of_ours_names_another_host() -> None:
    for path in [*FOLDER.glob("assets/*.css"), *FOLDER.glob("assets/*.js")]:
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http" not in text, path
        assert "//cdn" not in text, path
