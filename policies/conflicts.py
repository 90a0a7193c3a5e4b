"""Which policies cannot stand together: nothing but their names would decide between them."""
from __future__ import annotations

from collections.abc import Iterable

from farthing.policy import Match, Policy
from farthing.policy.defaults import AFTER_ALL, title


def conflicts(policies: Iterable[Policy]) -> list[str]:
    """Return one line for each pair of policies with the same action, priority and match."""
    first: dict[object, Policy] = {}
    problems: list[str] = []
    for policy in policies:
        other = first.setdefault(_stand(policy), policy)
        if other is not policy:
            problems.append(
                f"{title(other)} and {title(policy)}: both {_what(policy)} the same requests "
                f"{_place(policy)}"
            )
    return problems


def _place(policy: Policy) -> str:
    if policy.priority == AFTER_ALL:
        return "where no Policy acts; change what one of them matches, or remove it"
    return f"at priority {policy.priority}; give one of them another priority or remove it"


def _stand(policy: Policy) -> tuple[object, ...]:
    return policy.action.verb, policy.priority, policy.when, _identity(policy.match)


def _what(policy: Policy) -> str:
    return _ACTS.get(policy.action.verb, f"set the {policy.action.verb} of")


_ACTS = {"route": "route", "cache": "cache", "tokens": "limit the tokens of", "micro_batch": "gather"}


def _identity(match: Match) -> tuple[object, ...]:
    fields = (match.tenant, match.team, match.user, match.model, match.feature, match.key)
    tags = frozenset((name, frozenset(values)) for name, values in match.tags.items())
    return (*(frozenset(names) for names in fields), tags)
