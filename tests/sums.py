"""Sums over the rows that a test has put past the collector."""
from __future__ import annotations

from datetime import timedelta

from farthing.warehouse import Warehouse, rollup


def refresh(warehouse: Warehouse, tenant: str) -> None:
    """Roll the hours anew in which calls of this tenant lie; all hours of a shared warehouse would take minutes."""
    query = "SELECT count() AS rows, min(started_at) AS first, max(started_at) AS last FROM requests"
    (found,) = warehouse.query(f"{query} WHERE tenant = {{tenant:String}}", tenant=tenant)
    if found["rows"]:
        rollup.refresh(warehouse, found["first"], found["last"] + timedelta(hours=1))
