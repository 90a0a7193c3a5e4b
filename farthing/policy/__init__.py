"""The policy document and the decisions made from it: the same code in the proxy, the ledger and a replay."""
from farthing.policy.actions import Action, CacheAction
from farthing.policy.decide import Decision, decide
from farthing.policy.document import EMPTY, Document
from farthing.policy.facts import Facts
from farthing.policy.holdout import Arm
from farthing.policy.index import CompiledDocument
from farthing.policy.key import Key
from farthing.policy.kinds import KINDS
from farthing.policy.kinds.budget import Budget, Window
from farthing.policy.kinds.policy import Policy
from farthing.policy.match import Match
from farthing.policy.record import Named
from farthing.policy.route import RouteAction

__all__ = [
    "Document",
    "EMPTY",
    "KINDS",
    "Named",
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
    "Arm",
    "decide",
]
