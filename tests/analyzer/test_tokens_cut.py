"""What token policies cut, by policy and kind of cut, in tokens and money: the question and `farthing policy cut`."""
from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from analyzer import figures
from analyzer.main import app
from analyzer.window import Window
from farthing import cli_policy, semconv
from farthing.settings import Settings
from farthing.warehouse.client import Warehouse

Serve = Callable[..., Any]


def cut(policy: str, prefix: str = semconv.TOKENS_PREFIX, **counts: int) -> dict[str, int]:
    """Return what a span says of a cut."""
    told = {f"policy.{policy}": 1} | {name.replace("__", "."): count for name, count in counts.items()}
    return {f"{prefix}{name}": count for name, count in told.items()}


@pytest.fixture
def calls(put_calls: Callable[..., None], tenant: str) -> str:
    """Put calls of an hour ago, of whose prompts policies cut something; return their tenant."""
    history = cut("short", before=9_000, after=3_000, cut__history=5_000, cut__whitespace=1_000)
    shadow = cut("trial", semconv.TOKENS_SHADOW_PREFIX, before=900, after=500, cut__retrieval=400)
    summed = cut("short", before=2_000, after=1_100, cut__history=1_000, summary=100)
    refused = cut("short", before=90_000, after=80_000, cut__history=10_000, refused=1)
    call = {"input": 10, "output": 1, "at": datetime.now(timezone.utc) - timedelta(hours=1)}
    put_calls(tenant, [
        call | {"attributes": history}, call | {"attributes": history | shadow}, call | {"attributes": summed},
        call | {"attributes": history, "model": "nobody-prices-this"},
        call | {"attributes": history | {semconv.CACHE_HIT: "exact"}},
        call | {"attributes": refused | {semconv.OUTCOME: "refused"}},
        call,
    ])  # fmt: skip
    return tenant


def test_a_cut_is_told_by_policy_and_kind_with_the_price_of_that_input(calls: str, warehouse: Warehouse) -> None:
    now = datetime.now(timezone.utc)
    rows = figures.ask(warehouse, Window(calls, now - timedelta(hours=2), now), "cut_by_policy", limit=10)
    names = ("policy", "is_shadow", "kind", "requests", "tokens_cut", "cut_usd", "unpriced_tokens")
    each = Decimal("0.00000015")  # USD of an input token of gpt-4o-mini
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("short", False, "history", 4, 16_000, 11_000 * each, 5_000),
        ("short", False, "whitespace", 3, 3_000, 2_000 * each, 1_000),
        ("short", False, "summary", 1, -100, -100 * each, 0),
        ("trial", True, "retrieval", 1, 400, 400 * each, 0),
    ]


def test_the_command_line_shows_it_and_says_where_a_price_is_unknown(
    calls: str, warehouse: Warehouse, serve: Serve, tmp_path: Path
) -> None:
    with serve(app(Settings(data_dir=tmp_path, tenant=calls), warehouse)) as port:
        asking = Settings(data_dir=tmp_path, analyzer_url=f"http://127.0.0.1:{port}")
        told = CliRunner().invoke(cli_policy.app, ["cut", "--days", "1"], obj=lambda: asking, catch_exceptions=False)
    lines = [line.split(maxsplit=5) for line in told.stdout.splitlines()]
    assert lines[1:] == [
        ["short", "enforce", "history", "4", "16,000", "$0.001650000, and 5,000 tokens without a price"],
        ["short", "enforce", "whitespace", "3", "3,000", "$0.000300000, and 1,000 tokens without a price"],
        ["short", "enforce", "summary", "1", "-100", "-$0.000015000"],
        ["trial", "shadow", "retrieval", "1", "400", "$0.000060000"],
    ]
