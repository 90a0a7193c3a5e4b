"""The overview in a real browser, against a real embedded warehouse."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from farthing.errors import WarehouseError
from farthing.warehouse import Warehouse

SEEDED, EMPTY, TINY, YOUNG, SILENT = "dash-seeded", "dash-empty", "dash-tiny", "dash-young", "dash-silent"
CHROMIUM = Path("/usr/bin/chromium")
MOST_PAYLOAD = 50_000  # bytes of one callback's answer, before compression
PATIENCE_MS = 120_000
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
]  # fmt: skip
SHIFT = """(() => { window.shift = 0; new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
}).observe({ type: "layout-shift", buffered: true }); })()"""

Serve = Callable[[str], str]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is missing; apt-get install chromium"),
]


class Tab:
    """One browser tab that writes down what went wrong and what was asked."""
    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self.answers: list[int] = []  # sizes of the callbacks' answers
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        page.on("response", self._answered)

    def _answered(self, response: Any) -> None:
        if "_dash-update-component" in response.url:
            self.answers.append(len(response.body()) if response.status == 200 else 0)

    def open(self, address: str, ready: str = "#kpi-spend") -> None:
        self.page.goto(address)
        self.page.wait_for_selector(ready, timeout=PATIENCE_MS)
        self.page.wait_for_timeout(150)

    def exact(self, key: str) -> str:
        return self.page.get_attribute(f"#kpi-{key}", "data-value")

    def wait_for_change(self, before: str, key: str = "spend") -> None:
        changed = "([key, before]) => document.getElementById(`kpi-${key}`).dataset.value !== before"
        self.page.wait_for_function(changed, arg=[key, before], timeout=PATIENCE_MS)

    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.page.url).query)

    def window(self) -> dict[str, datetime]:
        found = self.page.evaluate("() => ({...document.getElementById('figures').dataset})")
        return {name: datetime.fromisoformat(found[name]) for name in ("since", "until")}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def desk(browser: Any) -> Iterator[Any]:
    """A browser profile on a wide screen; its cache makes every load after the first one quick."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce", locale="en-US")
    context.add_init_script(SHIFT)
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


@pytest.fixture
def tab(desk: Any) -> Iterator[Tab]:
    page = desk.new_page()
    yield Tab(page)
    page.evaluate("() => localStorage.clear()")
    page.close()


@pytest.fixture
def phone(browser: Any) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    context.set_default_timeout(PATIENCE_MS)
    yield Tab(context.new_page())
    context.close()


def ask_totals(warehouse: Warehouse, tab: Tab, teams: Sequence[str] = ()) -> dict[str, Any]:
    return warehouse.ask("totals", tenant=SEEDED, part="test", teams=list(teams), models=[], **tab.window())[0]


def test_the_key_figures_are_the_warehouses_to_the_nano_dollar(
    tab: Tab, serve: Serve, dash_warehouse: Warehouse
) -> None:
    tab.open(serve(SEEDED))
    totals = ask_totals(dash_warehouse, tab)
    assert Decimal(tab.exact("spend")) == totals["cost_usd"] > 0
    assert tab.exact("spend") == f"{totals['cost_usd']:.9f}"
    assert int(tab.exact("requests")) == totals["requests"]
    assert float(tab.exact("p95")) == totals["duration_s"][1]
    assert int(tab.exact("tokens")) == totals["input_tokens"] + totals["output_tokens"]
    assert int(tab.exact("cache")) == totals["cache_hits"]
    assert tab.page.get_attribute("#kpi-cache", "data-saved") == f"{totals['saved_usd']:.9f}"
    assert int(tab.exact("unpriced")) == totals["unpriced"] + totals["unknown_usage"]


def test_the_tables_and_the_legend_add_up_to_the_spend(tab: Tab, serve: Serve) -> None:
    tab.open(f"{serve(SEEDED)}?range=7d")
    spend = Decimal(tab.exact("spend"))

    def total(selector: str, attribute: str) -> Decimal:
        cells = tab.page.query_selector_all(selector)
        return sum((Decimal(cell.get_attribute(attribute)) for cell in cells), Decimal(0))

    assert total("#teams td:nth-child(2)[data-value]", "data-value") == spend
    assert total("#models td:nth-child(2)[data-value]", "data-value") == spend
    assert total("#cost-legend b", "title") == spend


