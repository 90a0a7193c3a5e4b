"""Token controls: what of a request is sent, decided by policy and recorded as tokens before and after.

A request that no such policy is about never comes here: its bytes go on as they are.
"""
from proxy.tokens.control import TokenControl
from proxy.tokens.cut import Cut

__all__ = ["Cut", "TokenControl"]
