"""What a finding of the analyzer leads to: a ready document for each kind of finding, which begins by doing nothing.

A policy begins in shadow and a budget as a soft one, so accepting a proposal changes no request; its predicted effect
is that of a plan over the calls of the last days.
"""
from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_UP, Decimal
from typing import Any

from farthing.policy import Document
from policies.changes import by_key
from policies.load import Key

MONTH_DAYS = Decimal("30.4")
HEADROOM = Decimal("1.2")  # a watching budget over what is spent now, so that it tells of growth


@dataclass(frozen=True)
class Proposal:
    """One document that somebody may accept."""

    name: str  # of the object, and of the proposal
    kind: str  # of the object
    finding: str  # kind of the finding
    title: str
    detail: str
    avoidable_usd: str  # of the finding's window, as it predicts; 0 where it claims none
    document: str  # YAML


def proposals(findings: Iterable[Mapping[str, Any]], document: Document) -> list[Proposal]:
    """Return a proposal for each finding that has a template and is not in force yet, in the findings' order."""
    made: dict[Key, Proposal] = {}
    for finding in findings:
        template = TEMPLATES.get(finding["kind"])
        proposal = template(finding) if template is not None else None
        if proposal is not None and (proposal.kind, proposal.name) not in by_key(document):
            made.setdefault((proposal.kind, proposal.name), proposal)
    return list(made.values())


def _cache(finding: Mapping[str, Any]) -> Proposal | None:
    """Repeats that were paid for again: keep whole answers of that team's use of that model."""
    evidence = _evidence(finding)
    if not finding["requests"] or not evidence.get("model"):
        return None
    match = {name: evidence[name] for name in ("team", "model") if evidence.get(name)}
    name = _name("cache", *match.values())
    body = {"match": match, "action": {"cache": {"ttl_s": 3600}}, "mode": "shadow"}
    return _proposal("Policy", name, evidence.get("team", ""), finding, body)


def _watch(finding: Mapping[str, Any]) -> Proposal | None:
    """A team's spend: a soft budget a fifth above it, which tells of growth and refuses nothing."""
    team, cost = _evidence(finding).get("team", ""), Decimal(finding["cost_usd"])
    days = Decimal((_instant(finding["until"]) - _instant(finding["since"])).total_seconds()) / 86_400
    if not team or cost <= 0 or days <= 0:
        return None
    month = (cost / days * MONTH_DAYS * HEADROOM).quantize(Decimal("0.01"), ROUND_UP)
    body = {"scope": {"team": team}, "limit": f"{month} USD", "window": {"calendar": "month"}, "hard": False}
    return _proposal("Budget", _name("watch", team), team, finding, body)


TEMPLATES: dict[str, Callable[[Mapping[str, Any]], Proposal | None]] = {"cache_waste": _cache, "cost_driver": _watch}


def _proposal(kind: str, name: str, owner: str, finding: Mapping[str, Any], body: Mapping[str, Any]) -> Proposal:
    lines = [f"# {' '.join(finding['title'].split())}", "apiVersion: farthing/v1", f"kind: {kind}"]
    lines.append(f"metadata: {json.dumps({'name': name, 'owner': owner})}")
    lines += [f"{field}: {json.dumps(value)}" for field, value in body.items()]
    return Proposal(
        name, kind, finding["kind"], finding["title"], finding["detail"], finding["avoidable_usd"],
        "\n".join([*lines, ""]),
    )  # fmt: skip


def _name(*parts: str) -> str:
    plain = "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts)
    return plain[:63].rstrip("-")


def _evidence(finding: Mapping[str, Any]) -> dict[str, Any]:
    given = finding["evidence"]
    return json.loads(given) if isinstance(given, str) else dict(given)


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
