"""analyzer/report.py: one window as HTML and Markdown with the same figures, safe to open, whole on disk."""
import re
import uuid
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analyzer import figures, notation, report, svg
from analyzer.document import Cell, Column, Table
from analyzer.markdown import plain
from analyzer.report import make
from analyzer.sections import document
from analyzer.window import Window, last_hours
from farthing.warehouse.client import Warehouse

ATTACK = '<img src=x onerror=alert(1)>"\'&|`[x](javascript:1)'


class Page(HTMLParser):
    """Collects what a browser would see: tags with attributes, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def by_id(self, name: str) -> dict[str, str | None]:
        return next(attributes for _, attributes in self.tags if attributes.get("id") == name)


@pytest.fixture
def window(tenant: str, noon: datetime) -> Window:
    return Window(tenant, noon - timedelta(hours=2), noon + timedelta(hours=1, minutes=10))


@pytest.fixture(scope="module")
def calls(put_calls, noon: datetime) -> Window:
    """Two models, three teams, a repeated request, a call without price, one without usage, proxy calls."""
    tenant = f"tenant-{uuid.uuid4().hex[:12]}"
    repeated = {"model": "gpt-4o", "input": 1_001, "output": 501, "hash": "h", "temperature": 0.0}
    put_calls(tenant, [
        {"team": "search", **repeated},
        {"team": "search", **repeated},
        {"team": "ads", "model": "gpt-4o-mini", "input": 7, "output": 1, "at": noon - timedelta(hours=1)},
        {"team": ATTACK, "model": "nobody-knows-this-one", "input": 9, "output": 9},
        {"team": "ads", "model": "gpt-4o-mini"},
    ])  # fmt: skip
    charged = {"farthing.settled_nusd": "1350"}
    put_calls(tenant, [
        {"team": "ads", "input": 5, "output": 1, "attributes": charged},
        {"team": "ads", "input": 5, "output": 1, "attributes": {"farthing.cache.hit": "exact"}},
    ], scope="farthing.proxy")  # fmt: skip
    return Window(tenant, noon - timedelta(hours=2), noon + timedelta(hours=1, minutes=10))


SPEND = Decimal("0.015025000") + Decimal("0.000001650") + Decimal("0.000001350")  # 2 x gpt-4o, ads, the proxy's call


@pytest.fixture(scope="module")
def texts(calls: Window, warehouse: Warehouse, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    made = make(warehouse, tmp_path_factory.mktemp("report"), calls, calls.until)
    return {"html": made.html.read_text("utf-8"), "md": made.markdown.read_text("utf-8")}


def test_the_spend_is_exact_to_the_nano_dollar_and_equals_the_totals(
    texts: dict[str, str], warehouse: Warehouse, calls: Window
) -> None:
    spend = Page(texts["html"]).by_id("spend")
    assert spend["data-value"] == f"{SPEND:.9f}" == "0.015028000"
    totals = figures.ask(warehouse, calls, "totals", teams=[], models=[])[0]
    assert totals["cost_usd"] == SPEND


def test_html_and_markdown_hold_the_same_figures(texts: dict[str, str], warehouse: Warehouse, calls: Window) -> None:
    page = "".join(Page(texts["html"]).text)
    written = document(figures.gather(warehouse, calls), calls.until)
    assert f"({written.spend.exact} USD)" in texts["md"]
    cells = [
        cell.text
        for section in written.sections
        for block in section.blocks
        if isinstance(block, Table)
        for row in (*block.rows, block.total)
        for cell in row
    ]
    assert len(cells) > 50
    for text in cells:
        assert text in page
        assert plain(text) in texts["md"]


def test_every_section_is_there(texts: dict[str, str]) -> None:
    headings = re.findall(r"^## (.+)$", texts["md"], re.MULTILINE)
    assert headings == [
        "At a glance", "Cost over time", "Cost by model", "Top teams", "Cost drivers", "Repeated requests",
        "Caches by level", "What is unknown", "Ledger against warehouse", "How the figures are computed",
    ]  # fmt: skip
    assert [text for text in headings if f"<h2>{text}</h2>" not in texts["html"]] == []


def test_a_team_named_like_an_attack_is_text_and_no_markup(texts: dict[str, str]) -> None:
    page = Page(texts["html"])
    assert [tag for tag, _ in page.tags if tag in ("img", "script", "iframe", "object", "link", "form")] == []
    assert [key for _, attributes in page.tags for key in attributes if key.startswith("on")] == []
    assert ATTACK in "".join(page.text)
    assert "<img" not in texts["md"]
    assert re.search(r"(?<!\\)\]\(", texts["md"]) is None  # no link


def test_the_page_refers_to_nothing_outside_itself(texts: dict[str, str]) -> None:
    page = Page(texts["html"])
    targets = [attributes[key] for _, attributes in page.tags for key in ("href", "src") if key in attributes]
    assert targets
    assert [target for target in targets if not str(target).startswith("#")] == []
    assert "http" not in texts["html"].replace("http-equiv", "")
    assert "url(" not in texts["html"]
    assert "default-src 'none'" in texts["html"]


def test_what_is_unknown_is_counted_and_named(texts: dict[str, str]) -> None:
    assert "The cost of 2 requests is unknown and not in the sum." in texts["md"]
    assert "| No price for the model | 1 |" in texts["md"]
    assert "| No token counts reported | 1 |" in texts["md"]
    assert "nobody-knows-this-one" in texts["md"].split("## What is unknown")[1]


def test_the_predicted_saving_is_what_the_repeat_cost(texts: dict[str, str]) -> None:
    waste = texts["md"].split("## Repeated requests")[1].split("## Caches")[0]
    assert "**search on gpt-4o: 1 repeated call paid for again** (**\\$0.0075125** avoidable, predicted)" in waste
    assert "not verified by a holdout" in waste


def test_ledger_and_warehouse_that_agree_are_said_to(texts: dict[str, str]) -> None:
    assert "Ledger and warehouse agree to the nano-dollar over 2 calls." in texts["md"]


def test_a_ledger_that_charged_another_amount_is_a_mismatch(
    put_calls, warehouse: Warehouse, window: Window, tmp_path: Path
) -> None:
    put_calls(window.tenant, [
        {"team": "ads", "input": 5, "output": 1, "attributes": {"farthing.settled_nusd": "1351"}},
    ], scope="farthing.proxy")  # fmt: skip
    text = make(warehouse, tmp_path, window, window.until).markdown.read_text()
    assert "Of 1 call, the ledger charged 1 at an amount other than the price." in text
    assert "| ads | 1 | \\$0.00000135 | \\$0.000001351 | -\\$0.000000001 | 1 |" in text


def test_calls_from_a_trace_file_have_no_latency(
    put_calls, warehouse: Warehouse, window: Window, tmp_path: Path
) -> None:
    put_calls(window.tenant, [{"input": 5, "output": 1, "seconds": 0.0}], scope="farthing.replay")
    text = make(warehouse, tmp_path, window, window.until).markdown.read_text()
    assert "- Latency, median: **–** (no request of the window was timed)" in text
    assert "| Booked from a trace file | 1 | 100.0 % |" in text


def test_a_window_without_calls_makes_a_report_that_says_so(
    warehouse: Warehouse, window: Window, tmp_path: Path
) -> None:
    made = make(warehouse, tmp_path, window, window.until)
    text = made.html.read_text()
    assert Page(text).by_id("spend")["data-value"] == "0.000000000"
    assert "No model call is recorded in this window." in text
    assert re.search(r"\bnan\b", "".join(Page(text).text).lower()) is None


def test_the_lines_shown_and_the_others_sum_to_the_total(
    put_calls, warehouse: Warehouse, window: Window
) -> None:
    put_calls(window.tenant, [{"team": f"team-{n}", "input": 1_000 + n, "output": n} for n in range(25)])
    written = document(figures.gather(warehouse, window), window.until)
    teams = next(one for one in written.sections if one.id == "teams").blocks[0]
    assert isinstance(teams, Table)
    column = [name.name for name in teams.columns].index("Cost")
    assert len(teams.rows) == 11
    assert sum(Decimal(row[column].exact) for row in teams.rows) == Decimal(teams.total[column].exact)


def test_files_are_named_by_time_and_the_latest_is_a_copy(
    warehouse: Warehouse, calls: Window, tmp_path: Path
) -> None:
    now = datetime(2026, 11, 21, 4, 5, 6, 789_123, tzinfo=timezone.utc)
    made = make(warehouse, tmp_path / "new" / "folder", calls, now)
    names = sorted(path.name for path in made.html.parent.iterdir())
    stem = "report-20261121T040506789Z"
    assert names == ["latest.html", "latest.md", f"{stem}.html", f"{stem}.md"]
    assert (made.html.parent / "latest.html").read_bytes() == made.html.read_bytes()


def test_a_write_that_fails_leaves_the_older_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report._write(tmp_path / "latest.md", "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        report._write(tmp_path / "latest.md", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("latest.md", "old")]


def test_the_chart_has_a_bar_for_each_time_and_marks_those_that_are_cut(
    warehouse: Warehouse, calls: Window
) -> None:
    from analyzer.timeline import bars

    chart = bars(figures.gather(warehouse, replace(calls, since=calls.since + timedelta(minutes=1))))
    assert chart.step_s == 300
    assert len(chart.starts) == 38
    assert chart.partial == {0}
    assert [one.name for one in chart.series] == ["gpt-4o", "gpt-4o-mini"]
    assert sum(sum(one.values) for one in chart.series) == pytest.approx(float(SPEND))
    drawn = svg.stacked_bars(chart, svg.NARROW)
    assert drawn.count("<rect") == 3  # gpt-4o and gpt-4o-mini at noon, gpt-4o-mini an hour before


@pytest.mark.parametrize(
    ("largest", "step", "top"),
    [(0.0, 1.0, 1.0), (4.0, 1.0, 4.0), (9.9, 2.0, 10.0), (0.29, 0.05, 0.3), (0.000_02, 0.000_005, 0.000_02)],
)
def test_the_axis_has_round_ticks_and_reaches_the_largest_bar(largest: float, step: float, top: float) -> None:
    assert svg.axis(largest) == pytest.approx((step, top))


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "$0.00"), ("0.000123456", "$0.000123456"), ("0.0375", "$0.0375"), ("0.5", "$0.5000"),
        ("1234.565", "$1,234.57"), ("-0.000000001", "-$0.000000001"), ("12", "$12.00"),
    ],
)  # fmt: skip
def test_an_amount_has_the_places_that_it_needs(amount: str, text: str) -> None:
    assert notation.usd(Decimal(amount)) == text


def test_a_window_has_to_be_longer_than_nothing(noon: datetime) -> None:
    for hours in (0.0, -1.0, float("nan"), 1e9):
        with pytest.raises(ValueError, match="hours = "):
            last_hours("t", hours, noon)


def test_a_column_of_text_is_not_mistaken_for_figures() -> None:
    table = Table((Column("What", False), Column("Calls")), [[Cell("a|b\nc"), Cell("1")]])
    from analyzer.markdown import _table

    assert list(_table(table)) == ["| What | Calls |", "|---|---:|", "| a\\|b c | 1 |"]
