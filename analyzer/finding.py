"""One thing that an analysis found, as a record and as a row of the `findings` table."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from analyzer.window import Window

ZERO = Decimal("0.000000000")

# columns of `findings` in the order that `row` fills them
COLUMNS = (
    "found_at", "run_id", "tenant", "kind", "subject", "title", "detail", "since", "until",
    "requests", "cost_usd", "avoidable_usd", "evidence",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What an analysis says about one subject; `avoidable_usd` is a prediction until a holdout has verified it."""

    kind: str  # cost_driver | cache_waste
    subject: str  # what it is about; empty = the whole window
    title: str
    detail: str  # one or two sentences for people
    requests: int
    cost_usd: Decimal  # spend that the finding is about
    avoidable_usd: Decimal = ZERO  # predicted saving over the window; 0 = none claimed
    evidence: Mapping[str, object] = field(default_factory=dict)  # JSON values

    def row(self, window: Window, run_id: str, found_at: datetime) -> tuple[object, ...]:
        """Return the row of the `findings` table."""
        return (
            found_at, run_id, window.tenant, self.kind, self.subject, self.title, self.detail,
            window.since, window.until, self.requests, self.cost_usd, self.avoidable_usd,
            json.dumps(self.evidence, sort_keys=True),
        )  # fmt: skip


def rows(findings: Sequence[Finding], window: Window, run_id: str, found_at: datetime) -> list[tuple[object, ...]]:
    """Return the rows of one run."""
    return [finding.row(window, run_id, found_at) for finding in findings]
