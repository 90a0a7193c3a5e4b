"""Names in a document that lead nowhere: an alert about a budget that is not there looks like one that is quiet."""
from __future__ import annotations

from collections.abc import Iterator

from farthing.policy import Document
from farthing.policy.defaults import title
from farthing.policy.kinds.alert import BudgetUsed, BurnRate, Forecast, Rollback, SloBurn


def unresolved(document: Document) -> list[str]:
    """Return one line for each name that no object of the document has."""
    return [
        f"{where} names the {kind} {name!r}, which is not there{_known(document, kind)}"
        for where, kind, name in _references(document)
        if name not in _names(document, kind)
    ]


def _references(document: Document) -> Iterator[tuple[str, str, str]]:
    """Yield who names what: the object, the kind of the other and its name."""
    for alert in document.alerts:
        where, found = f"Alert {alert.name}", alert.when.condition
        if isinstance(found, BurnRate | BudgetUsed | Forecast):
            yield where, "Budget", found.budget
        elif isinstance(found, SloBurn):
            yield where, "Slo", found.name
        elif isinstance(found, Rollback):
            yield from ((where, "Policy", name) for name in found.policies)
    for policy in document.rules:
        for rail in policy.verify.guardrails:
            if rail.slo is not None:
                yield title(policy), "Slo", rail.slo
        steps = policy.action.route.budget if policy.action.route else None
        if steps is not None and steps.budget:
            yield title(policy), "Budget", steps.budget


def _names(document: Document, kind: str) -> list[str]:
    held = {"Budget": document.budgets, "Slo": document.slos, "Policy": document.policies}[kind]
    return [one.name for one in held]


def _known(document: Document, kind: str) -> str:
    return f"; there are: {', '.join(_names(document, kind)) or 'none'}"
