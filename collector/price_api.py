"""The prices over HTTP, for `farthing prices`, `farthing reprice` and the proxies.

Whoever may send spans may read. Prices are one book for all tenants, so where keys tell tenants apart only a key of the
collector's own tenant may change them. A change must come as JSON, which no page of another site can send unasked.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import date, datetime, timedelta, timezone
from typing import Any, cast

from collector.backup import content_type
from collector.pricing import Pricing
from farthing.errors import IngestError, PriceError
from farthing.money import usd_from_nusd
from farthing.prices_public import PUBLIC_DOMAINS
from farthing.semconv import canonical_provider
from farthing.settings import PriceOverride, Settings
from farthing.tariff import Price, Rates
from farthing.warehouse import Warehouse
from farthing.warehouse.price_store import Period

READS = ("/v1/prices", "/v1/prices/history", "/v1/prices/own", "/v1/prices/missing")
REPRICE = "/v1/prices/reprice"
WRITES = ("/v1/prices", REPRICE)
PATHS = frozenset((*READS, *WRITES))
MAX_BODY_BYTES = 64 * 1024
_LISTED = 1000  # models without a price
_TEXTS = {field.name for field in fields(PriceOverride)} - {"tiers"}


class PriceApi:
    """Answers for one collector."""

    def __init__(self, settings: Settings, warehouse: Warehouse, pricing: Pricing) -> None:
        self._settings = settings
        self._warehouse = warehouse
        self._pricing = pricing

    def read(self, path: str, asked: Mapping[str, str], tenant: str) -> dict[str, Any]:
        """Answer a GET.

        Raises:
            IngestError: 400 for a question that cannot be read.
        """
        if path == "/v1/prices/own":
            return {"prices": [asdict(one.override) for one in self._pricing.store.added()]}
        if path == "/v1/prices/missing":
            return {"missing": self._missing(asked, tenant)}
        if path == "/v1/prices/history":
            provider, model = _required(asked, "provider"), _required(asked, "model")
            return {"prices": [_told(price) for price in self._pricing.book.every(provider, model)],
                    "added": self._added(canonical_provider(provider), model)}  # fmt: skip
        day = _day(asked.get("date") or datetime.now(timezone.utc).date().isoformat())
        pairs = self._pairs(canonical_provider(asked.get("provider", "")), asked.get("model", ""))
        prices = [price for pair in pairs for price in self._pricing.book.every(*pair)]
        return {"prices": [_told(price) for price in prices if price.valid_from <= day <= price.valid_to]}

    def write(self, path: str, body: bytes, headers: Mapping[str, str], tenant: str) -> dict[str, Any]:
        """Answer a POST.

        Raises:
            IngestError: 400, 403 or 415; nothing was changed.
        """
        if content_type(headers) != "application/json":
            raise IngestError(415, "send application/json")
        if len({key.tenant for key in self._settings.ingest_keys}) > 1 and tenant != self._settings.tenant:
            raise IngestError(
                403, f"prices hold for all tenants; send a key of the tenant {self._settings.tenant!r}, not {tenant!r}"
            )
        asked = _decoded(body)
        try:
            return self._add(asked) if path == "/v1/prices" else self._reprice(asked)
        except PriceError as error:
            raise IngestError(400, str(error)) from None

    def _add(self, asked: dict[str, Any]) -> dict[str, Any]:
        by, reason = str(asked.pop("by", "")), str(asked.pop("reason", ""))
        tiers = asked.pop("tiers", [])
        unknown = sorted(set(asked) - _TEXTS)
        missing = [name for name in ("provider", "model", "input", "output") if not asked.get(name)]
        if unknown or missing:
            what = f"unknown key {unknown[0]!r}" if unknown else f"{missing[0]} is missing"
            raise IngestError(400, f"a price: {what}; known: {', '.join(sorted(_TEXTS))}, tiers, by, reason")
        if not isinstance(tiers, list) or not all(isinstance(one, dict) for one in cast(list[Any], tiers)):
            raise IngestError(400, "tiers: write a list of tables")
        override = PriceOverride(
            **{name: str(value) for name, value in asked.items()}, tiers=tuple(cast(list[dict[str, Any]], tiers))
        )
        return {"prices": [_told(price) for price in self._pricing.add(override, by, reason)]}

    def _reprice(self, asked: dict[str, Any]) -> dict[str, Any]:
        until = asked.get("until") or datetime.now(timezone.utc).isoformat()
        period = Period(_moment("since", asked.get("since", "")), _moment("until", until), str(asked.get("model", "")))
        if period.since >= period.until:
            raise IngestError(400, f"since {period.since} is not before until {period.until}")
        is_dry = asked.get("dry_run") is True
        changes = self._pricing.reprice(period, str(asked.get("by", "")), str(asked.get("reason", "")), is_dry)
        return {
            "since": period.since.isoformat(),
            "until": period.until.isoformat(),
            "models": [{**row, **{name: str(row[name] or 0) for name in ("old_usd", "new_usd")}} for row in changes],
        }

    def _missing(self, asked: Mapping[str, str], tenant: str) -> list[dict[str, Any]]:
        try:
            hours = float(asked.get("hours", "24"))
            until = datetime.now(timezone.utc) + timedelta(seconds=1)
            since = until - timedelta(hours=hours)
        except (ValueError, OverflowError):
            raise IngestError(400, f"hours={asked['hours']!r}: write a number of hours, such as 24") from None
        rows = self._warehouse.ask(
            "missing_prices", tenant=tenant, part="collector", since=since, until=until, limit=_LISTED
        )
        seen = ("first_seen", "last_seen")
        return [{**row, **{name: str(row[name]) for name in seen}} for row in rows]

    def _added(self, provider: str, model: str) -> list[dict[str, Any]]:
        return [
            {**asdict(one.override), "by": one.by, "reason": one.reason, "at": one.at.isoformat()}
            for one in self._pricing.store.added()
            if (canonical_provider(one.override.provider.strip()), one.override.model.strip()) == (provider, model)
        ]

    def _pairs(self, provider: str, model: str) -> list[tuple[str, str]]:
        """Return what a question may mean: what is named, else what was met before or has a public price."""
        if provider and model:
            return [(provider, model)]
        known = [(row["provider"], row["model"]) for row in self._pricing.store.book()] + self._pricing.book.own()
        public = [(one, model) for one in PUBLIC_DOMAINS] if model and not provider else []
        return [
            pair for pair in dict.fromkeys((*known, *public)) if provider in ("", pair[0]) and model in ("", pair[1])
        ]


def _told(price: Price) -> dict[str, Any]:
    return {
        "provider": price.provider,
        "model": price.model,
        "service_tier": price.service_tier,
        "valid_from": price.valid_from.isoformat(),
        "valid_to": price.valid_to.isoformat(),
        "version": price.version,
        "rates": _usd(price.rates),
        "tiers": [{"over": tier.over, "rates": _usd(tier.rates)} for tier in price.tiers],
    }


def _usd(rates: Rates) -> dict[str, str]:
    """Return USD per million tokens, written out."""
    return {kind: f"{usd_from_nusd(rate).normalize():f}" for kind, rate in rates._asdict().items()}


def _decoded(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_BODY_BYTES:
        raise IngestError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    try:
        asked: Any = json.loads(body)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise IngestError(400, "send a JSON object")
    return cast(dict[str, Any], asked)


def _required(asked: Mapping[str, str], name: str) -> str:
    if not asked.get(name):
        raise IngestError(400, f"{name} is missing")
    return asked[name]


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise IngestError(400, f"date={text!r}: write a date, such as 2026-11-21") from None


def _moment(name: str, text: object) -> datetime:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        example = "2026-11-21 or 2026-11-21T08:00"
        raise IngestError(400, f"{name}={text!r}: write a date or a time, such as {example}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
