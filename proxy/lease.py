"""The leases of one worker: what it may spend of each budget without asking, debited at the ledger before it did.

A call is reserved from the leases of all its budgets or from none of them. What is in hand follows the recent burn;
what nobody used for a while, or what another worker needs, goes back.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from time import time_ns
from typing import Any

from farthing.policy.document import Budget
from proxy.backlog import Operation
from proxy.ledger_line import LedgerLine, Waiting

MAX_NUSD = 10**15  # nano-dollars; the most that the ledger takes in one operation
_FOREVER_NS = 2**63
_FEW = 3  # calls in a window of burn for which no lease is worth its while
_TIGHT_NS = 1_000_000_000  # after a recall nothing is asked for so long


class Account:
    """The lease of one budget in one period."""

    __slots__ = (
        "budget", "burned_nusd", "calls", "end_ns", "free_nusd", "held_nusd", "is_ended", "is_recalled", "lease",
        "low_nusd", "most_nusd", "named", "period", "place", "target_nusd", "tight_until_ns", "used_ns",
    )  # fmt: skip

    def __init__(self, budget: str) -> None:
        self.budget = budget
        self.period = ""  # none yet
        self.lease = ""  # budget and period, as spans name them
        self.named = (budget, "")  # the same, as the ledger's operations do
        self.place = 0  # where its names are kept for whoever comes after this worker; 0: nowhere yet
        self.end_ns = 0  # of the period; nothing is taken from then on
        self.free_nusd = 0  # may be reserved
        self.held_nusd = 0  # is, by calls under way
        self.burned_nusd = 0  # reserved since the last tick, here or at the ledger
        self.calls = 0.0  # of a window, the recent ones
        self.most_nusd = 0  # the largest of them
        self.target_nusd = 0  # what to have in hand
        self.low_nusd = 0  # below this more is asked for
        self.used_ns = 0
        self.tight_until_ns = 0
        self.is_recalled = False  # an answer to a recall is due
        self.is_ended = False  # nothing is reserved from it any more: what comes free goes back


class Leases:
    """All accounts of a worker; `lease_s` is the window of burn that is held in advance."""

    def __init__(
        self, line: LedgerLine, worker: str, lease_s: float, clock_ns: Callable[[], int] = time_ns
    ) -> None:
        self._line = line
        self._worker = worker
        self._window_ns = int(lease_s * 1e9)
        self._clock_ns = clock_ns
        self._accounts: dict[str, Account] = {}
        self._ended: list[Account] = []
        self._asking: set[str] = set()  # budgets with a change that the ledger has not answered
        self._number = 0

    @property
    def is_idle(self) -> bool:
        """Nothing is leased, and nothing asked for."""
        return not (self._accounts or self._ended or self._asking)

    def in_hand(self) -> dict[str, int]:
        """Return what is leased of each budget, nano-dollars."""
        return self._sums(lambda account: account.free_nusd + account.held_nusd)

    def held(self) -> dict[str, int]:
        """Return what of it calls under way are reserved, by budget, nano-dollars."""
        return {budget: held for budget, held in self._sums(lambda account: account.held_nusd).items() if held}

    def take(self, budgets: Sequence[Budget], amount_nusd: int, now_ns: int) -> tuple[Account, ...] | None:
        """Reserve an amount from the leases of all `budgets`; None where one of them has not got it."""
        accounts = self._accounts
        found: list[Account] = []
        for budget in budgets:
            account = accounts.get(budget.name)
            if account is None or account.free_nusd < amount_nusd or now_ns >= account.end_ns:
                self._missed(budgets, amount_nusd, now_ns)
                return None
            found.append(account)
        for account in found:
            account.free_nusd -= amount_nusd
            account.held_nusd += amount_nusd
            account.burned_nusd += amount_nusd
            account.used_ns = now_ns
            if account.free_nusd < account.low_nusd:
                self._refill(account, amount_nusd, now_ns)
        return tuple(found)

    def settle(self, accounts: Sequence[Account], held_nusd: int, actual_nusd: int) -> None:
        """Free what a call was reserved and did not cost."""
        left = held_nusd - actual_nusd if actual_nusd < held_nusd else 0
        for account in accounts:
            account.held_nusd -= held_nusd
            account.free_nusd += left
            if account.tight_until_ns or account.is_ended:
                self._give_back(account, account.free_nusd)

    def recall(self, budgets: Iterable[str]) -> None:
        """Give back what calls under way do not need of these budgets: other workers are short of it."""
        until = self._clock_ns() + _TIGHT_NS
        for name in budgets:
            account = self._accounts.get(name)
            if account is not None:
                account.tight_until_ns = until
                account.is_recalled = True
                self._give_back(account, account.free_nusd)

    def tick(self) -> None:
        """Follow the burn, and give back what it does not call for; about four times a window."""
        now = self._clock_ns()
        for account in list(self._accounts.values()):
            if now >= account.end_ns > 0:
                self._end(account)
                continue
            self._follow(account, now)
            if account.is_recalled:
                self._give_back(account, account.free_nusd)
            elif now - account.used_ns >= self._window_ns:
                self._let_go(account)
            elif account.free_nusd > 2 * account.target_nusd + account.most_nusd:
                self._give_back(account, account.free_nusd - account.target_nusd)
        for account in self._ended:
            self._give_back(account, account.free_nusd)
        self._ended = [one for one in self._ended if one.free_nusd or one.held_nusd]

    def give_all_back(self) -> None:
        """Give back what no call under way needs; the end of a worker."""
        for account in (*self._accounts.values(), *self._ended):
            self._give_back(account, account.free_nusd)

    def end(self) -> None:
        """Reserve nothing more from what is in hand: the ledger has charged it in full by now and may take it back."""
        for account in list(self._accounts.values()):
            self._end(account)

    def _sums(self, part: Callable[[Account], int]) -> dict[str, int]:
        found: dict[str, int] = {}
        for one in (*self._ended, *self._accounts.values()):
            found[one.budget] = found.get(one.budget, 0) + part(one)
        return found

    def _follow(self, account: Account, now: int) -> None:
        burn = account.burned_nusd * 4  # of a whole window, as the last quarter went
        account.target_nusd = burn if burn > account.target_nusd else (burn + account.target_nusd) // 2
        account.low_nusd = account.target_nusd // 2
        account.burned_nusd = 0
        account.calls *= 0.75
        if now >= account.tight_until_ns:
            account.tight_until_ns = 0

    def _missed(self, budgets: Sequence[Budget], amount_nusd: int, now_ns: int) -> None:
        """Learn from a call that has to be reserved at the ledger; after several a lease is worth its while."""
        for budget in budgets:
            account = self._accounts.get(budget.name)
            if account is None or now_ns >= account.end_ns > 0:
                if account is not None:
                    self._end(account)
                account = self._accounts[budget.name] = Account(budget.name)
            account.burned_nusd += amount_nusd
            account.calls += 1
            account.used_ns = now_ns
            account.most_nusd = max(account.most_nusd, amount_nusd)
            account.target_nusd = max(account.target_nusd, account.burned_nusd * 2)
            account.low_nusd = account.target_nusd // 2
            if account.calls > _FEW:
                self._refill(account, amount_nusd, now_ns)

    def _refill(self, account: Account, least_nusd: int, now_ns: int) -> None:
        if account.budget in self._asking:  # as for most calls that find it low: an answer takes as long as many calls
            return
        want = min(account.target_nusd - account.free_nusd, MAX_NUSD)
        if want >= least_nusd and now_ns >= account.tight_until_ns:
            self._change(account, {"want_nusd": want, "least_nusd": least_nusd})

    def _give_back(self, account: Account, amount_nusd: int) -> None:
        if (amount_nusd or account.is_recalled) and account.budget not in self._asking:
            account.free_nusd -= amount_nusd
            is_answer, account.is_recalled = account.is_recalled, False
            self._change(account, {"back_nusd": amount_nusd, "is_answer": is_answer})

    def _let_go(self, account: Account) -> None:
        """Nothing was reserved for a whole window."""
        account.target_nusd = account.low_nusd = account.most_nusd = 0
        if account.free_nusd:
            self._give_back(account, account.free_nusd)
        elif not account.held_nusd and account.budget not in self._asking:
            account.is_ended = True
            del self._accounts[account.budget]

    def _end(self, account: Account) -> None:
        del self._accounts[account.budget]
        account.is_ended = True
        self._ended.append(account)

    def _change(self, account: Account, change: Operation) -> None:
        """Ask for one change of a lease; the next one of the same budget waits for its answer."""
        if account.budget in self._asking:
            return
        self._asking.add(account.budget)
        self._number += 1
        operation = {
            "op": "lease", "worker": self._worker, "number": self._number, "budget": account.budget,
            "period": account.period,
        }  # fmt: skip
        is_wanted = "want_nusd" in change
        self._line.put(Waiting(operation | change, then=lambda result: self._changed(account, result, is_wanted)))

    def _changed(self, account: Account, result: dict[str, Any], is_wanted: bool) -> None:
        self._asking.discard(account.budget)
        granted = result.get("granted_nusd", 0)
        if granted and account.period and result["period"] != account.period:
            account = self._next_account(account)  # its period has ended meanwhile
        if granted:
            account.period = result["period"]
            account.lease, account.named = f"{account.budget} {account.period}", (account.budget, account.period)
            account.end_ns = result["end_ns"] or _FOREVER_NS
            account.free_nusd += granted
        elif is_wanted:  # there is no room to lend
            account.tight_until_ns = self._clock_ns() + _TIGHT_NS
        if account.is_recalled or account.is_ended or account.tight_until_ns:
            self._give_back(account, account.free_nusd)

    def _next_account(self, ended: Account) -> Account:
        if self._accounts.get(ended.budget) is ended:
            self._end(ended)
        return self._accounts.setdefault(ended.budget, Account(ended.budget))
