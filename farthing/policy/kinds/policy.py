"""kind: Policy: which requests are treated differently, and how."""
from __future__ import annotations

from datetime import date
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from farthing.policy.actions import Action
from farthing.policy.match import Match
from farthing.policy.record import Named


class Policy(Named):
    """Which requests are treated differently, and how."""

    KIND: ClassVar[str] = "Policy"
    PLURAL: ClassVar[str] = "policies"

    match: Match = Match()
    action: Action
    mode: Literal["shadow", "enforce"] = "enforce"
    priority: int = Field(default=0, ge=-1_000_000, le=1_000_000)  # the higher one wins
    expires: date | None = None  # last day, UTC, on which it acts

    @model_validator(mode="after")
    def _matches_what_it_can(self) -> Policy:
        """A deployment's window is shared by all who ask for it, so that only the model can choose it."""
        if self.action.concurrency is not None and self.match != Match(model=self.match.model):
            raise ValueError("a policy of concurrency matches by `model` alone: a deployment's window is everybody's")
        return self
