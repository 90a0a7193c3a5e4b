"""Which thresholds budgets have crossed in periods that run: told by the ledger, they change without a version."""
from __future__ import annotations

from farthing.policy.kinds.budget import Budget
from farthing.policy.record import Name, Record


class Crossed(Record):
    """One threshold, crossed; it acts until its period ends."""

    budget: Name
    threshold: str  # its name, as `Threshold.name` has it
    until_ns: int | None = None  # Unix time, nanoseconds; None: the period never ends


class Stage:
    """What a budget does to calls beyond holding them."""

    __slots__ = ("is_cheapest", "is_flex", "needs_approval", "to")

    def __init__(self) -> None:
        self.to = ""  # the model that calls go to; '' = where they would
        self.is_cheapest = False  # they go to the cheapest deployment of their model
        self.is_flex = False  # they ask for the provider's flex tier
        self.needs_approval = False


def stages(budgets: tuple[Budget, ...], crossed: tuple[Crossed, ...]) -> dict[str, Stage]:
    """Return what each budget that does anything does; of several routes the last threshold's."""
    told = {(one.budget, one.threshold) for one in crossed}
    found: dict[str, Stage] = {}
    for budget in budgets:
        for threshold in budget.thresholds:
            if threshold.act != "notify" and (budget.name, threshold.name) in told:
                stage = found.setdefault(budget.name, Stage())
                stage.to = threshold.to or stage.to
                stage.is_cheapest = stage.is_cheapest or threshold.act == "cheapest"
                stage.is_flex = stage.is_flex or threshold.act == "flex"
                stage.needs_approval = stage.needs_approval or threshold.act == "approve"
    return found
