"""What do grades teach about who needs the stronger model: a gain model for each pair that a policy names and tenant.

The tenants are those of the proxies' keys, and the proxies' own; none is taught by another one's calls.
Only calls whose model was drawn by a coin are learned from, each weighed by its chance. A model is trained anew when
there are new grades, and put to the control plane, which hands it to the proxies.
"""
from __future__ import annotations

import logging
import threading
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from analyzer.gain_fit import MIN_ROWS, Outcome, fit_gain
from farthing import control
from farthing.errors import FarthingError
from farthing.policy import Document
from farthing.policy.features import Features
from farthing.policy.gain import GainModel
from farthing.policy.route import Pair
from farthing.settings import Settings
from farthing.warehouse.client import Warehouse

log = logging.getLogger(__name__)

DAYS = 30  # of grades; what a router saw is kept with the spans, and for as long (`keep_spans_days`)
MAX_ROWS = 6_000  # the newest; from there on a fit takes longer and hardly gains


@dataclass(frozen=True)
class Learned:
    """What became of one pair."""

    tenant: str  # whose calls it is for
    weak: str
    strong: str
    grade: str
    weak_rows: int  # graded answers of each
    strong_rows: int
    version: int | None  # in force; None: there are too few grades yet
    note: str


@dataclass(frozen=True)
class _Rows:
    """The graded calls of a pair that can be learned from together."""

    outcomes: list[Outcome]
    key: str  # that the words were hashed with
    newest: str  # when the last of them was graded
    others: int  # rows left out: of another key, or damaged


class GainJob:
    """Learns from the rows of one tenant of the warehouse, for each tenant that its proxies serve."""

    def __init__(self, settings: Settings, warehouse: Warehouse, clock: Callable[[], datetime]) -> None:
        self._settings = settings
        self._warehouse = warehouse
        self._clock = clock
        self._lock = threading.Lock()
        self.newest: list[Learned] = []  # of the last run

    def run(self) -> list[Learned]:
        """Look at every pair of every tenant once.

        Raises:
            FarthingError: the control plane or the warehouse is away.
        """
        with self._lock:
            document = Document.model_validate(control.ask(self._settings, "GET", "/v1/document"))
            known = _known(control.ask(self._settings, "GET", "/v1/gains")["gains"])
            self.newest = [
                self._learn(tenant, pair, known.get((tenant, pair)))
                for tenant in self._tenants(document)
                for pair in document.pairs
            ]
        return self.newest

    def _tenants(self, document: Document) -> list[str]:
        """Return whom the proxies serve, their own tenant first."""
        own, settings = self._settings.tenant, self._settings
        given = sorted({key.tenant or own for key in (*document.keys, *settings.proxy_keys)} - {own})
        return [own, *given]

    def _learn(self, tenant: str, pair: Pair, known: Mapping[str, Any] | None) -> Learned:
        rows = _together(self._asked(tenant, pair), pair)
        answered = [sum(getattr(one, side) is not None for one in rows.outcomes) for side in ("weak", "strong")]
        version = known["version"] if known else None
        about = {"rows": len(rows.outcomes), "key": rows.key, "graded_until": rows.newest}
        if min(answered) < MIN_ROWS:
            note = f"{MIN_ROWS} grades of each model are needed"
        elif known is not None and known["trained"].items() >= about.items():
            note = "no new grades"
        else:
            model = fit_gain(rows.outcomes)
            model.trained.update(about, weak_rows=answered[0], strong_rows=answered[1])
            version = self._put(tenant, pair, model)
            note = f"trained with {len(rows.outcomes)} grades"
        if rows.others:
            note += f"; {rows.others} rows left out, of another hash_key or damaged"
        return Learned(tenant, *pair, answered[0], answered[1], version, note)

    def _asked(self, tenant: str, pair: Pair) -> list[dict[str, Any]]:
        since = self._clock() - timedelta(days=DAYS)
        caller = "" if tenant == self._settings.tenant else tenant
        values = {**pair._asdict(), "caller": caller, "since": since, "limit": MAX_ROWS}
        return self._warehouse.ask("graded_calls", tenant=self._settings.tenant, part="analyzer", **values)

    def _put(self, tenant: str, pair: Pair, model: GainModel) -> int:
        about = {"tenant": tenant, **pair._asdict()}
        put = control.ask(self._settings, "POST", "/v1/gains", about, model.to_json().decode())
        log.info("gain model of %s, %s>%s version %d", tenant, pair.weak, pair.strong, put["version"])
        return put["version"]


def _known(listed: Iterable[Mapping[str, Any]]) -> dict[tuple[str, Pair], Mapping[str, Any]]:
    """Return the newest model of each tenant and pair; they are listed with the newest first."""
    found: dict[tuple[str, Pair], Mapping[str, Any]] = {}
    for one in listed:
        found.setdefault((one["tenant"], Pair(one["weak"], one["strong"], one["grade"])), one)
    return found


def _together(rows: list[dict[str, Any]], pair: Pair) -> _Rows:
    """Return the rows as outcomes; of several keys the one with the most rows, since keys do not share words."""
    keys = Counter(row["features"].partition(":")[0] for row in rows)
    key = keys.most_common(1)[0][0] if keys else ""
    outcomes: list[Outcome] = []
    newest = ""
    for row in rows:
        outcome = _outcome(row, pair) if row["features"].startswith(f"{key}:") else None
        if outcome is not None:
            outcomes.append(outcome)
            newest = max(newest, row["newest_at"].isoformat())
    return _Rows(outcomes, key, newest, len(rows) - len(outcomes))


def _outcome(row: Mapping[str, Any], pair: Pair) -> Outcome | None:
    try:
        features = Features.from_bytes(b64decode(row["features"].partition(":")[2], validate=True))
        if row["model"] == pair.strong:
            return Outcome(features, row["score"], None, strong_propensity=row["propensity"])
        return Outcome(features, None, row["score"], weak_propensity=row["propensity"])
    except ValueError as error:  # damaged, or of another version
        log.debug("a graded call is left out: %s", error)
        return None


def look(job: GainJob) -> None:
    """Run once; what is away is there again at the next run."""
    try:
        job.run()
    except FarthingError as error:
        log.warning("gain models: %s", error)
