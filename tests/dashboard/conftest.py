"""One embedded warehouse for all dashboard tests of a process, and a dashboard served over it.

A process can open one chDB folder only, so each test keeps its rows apart by tenant and never by a store of its own.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest

from dashboard import shell
from dashboard.main import app
from farthing.settings import Settings
from farthing.testing import SeedRequest, realistic_requests, seed_requests
from farthing.warehouse import Warehouse
from tests.conftest import served

SEEDED, EMPTY, TINY, YOUNG, SILENT = "dash-seeded", "dash-empty", "dash-tiny", "dash-young", "dash-silent"
Serve = Callable[[str], str]


@pytest.fixture(scope="session")
def dash_warehouse(warehouse: Warehouse) -> Warehouse:
    """The run's warehouse, with one tenant for each thing that a page must be able to say."""
    now = datetime.now(timezone.utc)
    seed_requests(warehouse, realistic_requests(3000, now - timedelta(days=3), now), SEEDED)
    ago = now - timedelta(minutes=5)
    seed_requests(warehouse, [SeedRequest(ago, "smollm2-135m", "farthing", input_tokens=1, output_tokens=0)], TINY)
    seed_requests(warehouse, [SeedRequest(now - timedelta(hours=h), "gpt-4.1", team="one") for h in (1, 2, 30)], YOUNG)
    seed_requests(warehouse, [SeedRequest(ago, "house-model", "internal", team="one")], SILENT)
    seed_findings(warehouse, SEEDED, now)
    return warehouse


def seed_findings(warehouse: Warehouse, tenant: str, now: datetime) -> None:
    """Write one finding of each kind as the analyzer would."""
    columns = (
        "found_at", "run_id", "tenant", "kind", "subject", "title", "detail", "since", "until",
        "requests", "cost_usd", "avoidable_usd", "evidence",
    )  # fmt: skip
    since = now - timedelta(days=7)
    waste = ("cache_waste", "support", "Identical requests paid for again", "412 repeats at temperature 0.")
    driver = ("cost_driver", "gpt-4.1", "gpt-4.1 is 33 % of the spend", "1,400 input tokens per call.")
    rows = [
        (now, "run-1", tenant, *waste, since, now, 1904, Decimal("6.204113"), Decimal("4.871250001"), "{}"),
        (now, "run-1", tenant, *driver, since, now, 918, Decimal("9.812"), Decimal(0), "{}"),
    ]
    warehouse.insert("findings", columns, rows)


@pytest.fixture(scope="session")
def serve(dash_warehouse: Warehouse) -> Iterator[Serve]:
    """A function that serves a tenant's dashboard on a free port, once, and returns its address."""
    running: dict[str, str] = {}
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shell, "REFRESH_S", 3600)  # no page is read anew while a test compares its figures

        def address(tenant: str) -> str:
            if tenant not in running:
                port = stack.enter_context(served(app(Settings(tenant=tenant), dash_warehouse)))
                running[tenant] = f"http://127.0.0.1:{port}"
            return running[tenant]

        yield address
