"""The scope of a policy document's object as the warehouse's questions take it."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from farthing.policy import Match
from farthing.policy.index import Globs

_LIKE = str.maketrans({"\\": "\\\\", "%": "\\%", "_": "\\_", "*": "%", "?": "_"})


def parameters(scope: Match) -> dict[str, Any]:
    """Return what the fragment `scoped` reads."""
    return {
        "teams": _likes(scope.team), "users": _likes(scope.user), "features": _likes(scope.feature),
        "keys": _likes(scope.key), "models": _likes(scope.model),
        "tag_names": list(scope.tags), "tag_likes": [_likes(values) for values in scope.tags.values()],
    }  # fmt: skip


def holds_tenant(scope: Match, tenant: str) -> bool:
    """Tell whether a scope is about this tenant's calls; rows are asked for one tenant at a time."""
    return not scope.tenant or tenant in Globs(scope.tenant)


def _likes(patterns: Iterable[str]) -> list[str]:
    return [pattern.translate(_LIKE) for pattern in patterns]