def test_a_load_is_one_callback_small_quiet_and_local(tab: Tab, serve: Serve) -> None:
    address = serve(SEEDED)
    tab.open(f"{address}?range=30d&team=search")
    tab.page.wait_for_timeout(1000)
    assert len(tab.answers) == 1
    assert 0 < max(tab.answers) < MOST_PAYLOAD
    assert tab.errors == []
    assert tab.hosts == {urlsplit(address).netloc}
    assert tab.page.evaluate("() => window.shift") < 0.05


def test_the_charts_are_drawn_with_a_bar_series_per_model(tab: Tab, serve: Serve) -> None:
    tab.open(serve(SEEDED))
    tab.page.wait_for_selector("#cost-chart .bars .point", state="attached")
    bars = "() => [...document.querySelectorAll('#cost-chart .bars .point')].map((bar) => bar.getBBox().height)"
    tab.page.wait_for_function(f"() => Math.max(...({bars})()) > 40")  # pixels
    tab.page.wait_for_function("() => document.querySelectorAll('#latency-chart .js-line').length === 3")
    assert tab.page.locator("#cost-chart .bars").count() == tab.page.locator("#cost-legend a.lg").count() == 5


def test_the_back_button_undoes_a_filter(tab: Tab, serve: Serve, dash_warehouse: Warehouse) -> None:
    tab.open(serve(SEEDED))
    before = tab.exact("spend")
    tab.page.click("#teams a.name >> text=search")
    tab.wait_for_change(before)
    assert tab.query() == {"team": ["search"]}
    assert Decimal(tab.exact("spend")) == ask_totals(dash_warehouse, tab, teams=["search"])["cost_usd"]
    assert tab.page.get_attribute("#f-team", "placeholder") == "1 team"
    filtered = tab.exact("spend")
    tab.page.go_back()
    tab.wait_for_change(filtered)
    assert tab.query() == {}
    assert Decimal(tab.exact("spend")) == ask_totals(dash_warehouse, tab)["cost_usd"]
    assert tab.page.get_attribute("#f-team", "placeholder") == "All teams"
    assert tab.errors == []


def test_a_control_changes_its_own_part_of_the_url_alone(tab: Tab, serve: Serve) -> None:
    tab.open(f"{serve(SEEDED)}?team=search&status=error")
    before = tab.exact("requests")
    tab.page.click(".mantine-SegmentedControl-label >> text=30d")
    tab.wait_for_change(before, "requests")
    assert tab.query() == {"team": ["search"], "status": ["error"], "range": ["30d"]}
    tab.page.go_back()
    tab.page.wait_for_function("() => !location.search.includes('range')")
    tab.page.wait_for_selector(".mantine-SegmentedControl-root input[value='24h']:checked", state="attached")
    assert tab.query() == {"team": ["search"], "status": ["error"]}


def test_opening_a_link_neither_rewrites_it_nor_adds_to_the_history(tab: Tab, serve: Serve) -> None:
    address = f"{serve(SEEDED)}/?tz=Asia/Kolkata&team=search%20&range=7d"
    tab.open(address)
    tab.page.wait_for_timeout(300)
    assert tab.page.url == address
    assert tab.page.evaluate("() => history.length") == 2  # the blank tab and this page


def test_choosing_teams_in_the_list_filters_by_them(tab: Tab, serve: Serve) -> None:
    tab.open(serve(SEEDED))
    before = tab.exact("spend")
    tab.page.click("#f-team")
    tab.page.click("[role=option] >> text=support")
    tab.wait_for_change(before)
    assert tab.query() == {"team": ["support"]}


def test_every_active_filter_is_a_chip_and_clicking_it_removes_the_filter(tab: Tab, serve: Serve) -> None:
    tab.open(f"{serve(SEEDED)}?range=7d&team=search&team=growth&status=error")
    labels = tab.page.locator(".chip").all_inner_texts()
    assert labels == ["last 7d", "team: search", "team: growth", "status=error (not used here)"]
    before = tab.exact("spend")
    tab.page.click(".chip >> text=team: search")
    tab.wait_for_change(before)
    assert tab.query() == {"range": ["7d"], "team": ["growth"], "status": ["error"]}
    assert len(tab.page.query_selector_all(".chip")) == 3


