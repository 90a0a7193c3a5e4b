"""kind: Policy: which requests are treated differently, and how."""
from __future__ import annotations

from datetime import date
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from farthing.policy.actions import Action
from farthing.policy.holdout import Canary, Trial, Verify
from farthing.policy.match import Match
from farthing.policy.record import Named
from farthing.policy.when import MAX_LENGTH, compiled


def _condition(text: str) -> str:
    if text:
        compiled(text)
    return text


class Policy(Named):
    """Which requests are treated differently, and how."""

    KIND: ClassVar[str] = "Policy"
    PLURAL: ClassVar[str] = "policies"

    match: Match = Match()
    when: Annotated[str, Field(max_length=MAX_LENGTH), AfterValidator(_condition)] = ""  # CEL, beside `match`
    action: Action
    mode: Literal["shadow", "canary", "enforce"] = "enforce"
    canary: Canary = Canary()  # whom it acts on in the mode canary
    verify: Verify = Verify()
    priority: int = Field(default=0, ge=-1_000_000, le=1_000_000)  # the higher one wins
    expires: date | None = None  # last day, UTC, on which it acts

    @model_validator(mode="after")
    def _matches_what_it_can(self) -> Policy:
        """A deployment's window is shared by all who ask for it, so that only the model can choose it."""
        alone = self.match == Match(model=self.match.model) and not self.when and self.mode in ("shadow", "enforce")
        if self.action.concurrency is not None and not (alone and not self.verify.holdout):
            raise ValueError(
                "a policy of concurrency matches by `model` alone, without `when`, canary or holdout: a deployment's "
                "window is everybody's"
            )
        return self

    def trial(self) -> Trial | None:
        """Return the draw that decides on whom it acts; None where it acts on all or none."""
        if self.mode == "canary":
            return Trial(self.name, self.verify, self.canary)
        if self.mode == "enforce" and self.verify.holdout:
            return Trial(self.name, self.verify, None)
        return None
