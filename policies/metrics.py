"""The control plane on /metrics: every budget as the ledger has it, the keys, and what the ledger did."""
from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from farthing.prometheus import CONTENT_TYPE, Family, render
from policies.http import Reply, Request

if TYPE_CHECKING:
    from policies.plane import ControlPlane

_AMOUNTS = {
    "limit": "What a budget allows in its running period, USD.",
    "spent": "What a budget has spent in its running period, USD.",
    "held": "What is set aside in a budget for calls under way, USD.",
    "free": "What a budget still allows, USD.",
    "overrun": "Real cost past a budget's limit, USD.",
}


async def page(plane: ControlPlane, _request: Request) -> Reply:
    """Return what there is to watch."""
    lines = await asyncio.to_thread(plane.budget_lines)
    keys = await asyncio.to_thread(plane.keys.listed)
    families = [*_budgets(lines), _keys(keys), *_own(plane)]
    return Reply(render(families), headers={"content-type": CONTENT_TYPE})


def _budgets(lines: list[dict[str, Any]]) -> Iterator[Family]:
    for name, what in _AMOUNTS.items():
        family = Family(f"farthing_budget_{name}_usd", "gauge", what)
        for line in lines:
            family.add(line[f"{name}_nusd"] / 1e9, budget=line["name"])
        yield family
    refused = Family("farthing_budget_refused", "gauge", "Reservations refused in the running period.")
    for line in lines:
        refused.add(line["refused"], budget=line["name"])
    yield refused


def _keys(lines: list[dict[str, Any]]) -> Family:
    family = Family("farthing_virtual_keys", "gauge", "Virtual keys, by what they are good for.")
    for state, count in Counter(line["state"] for line in lines).items():
        family.add(count, state=state)
    return family


def _own(plane: ControlPlane) -> Iterator[Family]:
    version = Family("farthing_document_version", "gauge", "Version of the policy document in force.")
    version.add(plane.document_in_force.version)
    commits = Family("farthing_ledger_commits_total", "counter", "Transactions of the ledger.")
    commits.add(plane.ledger_counts["commits"])
    failures = Family("farthing_ledger_failures_total", "counter", "Transactions of the ledger that failed.")
    failures.add(plane.ledger_counts["failures"])
    return iter((version, commits, failures))
