"""What the control plane asks of the warehouse; the analyzer answers, an embedded store belongs to one process."""
from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from farthing.control import analyzer
from farthing.errors import ServeError
from farthing.money import nusd_from_usd
from farthing.policy import Document, Facts, Policy
from farthing.policy.kinds.slo import Slo
from farthing.settings import Settings
from policies.explain import explain
from policies.http import HttpError
from policies.periods import NS_PER_S, iso

MAX_CALLS = 10_000  # of one question
BEFORE_NS = 3600 * NS_PER_S  # a call begins before it is reserved, by its way through limits and caches


def plan(settings: Settings, before: Document, after: Document, hours: float) -> dict[str, Any]:
    """Return what a change would have done with the calls of the last hours.

    Raises:
        HttpError: the analyzer is away, or could not tell.
    """
    documents = {"before": before, "after": after}
    bodies = {side: json.loads(one.with_keys(()).to_json()) for side, one in documents.items()}
    return _asked(lambda: analyzer(settings, "POST", f"/v1/plan?hours={hours:g}", bodies))


def explained(settings: Settings, request_id: str, at: Callable[[int], Document]) -> dict[str, Any]:
    """Return why a request was treated as it was; `at` gives the document of a version.

    Raises:
        HttpError: there is no such call of the proxy, or the analyzer is away.
    """
    asked = {"request_id": request_id}
    rows = _asked(lambda: analyzer(settings, "POST", "/v1/ask/decided_call", asked))["rows"]
    if not rows:
        hint = "only calls through the proxy are decided about, and a span needs some seconds to arrive"
        raise HttpError(404, "no_such_call", f"there is no call {request_id!r}; {hint}")
    row = rows[0]
    facts = Facts(
        settings.tenant, team=row["team"], user=row["user"], feature=row["feature"], session=row["session"],
        key=row["key"], model=row["asked_model"], tags=row["tags"],
    )  # fmt: skip
    started = datetime.fromisoformat(row["started_at"])
    found = explain(at(row["policy_version"]), facts, request_id, started.date())
    kept = ("started_at", "asked_model", "served_model", "outcome", "cache_hit", "cost_usd")
    recorded = {"policies": row["policies"], "arms": row["arms"], "shadowed": row["shadowed"]}
    recorded["routing"] = {name.removeprefix("farthing."): value for name, value in sorted(row["routing"].items())}
    return {"request_id": request_id, **{name: row[name] for name in kept}, "recorded": recorded, **found}


def findings(settings: Settings) -> list[dict[str, Any]]:
    """Return what the newest run of each analysis found.

    Raises:
        HttpError: the analyzer is away.
    """
    return _asked(lambda: analyzer(settings, "GET", "/v1/findings"))["findings"]


def guardrails(
    settings: Settings, policies: Sequence[Policy], slos: Sequence[Slo], since_ns: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Return what the guardrails of policies on trial say now; `since_ns` tells from when on each is as it is.

    Raises:
        HttpError: the analyzer is away, or could not tell.
    """
    document = json.loads(Document(version=0, policies=tuple(policies), slos=tuple(slos)).to_json())
    since = {one.name: iso(since_ns[one.name]) for one in policies}
    body = {"document": document, "since": since}
    return _asked(lambda: analyzer(settings, "POST", "/v1/guardrails", body))["verdicts"]


def settled_calls(settings: Settings, request_ids: Sequence[str], since_ns: int) -> dict[str, int]:
    """Return what calls of the proxy were settled at, nano-dollars, as far as their spans have arrived.

    Raises:
        HttpError: the analyzer is away.
    """
    asked = {"request_ids": list(request_ids), "since": iso(max(0, since_ns - BEFORE_NS)), "until": iso(time.time_ns())}
    rows = _asked(lambda: analyzer(settings, "POST", "/v1/ask/settled_calls", asked))["rows"]
    return {row["request_id"]: nusd_from_usd(row["settled_usd"]) for row in rows}


def leased_calls(settings: Settings, workers: Sequence[str], since: str, after: str) -> list[dict[str, Any]]:
    """Return the calls, MAX_CALLS at most, that workers of the proxy made out of leases, the first received first.

    `since` and `after` are where the page before ended: when its last call was received, and its request id.

    Raises:
        HttpError: the analyzer is away.
    """
    asked: dict[str, Any] = {"workers": list(workers), "since": since, "until": iso(time.time_ns()), "limit": MAX_CALLS}
    asked |= {"after": after} if after else {}
    return _asked(lambda: analyzer(settings, "POST", "/v1/ask/leased_calls", asked))["rows"]


def slos(settings: Settings, document: Document) -> list[dict[str, Any]]:
    """Return how the objectives of a document stand now.

    Raises:
        HttpError: the analyzer is away, or could not tell.
    """
    body = json.loads(Document(version=0, slos=document.slos).to_json())
    return _asked(lambda: analyzer(settings, "POST", "/v1/slos", {"document": body}))["slos"]


def _asked(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except ServeError as error:
        raise HttpError(503, "analyzer_unavailable", f"the warehouse cannot be asked: {error}") from None
