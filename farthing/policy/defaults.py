"""What Route, Cache and Key documents stand for: policies that go after all others, and limits; no second mechanism.

Their names hold a slash, which no written name does: `route/chat-pool` is told on spans as `budget/NAME` is.
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from farthing.policy.actions import Action
from farthing.policy.caching import CacheAction
from farthing.policy.kinds.cache import Cache
from farthing.policy.kinds.key import DeclaredKey
from farthing.policy.kinds.limit import Limit
from farthing.policy.kinds.policy import Policy
from farthing.policy.kinds.route import Route
from farthing.policy.record import Named, Record
from farthing.policy.route import RouteAction

AFTER_ALL = -1_000_001  # one below the least priority that a Policy may have


def rules(items: Iterable[Named]) -> tuple[Policy, ...]:
    """Return the policies among `items`, and those that its routes and caches stand for."""
    found: list[Policy] = []
    for item in items:
        if isinstance(item, Policy):
            found.append(item)
        elif isinstance(item, Route):
            found.append(_default(item, Action(route=RouteAction.model_construct(**_fields(item, RouteAction)))))
        elif isinstance(item, Cache):
            found.append(_default(item, Action(cache=CacheAction.model_construct(**_fields(item, CacheAction)))))
    return tuple(found)


def limits(items: Iterable[Named]) -> tuple[Limit, ...]:
    """Return the limits among `items`, and those of the keys that it declares."""
    made = [item.limit() if isinstance(item, DeclaredKey) else item for item in items]
    return tuple(one for one in made if isinstance(one, Limit))


def title(policy: Policy) -> str:
    """Return what people call a rule: Policy cheap, or Route chat-pool."""
    kind, slash, name = policy.name.partition("/")
    return f"{kind.capitalize()} {name}" if slash else f"Policy {policy.name}"


def _default(item: Route | Cache, action: Action) -> Policy:
    name = f"{item.KIND.lower()}/{item.name}"
    return Policy.model_construct(name=name, owner=item.owner, match=item.match, action=action, priority=AFTER_ALL)


def _fields(item: Named, kind: type[Record]) -> dict[str, Any]:
    return {name: getattr(item, name) for name in kind.model_fields}
