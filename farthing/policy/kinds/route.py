"""kind: Route: how a pool of deployments is chosen from where no Policy with a route acts."""
from __future__ import annotations

from typing import ClassVar

from farthing.policy.match import Match
from farthing.policy.record import Named
from farthing.policy.route import RouteAction


class Route(RouteAction, Named):
    """The fields of a policy's `route`, beside the calls that they hold for; every Policy goes before it."""

    KIND: ClassVar[str] = "Route"
    PLURAL: ClassVar[str] = "routes"

    match: Match = Match()  # empty: all calls
