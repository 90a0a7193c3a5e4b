"""What one worker holds of one budget in advance: a debit that is durable before the worker may spend any of it.

A lease that expires is charged in full, since all of it may have been spent; what was really spent, and what is given
back, then comes out of that charge.
"""
from __future__ import annotations

from dataclasses import dataclass

from policies.balance import Balance

LeaseKey = tuple[str, str, str]  # worker, budget, period


@dataclass(slots=True)
class LeaseRow:
    """One lease, with the last change that its worker asked for."""

    worker: str
    balance: Balance
    leased_nusd: int = 0
    charged_nusd: int = 0  # of an expired lease: what of its charge nothing has accounted for yet
    number: int = -1  # of the last change
    granted_nusd: int = 0  # by the last change; a repeat gets the same
    renewed_ns: int = 0
    answered_ns: int = 0  # the last recall that was answered; kept in memory alone
    stored: bool = False

    @property
    def key(self) -> LeaseKey:
        return self.worker, self.balance.budget, self.balance.period.name

    @property
    def state(self) -> str:
        """open | expired | closed, as its row has it."""
        return "open" if self.leased_nusd else "expired" if self.charged_nusd else "closed"

    @property
    def is_empty(self) -> bool:
        return not (self.leased_nusd or self.charged_nusd)

    def grant(self, amount_nusd: int) -> None:
        """Add what the balance can lend."""
        self.leased_nusd += amount_nusd
        self.balance.lend(amount_nusd)

    def give_back(self, amount_nusd: int) -> None:
        """Take back what was not spent; from an expired lease's charge too."""
        back = min(amount_nusd, self.leased_nusd)
        self.leased_nusd -= back
        self.balance.lend(-back)
        late = min(amount_nusd - back, self.charged_nusd)
        self.charged_nusd -= late
        self.balance.refund(late)

    def draw(self, held_nusd: int, actual_nusd: int) -> tuple[int, int, bool]:
        """Charge what an attempt cost; return charge, overrun, and whether the lease had expired."""
        due = min(held_nusd, actual_nusd)
        paid = min(due, self.leased_nusd)
        late = min(due - paid, self.charged_nusd)
        self.leased_nusd -= paid
        self.charged_nusd -= late
        self.balance.lent(paid)
        self.balance.refund(late)
        self.balance.hold(late)
        return *self.balance.charge(paid + late, actual_nusd), late > 0

    def expire(self) -> None:
        """Charge all that is left."""
        left = self.leased_nusd
        self.balance.lent(left)
        self.balance.charge(left, left)
        self.charged_nusd += left
        self.leased_nusd = 0
