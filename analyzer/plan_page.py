"""A plan as a page, in the look of the reports."""
from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from analyzer.document import Block, Bullets, Cell, Column, Document, Paragraph, Section, Table
from analyzer.notation import UNKNOWN, count, usd
from analyzer.plan import Hit, Plan
from analyzer.plan_effects import Effect, Range
from analyzer.window import utc

_EFFECT_COLUMNS = (
    Column("team", is_number=False), Column("calls"), Column("hit"), Column("money a day"), Column("95 %"),
    Column("latency"), Column("95 %"), Column("error share"), Column("95 %"),
    Column("refused a day"), Column("95 %"), Column("tokens a day"), Column("95 %"),
)  # fmt: skip
_HIT_COLUMNS = (
    Column("policy", is_number=False), Column("change", is_number=False), Column("mode", is_number=False),
    Column("acts at once on"), Column("calls at full strength"),
)  # fmt: skip


def page(plan: Plan, made_at: datetime) -> Document:
    """Return what a plan says."""
    whole = plan.effects[0]
    blocks: list[Block] = [Table(_EFFECT_COLUMNS, [_effect(one) for one in plan.effects[1:]], _effect(whole))]
    blocks.append(Paragraph("Predicted from replayed calls at full strength; a holdout verifies it."))
    if plan.notes:
        blocks.append(Bullets(plan.notes))
    window = f"{utc(plan.window.since):%Y-%m-%d %H:%M} to {utc(plan.window.until):%Y-%m-%d %H:%M} UTC"
    return Document(
        title="Policy plan",
        facts=(("Window", window), ("Calls", count(plan.requests)), ("Made", f"{utc(made_at):%Y-%m-%d %H:%M} UTC")),
        spend=Cell(_money(whole.usd_per_day.value), f"{whole.usd_per_day.value or 0:.9f}"),
        summary=f"{count(whole.hit)} of {count(plan.requests)} calls would be treated otherwise: "
        f"{_money(whole.usd_per_day.value)} a day ({_interval(whole.usd_per_day, _money)}).",
        sections=[
            Section("policies", "Policies", [Table(_HIT_COLUMNS, [_hit(one) for one in plan.hits])]),
            Section("effects", "Effects", blocks),
        ],
        figure="Predicted change a day",
    )


def _hit(hit: Hit) -> Sequence[Cell]:
    share = UNKNOWN if hit.change == "removed" else f"{hit.share:.0%}"
    return [Cell(hit.policy), Cell(hit.change), Cell(hit.mode), Cell(share), Cell(count(hit.requests))]


def _effect(effect: Effect) -> Sequence[Cell]:
    figures = (
        (effect.usd_per_day, _money), (effect.latency_s, _seconds), (effect.error_share, _points),
        (effect.refused_per_day, _number), (effect.tokens_per_day, _number),
    )  # fmt: skip
    cells = [Cell(effect.team or "all"), Cell(count(effect.requests)), Cell(count(effect.hit))]
    for found, write in figures:
        cells += [Cell(write(found.value)), Cell(_interval(found, write))]
    return cells


def _interval(found: Range, write: object) -> str:
    assert callable(write)
    return UNKNOWN if found.low is None else f"{write(found.low)} to {write(found.high)}"


def _money(amount: float | None) -> str:
    return UNKNOWN if amount is None else ("+" if amount > 0 else "") + usd(Decimal(f"{amount:.9f}"))


def _seconds(amount: float | None) -> str:
    return UNKNOWN if amount is None else f"{amount * 1000:+,.0f} ms"


def _points(amount: float | None) -> str:
    return UNKNOWN if amount is None else f"{amount * 100:+.2f} %"


def _number(amount: float | None) -> str:
    return UNKNOWN if amount is None else f"{amount:+,.0f}" if abs(amount) >= 10 else f"{amount:+,.2f}"
