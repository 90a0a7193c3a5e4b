"""All that the overview shows, read at one moment: every figure on a page is about the same [since, until)."""
from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from dashboard.filters import RANGES, Filter, stored
from dashboard.period import Period, period_until
from dashboard.questions import Questions, Rows

TABLE_ROWS = 12
ALL_MODELS = 500  # the legend's totals need every model of the period
FINDINGS = 4  # on this page; the report has them all
UNPRICED = 5


@dataclass(frozen=True)
class Snapshot:
    """The answers behind one view of the overview."""

    filter: Filter
    period: Period
    dimensions: dict[str, Any]
    totals: dict[str, Any]
    totals_before: dict[str, Any]
    over_time: Rows
    over_time_before: Rows
    cost_over_time: Rows
    by_model: Rows
    by_team: Rows
    unpriced: Rows
    findings: Rows
    caches: Rows

    @property
    def is_empty(self) -> bool:
        """Tell whether the tenant has no calls at all, in any period."""
        return self.dimensions["requests"] == 0

    @property
    def can_compare(self) -> bool:
        """Tell whether the rows reach back over the whole period before; a part of one would mislead."""
        first = self.dimensions["first_at"].replace(tzinfo=timezone.utc)
        return not self.is_empty and first <= self.period.before().since

    @property
    def compares(self) -> bool:
        return self.filter.compare and self.can_compare


async def read_snapshot(questions: Questions, wanted: Filter, now: datetime) -> Snapshot:
    """Ask all that the overview needs.

    Raises:
        WarehouseError: the store did not answer one of the questions.
    """
    period = period_until(now, RANGES[wanted.range])
    names = {"teams": stored(wanted.teams), "models": stored(wanted.models)}
    window = {"since": period.since, "until": period.until}
    earlier = {"since": period.before().since, "until": period.before().until}
    buckets = {"step": period.step_s, "tz": wanted.zone}
    answers = await asyncio.gather(
        questions.ask("dimensions"),
        questions.ask("totals", **window, **names),
        questions.ask("totals", **earlier, **names),
        questions.ask("over_time", **window, **names, **buckets),
        questions.ask("over_time", **earlier, **names, **buckets),
        questions.ask("cost_over_time", **window, **names, **buckets),
        questions.ask("cost_by_model", **window, **names, limit=ALL_MODELS),
        questions.ask("cost_by_team", **window, **names, limit=TABLE_ROWS),
        questions.ask("unpriced_models", **window, limit=UNPRICED),
        questions.ask("findings", limit=FINDINGS),
        questions.ask("cache_levels", **window, **names),
    )
    dimensions, totals, before, *rest = answers
    return Snapshot(wanted, period, dimensions[0], totals[0], before[0], *rest)
