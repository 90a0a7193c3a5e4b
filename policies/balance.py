"""One budget in one period: the arithmetic that keeps `spent + held <= limit`, in integer nano-dollars.

Nothing here reads a clock or a database. Every method leaves the limit in force at or above what is spent and held, so
the table's CHECK holds for whatever sequence of calls led here.
"""
from __future__ import annotations

from dataclasses import dataclass

from farthing.policy import Budget
from farthing.policy.periods import Period


@dataclass(slots=True)
class Balance:
    """What a budget has spent and holds in one period."""

    budget: str
    period: Period
    configured_nusd: int  # the limit that the document names
    hard: bool  # false: counted, never refuses
    spent_nusd: int = 0
    held_nusd: int = 0  # set aside: for holds and for leases
    leased_nusd: int = 0  # of it, for leases
    overrun_nusd: int = 0  # real cost that could not be charged
    granted_nusd: int = 0  # on top of the configured limit, in this period alone
    refused: int = 0  # reservations
    stored: bool = False  # its row is in the database
    is_suspended: bool = False
    earlier: tuple[Balance, ...] = ()  # of a rolling window: the slots before this one
    is_past: bool = False  # a slot of a rolling window that no longer runs: it can take nothing more
    crossed: set[str] | None = None  # thresholds told of in this period; None: not read yet
    tight_since_ns: int = 0  # since when reservations do not fit; like the next, kept in memory alone
    tight_until_ns: int = 0  # until when nothing is lent

    @property
    def limit_nusd(self) -> int | None:
        """The limit in force; above the configured one while an earlier, higher limit is still used up."""
        return max(self._room, self.spent_nusd + self.held_nusd) if self.hard else None

    @property
    def _room(self) -> int:
        """What this period's spending and holds have room in."""
        room = self.total_nusd
        return room - sum([one.spent_nusd + one.held_nusd for one in self.earlier]) if self.earlier else room

    @property
    def total_nusd(self) -> int:
        """The limit of the window with what was granted on top."""
        return self.configured_nusd + self.granted_nusd

    @property
    def used_nusd(self) -> int:
        """What was spent in the window."""
        return self.spent_nusd + sum([one.spent_nusd for one in self.earlier])

    @property
    def _unused(self) -> int:
        return 0 if self.is_past else max(0, self._room - self.spent_nusd - self.held_nusd)

    @property
    def free_nusd(self) -> int:
        return 0 if self.is_suspended else self._unused

    def fits(self, amount_nusd: int) -> bool:
        """Tell whether a hold of `amount_nusd` is allowed now."""
        if self.is_suspended:
            return False
        return not self.hard or self.spent_nusd + self.held_nusd + amount_nusd <= self._room

    def hold(self, amount_nusd: int) -> None:
        """Set an amount that fits aside."""
        self.held_nusd += amount_nusd

    def lend(self, amount_nusd: int) -> None:
        """Set an amount that fits aside for a lease; a negative one comes back."""
        self.held_nusd += amount_nusd
        self.leased_nusd += amount_nusd

    def lent(self, amount_nusd: int) -> None:
        """Let a part of a lease be a hold, to be charged."""
        self.leased_nusd -= amount_nusd

    def refund(self, amount_nusd: int) -> None:
        """Take back a charge that was no more than a guess."""
        self.spent_nusd -= amount_nusd

    def charge(self, held_nusd: int, actual_nusd: int) -> tuple[int, int]:
        """Turn a hold into a charge; return what was charged and the overrun that no longer fitted."""
        charged = min(actual_nusd, held_nusd + self._unused) if self.hard else actual_nusd
        self.held_nusd -= held_nusd
        self.spent_nusd += charged
        self.overrun_nusd += actual_nusd - charged
        return charged, actual_nusd - charged

    def correct(self, charged_nusd: int, actual_nusd: int) -> tuple[int, int]:
        """Replace the charge of an expired hold by the real cost; return the charge and the overrun."""
        self.spent_nusd -= charged_nusd
        self.held_nusd += charged_nusd
        return self.charge(charged_nusd, actual_nusd)

    def follow(self, budget: Budget) -> bool:
        """Take limit and hardness from the document; tell whether that changed anything."""
        changed = (self.configured_nusd, self.hard) != (budget.limit_nusd, budget.hard)
        self.configured_nusd, self.hard, self.is_suspended = budget.limit_nusd, budget.hard, budget.suspended
        return changed
