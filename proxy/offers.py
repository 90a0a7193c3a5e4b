"""What a deployment charges for a call: the service tier that it is priced in, and the prices that it may come to.

Nothing of it depends on the prompt, so it is worked out once for a deployment, a tier and a day.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import lru_cache

import msgspec

from farthing.prices import Price, PriceBook
from farthing.settings import Deployment, PriceOverride
from farthing.tariff import service_tier
from proxy.call import Call
from proxy.request import Asked
from proxy.stream import MAX_TIER_CHARACTERS

_MOST = 4096  # offers that are remembered; a client may name any service tier
_DAY_NS = 86_400 * 10**9
_EPOCH = date(1970, 1, 1).toordinal()


class Offer(msgspec.Struct, frozen=True):
    """What a deployment charges for a kind of request."""

    tier: str  # that it is priced in until the answer says otherwise
    price: Price | None  # in that tier
    billable: list[Price]  # of the tiers that it may be served in


class Offers:
    """The offers of all deployments."""

    def __init__(self, prices: Sequence[PriceOverride]) -> None:
        self._book = PriceBook(prices)  # the settings' and the public ones
        self._prices: dict[tuple[str, str, int], Mapping[str, Price]] = {}  # by day, since the epoch
        self._offers: dict[tuple[object, ...], Offer] = {}

    def price(self, call: Call, deployment: Deployment) -> Price | None:
        """Return what a deployment charges on the day of the call, whatever its answers call themselves."""
        return self.prices_of(call, deployment).get(service_tier(call.service_tier))

    def asked_price(self, call: Call, asked: Asked, deployment: Deployment) -> Price | None:
        """Return the price of what is asked for, before any deployment has the call."""
        found = self.of(call, asked, deployment).billable
        return found[0] if found else None

    def of(self, call: Call, asked: Asked, deployment: Deployment) -> Offer:
        """Return what a deployment charges on the day of the call; nothing of it depends on the prompt."""
        given = asked.fields.get("service_tier")
        given_tier = given if isinstance(given, str) else None if given is None else ""
        key = (deployment.provider, deployment.model, deployment.metered, given_tier, call.is_offline,
               call.is_consigned, call.started_ns // _DAY_NS)  # fmt: skip
        known = self._offers.get(key)
        if known is not None:
            return known
        prices = self.prices_of(call, deployment)
        tier = BATCH_TIER if call.is_consigned else _tier(asked, deployment, prices, call.is_offline)
        offer = Offer(tier, prices.get(service_tier(tier)), _billable(asked, prices, tier, call.is_consigned))
        if len(self._offers) >= _MOST:
            self._offers.clear()
        if len(given_tier or "") <= MAX_TIER_CHARACTERS:
            self._offers[key] = offer
        return offer

    def use(self, added: Iterable[Price]) -> None:
        """Take the prices that people added, all of them, beside the settings' and the public ones."""
        self._book.add(added)
        self._prices.clear()
        self._offers.clear()

    def prices_of(self, call: Call, deployment: Deployment) -> Mapping[str, Price]:
        """Return the prices of a deployment's model on the day of the call, by service tier."""
        key = (deployment.provider, deployment.model, call.started_ns // _DAY_NS)
        known = self._prices.get(key)
        if known is None:
            day = day_of(call)
            history = self._book.every(deployment.provider, deployment.model)
            known = {one.service_tier: one for one in history if one.valid_from <= day <= one.valid_to}
            self._prices[key] = known
        return known


# What a project's settings at the provider may make of a call that leaves the choice open
_CHOSEN_BY_PROVIDER = ("flex", "priority", "scale")

BATCH_TIER = "batch"
FLEX_TIER = "flex"


def _billable(asked: Asked, prices: Mapping[str, Price], tier: str, is_consigned: bool = False) -> list[Price]:
    """Return the prices of the service tiers that a call may be served in; none where its own has none."""
    if tier not in prices:
        return []
    if is_consigned:
        return [prices[tier]]
    is_chosen = tier == BATCH_TIER or asked.fields.get("service_tier") not in (None, "auto")
    others = ("",) if is_chosen else _CHOSEN_BY_PROVIDER
    return [prices[name] for name in dict.fromkeys((tier, *others)) if name in prices]


def _tier(asked: Asked, deployment: Deployment, prices: Mapping[str, Price], is_offline: bool) -> str:
    """Return the service tier that a call is priced in until its answer says otherwise.

    A third party that is asked for a line of a batch by itself bills it as what it was asked as; what our own servers
    charge for it is ours to say. They take the field `service_tier` and know none.
    """
    is_own = not deployment.metered
    if is_own and is_offline and BATCH_TIER in prices:
        return BATCH_TIER
    tier = _asked_tier(asked)
    if is_own and tier:
        return tier if tier != BATCH_TIER and any(name not in ("", BATCH_TIER) for name in prices) else ""
    return tier if any(prices) else ""


def _asked_tier(asked: Asked) -> str:
    given = asked.fields.get("service_tier")
    return service_tier(given) if isinstance(given, str) else ""


def day_of(call: Call) -> date:
    """Return the UTC date of a call's beginning."""
    return _date_of(call.started_ns // _DAY_NS)


@lru_cache(maxsize=4)
def _date_of(days: int) -> date:
    """Return the UTC date, so many days after the epoch."""
    return date.fromordinal(_EPOCH + days)
