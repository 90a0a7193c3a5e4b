"""The policy document and the decisions made from it: the same code in the proxy, the ledger and a replay."""
from farthing.policy.decide import Decision, decide
from farthing.policy.document import (
    EMPTY,
    Action,
    Budget,
    CacheAction,
    Document,
    Match,
    Policy,
    RouteAction,
    Window,
)
from farthing.policy.facts import Facts
from farthing.policy.index import CompiledDocument
from farthing.policy.key import Key

__all__ = [
    "Document",
    "EMPTY",
    "Policy",
    "Match",
    "Action",
    "RouteAction",
    "CacheAction",
    "Budget",
    "Window",
    "Key",
    "CompiledDocument",
    "Facts",
    "Decision",
    "decide",
]
