"""What the warehouse keeps of prices: the book that the views look up, who bills, prices that people added, repricing.

The book is filled anew at each start; `own_prices` and `repricings` stay. Repricing is the very SQL of the insert.
"""
from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from farthing.prices_own import own_price
from farthing.servers import Rule
from farthing.settings import PriceOverride
from farthing.tariff import Price
from farthing.warehouse import price_rule
from farthing.warehouse.client import Warehouse


@dataclass(frozen=True)
class Added:
    """A price that somebody added, as it was said."""

    override: PriceOverride
    by: str
    reason: str
    at: datetime  # UTC


@dataclass(frozen=True)
class Period:
    """Which rows are priced anew."""

    since: datetime  # of their start, inclusive
    until: datetime  # exclusive
    model: str = ""  # asked for, answering or priced; '' = all

    @property
    def parameters(self) -> dict[str, object]:
        return {"since": _text(self.since), "until": _text(self.until), "only": self.model}


_IN_PERIOD = (
    "started_at >= toDateTime64({since:String}, 6, 'UTC') AND started_at < toDateTime64({until:String}, 6, 'UTC') "
    "AND ({only:String} = '' OR {only:String} IN (model, request_model, response_model))"
)


class PriceStore:
    """The prices of one warehouse."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    def clear(self) -> None:
        """Empty the book, so that a price that was taken back is gone."""
        self._warehouse.change("TRUNCATE TABLE price_book")

    def replace(self, provider: str, model: str, prices: Iterable[Price]) -> None:
        """Put these in the place of all prices of a model; the views see them at once, and nothing in between."""
        self._warehouse.change(
            "ALTER TABLE price_book DELETE WHERE provider = {provider:String} AND model = {model:String} "
            "SETTINGS mutations_sync = 1",
            provider=provider, model=model,
        )  # fmt: skip
        self._warehouse.put_prices(prices)

    def put_servers(self, rules: Sequence[Rule]) -> None:
        """Have these rules say who bills a call from now on."""
        patterns, billed_by = [rule.pattern for rule in rules], [rule.billed_by for rule in rules]
        ((old_patterns, old_billed_by),) = self._warehouse.rows(
            "SELECT argMax(patterns, set_at), argMax(billed_by, set_at) FROM server_rules"
        )
        if (list(old_patterns), list(old_billed_by)) != (patterns, billed_by):
            row = (datetime.now(timezone.utc), patterns, billed_by)
            self._warehouse.insert("server_rules", ("set_at", "patterns", "billed_by"), [row])
        self._warehouse.change("SYSTEM RELOAD DICTIONARY servers")

    def book(self) -> list[dict[str, Any]]:
        """Return the (provider, model) pairs that the book has a price for."""
        return self._warehouse.query("SELECT DISTINCT provider, model FROM price_book ORDER BY provider, model")

    def added(self) -> list[Added]:
        """Return the prices that people added, in the order they did."""
        rows = self._warehouse.query("SELECT * FROM own_prices ORDER BY added_at")
        return [_added(row) for row in rows]

    def own(self) -> list[Price]:
        """Return the prices that people added, in the order they did, for a book to take.

        Raises:
            PriceError: one of them cannot be read.
        """
        return [own_price(one.override) for one in self.added()]

    def add(self, added: Added) -> None:
        """Keep a price for good."""
        one = added.override
        columns = ("added_at", "added_by", "reason", "provider", "model", "service_tier", "valid_from", "price")
        valid_from = datetime.fromisoformat(one.valid_from).date()
        said = {name: value for name, value in asdict(one).items() if name not in columns and value}
        row = (
            added.at, added.by, added.reason, one.provider, one.model, one.service_tier, valid_from, json.dumps(said)
        )  # fmt: skip
        self._warehouse.insert("own_prices", columns, [row])
        self._warehouse.sync()

    def models(self, period: Period) -> list[tuple[str, str]]:
        """Return the distinct (provider, model) that rows of a period may be priced as."""
        rows = self._warehouse.query(
            "SELECT DISTINCT provider, arrayJoin([response_model, request_model]) AS name FROM requests "
            f"WHERE {_IN_PERIOD}", **period.parameters,
        )  # fmt: skip
        return [(row["provider"], row["name"]) for row in rows if row["name"]]

    def compare(self, period: Period) -> list[dict[str, Any]]:
        """Return per model what a repricing would change; money is that of the billed rows."""
        new = self._priced()
        names = ", ".join(new)
        changed = " OR ".join(f"isDistinctFrom({name}, new_{name})" for name in new)
        values = ", ".join(f"{expression} AS new_{name}" for name, expression in new.items())
        return self._warehouse.query(
            "SELECT provider, new_model AS model, count() AS rows, countIf(is_changed) AS changed, "
            "sumIf(cost_usd, billed) AS old_usd, sumIf(new_cost_usd, billed) AS new_usd, "
            "countIf(billed AND new_price_state = 'unpriced') AS unpriced "
            f"FROM (SELECT *, {changed} AS is_changed FROM (SELECT provider, billed, {names}, {values} FROM requests "
            f"WHERE {_IN_PERIOD})) GROUP BY provider, model ORDER BY new_usd DESC, provider, model",
            **period.parameters,
        )  # fmt: skip

    def reprice(self, period: Period) -> None:
        """Price every row of a period anew; what the ledger was charged stays."""
        updates = ", ".join(f"{name} = {expression}" for name, expression in self._priced().items())
        self._warehouse.change(
            f"ALTER TABLE requests UPDATE {updates} WHERE {_IN_PERIOD} "
            "SETTINGS mutations_sync = 1, allow_nondeterministic_mutations = 1",
            **period.parameters,
        )  # fmt: skip
        self._warehouse.sync()

    def note(self, period: Period, by: str, reason: str, changes: Sequence[dict[str, Any]]) -> None:
        """Record who priced a period anew, and what came of it."""
        columns = (
            "repriced_at", "repriced_by", "reason", "since", "until", "model", "rows", "changed", "old_usd", "new_usd"
        )  # fmt: skip
        sums = [sum(row[name] or 0 for row in changes) for name in ("rows", "changed", "old_usd", "new_usd")]
        now = datetime.now(timezone.utc)
        self._warehouse.insert(
            "repricings", columns, [(now, by, reason, period.since, period.until, period.model, *sums)]
        )
        self._warehouse.sync()

    def _priced(self) -> dict[str, str]:
        database = self._warehouse.database
        return {
            name: expression.replace("{{database}}", database)
            for name, expression in price_rule.priced_columns().items()
        }


def _added(row: dict[str, Any]) -> Added:
    said: dict[str, Any] = json.loads(row["price"])
    tiers = tuple(said.pop("tiers", ()))
    override = PriceOverride(
        provider=row["provider"], model=row["model"], service_tier=row["service_tier"],
        valid_from=row["valid_from"].isoformat(), tiers=tiers, **said,
    )  # fmt: skip
    return Added(override, row["added_by"], row["reason"], row["added_at"].replace(tzinfo=timezone.utc))


def _text(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")