def test_a_team_that_the_store_does_not_know_stays_in_the_url(tab: Tab, serve: Serve) -> None:
    tab.open(f"{serve(SEEDED)}?team=nobody")
    assert tab.query() == {"team": ["nobody"]}
    assert (tab.exact("spend"), tab.exact("requests")) == ("0.000000000", "0")
    assert "No calls in this period" in tab.page.inner_text("#teams")


def test_a_tiny_amount_is_shown_in_full(tab: Tab, serve: Serve) -> None:
    tab.open(serve(TINY))
    assert tab.page.inner_text("#kpi-spend") == "$0.000000200"


def test_a_model_without_a_price_is_named_and_never_shown_as_free(tab: Tab, serve: Serve) -> None:
    tab.open(serve(SILENT))
    assert tab.page.inner_text("#kpi-spend") == "unknown"
    assert "no price" in tab.page.inner_text("#teams")
    assert "internal/house-model (1 call, all teams)" in tab.page.inner_text(".note")


def test_findings_say_what_is_predicted_and_when_the_next_analysis_is(tab: Tab, serve: Serve) -> None:
    tab.open(serve(SEEDED))
    assert tab.page.get_attribute("#findings b", "data-value") == "4.871250001"
    words = tab.page.inner_text("#findings")
    assert "predicted" in words and "no saving claimed" in words
    assert "next about" in tab.page.inner_text("#findings-sub")


def test_a_tenant_without_findings_learns_when_the_analyzer_runs(tab: Tab, serve: Serve) -> None:
    tab.open(serve(YOUNG))
    words = " ".join(tab.page.inner_text("#findings").split())
    assert "No analysis has run yet. The analyzer runs every 5 min" in words
    assert "no full prior period" in tab.page.inner_text("#kpis")


def test_an_empty_store_shows_the_one_import(tab: Tab, serve: Serve) -> None:
    tab.open(serve(EMPTY), ready=".first")
    assert tab.page.inner_text(".snippet") == "import farthing.auto"
    assert not tab.page.is_visible("#board")
    assert tab.errors == []


def test_a_store_that_does_not_answer_is_said_calmly_and_recovers(
    tab: Tab, serve: Serve, dash_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise WarehouseError("question totals: the disk is full")

    address = serve(SEEDED)
    with monkeypatch.context() as patch:
        patch.setattr(dash_warehouse, "ask", refuse)
        tab.open(f"{address}?team=search", ready=".notice")
        words = tab.page.inner_text("main")
        assert "The figures could not be read just now." in words
        assert "Traceback" not in tab.page.content()
        assert tab.page.locator(".chip").all_inner_texts() == ["team: search"]
    tab.page.click(".chip")
    tab.page.wait_for_selector("#kpi-spend")
    assert tab.page.query_selector(".notice") is None
    assert tab.errors == []


def test_the_theme_switches_without_a_callback(tab: Tab, serve: Serve) -> None:
    tab.open(serve(SEEDED))
    asked = len(tab.answers)
    light = tab.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    tab.page.click("#theme")
    tab.page.wait_for_selector("html[data-mantine-color-scheme=dark]")
    assert tab.page.evaluate("() => getComputedStyle(document.body).backgroundColor") != light
    assert len(tab.answers) == asked


def test_the_refresh_can_be_paused_and_resumed(tab: Tab, serve: Serve) -> None:
    tab.open(serve(SEEDED))
    tab.page.click("#pause")
    tab.page.wait_for_selector("#pause-text >> text=paused")
    tab.page.click("#pause")
    tab.page.wait_for_selector("#pause-text >> text=every 3600 s")


@pytest.mark.parametrize("path", ["/?range=7d", "/?team=search&team=support&tz=America/Argentina/Buenos_Aires&cmp=0"])
def test_a_phone_shows_the_page_without_sideways_scrolling(phone: Tab, serve: Serve, path: str) -> None:
    phone.open(serve(SEEDED) + path)
    assert phone.page.evaluate("() => document.documentElement.scrollWidth") == 390
    for part in phone.page.query_selector_all(".card, .chip, .filterbar > *, .kpi-value > *"):
        box = part.bounding_box()
        assert box is None or box["x"] + box["width"] <= 390
    assert phone.errors == []
