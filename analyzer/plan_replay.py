"""What a document would have done with the calls of a window: the proxy's own decision code over the stored rows.

A route keeps the tokens of the call and takes the other model's price; a cache answers what it had answered within its
time. A row does not name the key that a call came with, so policies that match on keys are told as not replayed.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from farthing.policy import CacheAction, CompiledDocument, Decision, Document, Facts, Policy, decide
from farthing.prices import PriceBook, Usage
from farthing.settings import Settings
from farthing.tariff import Price


@dataclass(frozen=True)
class Outcome:
    """What one document makes of one call."""

    acted: tuple[str, ...]
    treated: tuple[str, ...]  # those that changed something: a cache that had no answer did not
    model: str  # that serves it
    is_cached: bool
    cost_nusd: int | None  # None: the model has no price, or the call no usage


@dataclass(frozen=True)
class Replayed:
    """One call under two documents."""

    team: str
    cluster: str  # calls of one user or session are not independent of one another
    recorded_model: str
    duration_s: float
    is_error: bool
    before: Outcome
    after: Outcome

    @property
    def is_changed(self) -> bool:
        return (self.before.treated, self.before.model) != (self.after.treated, self.after.model)


def replay(
    rows: Sequence[Mapping[str, Any]], tenant: str, before: Document, after: Document, pricing: Pricing
) -> list[Replayed]:
    """Decide about each row under both documents, in the order in which the calls came."""
    sides = [_Side(CompiledDocument(document), pricing) for document in (before, after)]
    replayed: list[Replayed] = []
    for row in sorted(rows, key=lambda row: row["started_at"]):
        facts = _facts(row, tenant)
        old, new = (side.outcome(row, facts) for side in sides)
        replayed.append(
            Replayed(
                team=row["team"],
                cluster=row["user"] or row["session"] or row["span_id"],
                recorded_model="" if row["cache_hit"] else row["model"],
                duration_s=row["duration_s"],
                is_error=row["outcome"] == "error",
                before=old,
                after=new,
            )
        )
    return replayed


def at_full_strength(document: Document, names: Iterable[str]) -> Document:
    """Return the document with the named policies enforced on everybody: what they lead to once they are let."""
    wanted = set(names)
    full = {"mode": "enforce", "verify": Policy.model_fields["verify"].default}
    policies = [one.model_copy(update=full) if one.name in wanted else one for one in document.policies]
    others = [item for item in document.items() if not isinstance(item, Policy)]
    return Document.of(document.version, [*policies, *others])


def _facts(row: Mapping[str, Any], tenant: str) -> Facts:
    return Facts(
        tenant, team=row["team"], user=row["user"], feature=row["feature"], session=row["session"],
        key=row["api_key"], model=row["asked_model"], tags=row["tags"],
    )  # fmt: skip


class _Side:
    """One document on its way through the rows; remembers what its caches hold."""

    def __init__(self, compiled: CompiledDocument, pricing: Pricing) -> None:
        self._compiled = compiled
        self._pricing = pricing
        self._kept: dict[tuple[str, str, str], datetime] = {}

    def outcome(self, row: Mapping[str, Any], facts: Facts) -> Outcome:
        at: datetime = row["started_at"]
        decision = decide(self._compiled, facts, at.date(), row["request_id"] or row["span_id"])
        model = decision.route_to or (row["asked_model"] if row["asked_model"] else row["model"])
        if decision.cache is not None and self._is_kept(row, decision, decision.cache, model):
            return Outcome(decision.acted, decision.acted, model, True, 0)
        treated = tuple(name for name in decision.acted if name != decision.cache_name)
        return Outcome(decision.acted, treated, model, False, self._pricing.cost_nusd(row, model))

    def _is_kept(self, row: Mapping[str, Any], decision: Decision, action: CacheAction, model: str) -> bool:
        """Tell whether the cache had the answer, and keep it from now on where it had not."""
        is_repeatable = row["temperature"] == 0 or row["operation"] == "embeddings" or action.allow_sampled
        if not row["request_hash"] or not is_repeatable or not action.exact:
            return False
        key, at = (decision.cache_name, row["request_hash"], model), row["started_at"]
        kept = self._kept.get(key)
        if kept is not None and (at - kept).total_seconds() <= action.ttl_s:
            return True
        if row["outcome"] == "ok":
            self._kept[key] = at
        return False


class Pricing:
    """What a call costs at another model: its own tokens at the price of the day."""

    def __init__(self, settings: Settings) -> None:
        self._book = PriceBook(settings.prices)
        self._providers = {one.model: one.provider for one in reversed(settings.deployments)}
        self._known: dict[tuple[str, str, date], Price | None] = {}

    def cost_nusd(self, row: Mapping[str, Any], model: str) -> int | None:
        """Return the cost of a row's tokens at `model`; what was paid where that is the model that served it."""
        if model == row["model"] and not row["cache_hit"]:
            paid: Decimal | None = row["cost_usd"]
            return None if paid is None else int(paid.scaleb(9))
        price = self._price(self._providers.get(model) or row["provider"], model, row["started_at"].date())
        if price is None or not row["has_usage"]:
            return None
        kinds = ("input_uncached", "cache_read_tokens", "cache_write_tokens", "output_tokens")
        return price.cost_nusd(Usage(*(int(row[kind]) for kind in kinds)))

    def _price(self, provider: str, model: str, day: date) -> Price | None:
        key = (provider, model, day)
        if key not in self._known:
            self._known[key] = self._book.at(provider, model, day)
        return self._known[key]
