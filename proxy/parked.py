"""A call that waits for a provider's batch, as a row on the disk: whichever worker has its answer ends it.

All that its span, its settlement and its answer need is in the row, nothing else of the call outlives its admission.
"""
from __future__ import annotations

from time import time_ns

import msgspec

from farthing.policy.decide import Decision, Facts
from farthing.policy.holdout import Arm
from farthing.settings import Deployment
from proxy.call import Call
from proxy.offers import BATCH_TIER
from proxy.router import Chosen
from proxy.spend import Hold
from proxy.tokens.cut import Cut


class Parked(msgspec.Struct, omit_defaults=True):
    """One line of a batch, admitted and not answered."""

    line: int  # of the input, from 1
    custom_id: str  # the caller's; the provider gets the request id
    request_id: str
    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes
    facts: Facts
    operation: str
    started_ns: int
    parked_ns: int
    asked_model: str
    body: msgspec.Raw  # as it is sent
    max_tokens: int = 0
    temperature: float | None = None
    request_hash: str = ""
    prefix_hashes: tuple[str, ...] = ()
    held: tuple[int, int] | None = None  # nano-dollars, and since when; None: no budget holds it
    version: int | None = None  # of the policies
    acted: tuple[str, ...] = ()
    shadowed: tuple[str, ...] = ()
    arms: tuple[Arm, ...] = ()
    route: tuple[str, str, tuple[str, ...]] | None = None  # strategy, reason and what it saw
    cut: Cut | None = None
    cut_shadow: Cut | None = None

    @classmethod
    def of(cls, call: Call, line: int, custom_id: str, body: bytes) -> Parked:
        """Return the row of an admitted call."""
        decision, chosen, hold = call.decision, call.chosen, call.hold
        made = cls(
            line, custom_id, call.request_id, call.trace_id, call.span_id, call.parent_span_id, call.facts,
            call.operation, call.started_ns, time_ns(), call.asked_model, msgspec.Raw(body), call.max_tokens,
            call.temperature, call.request_hash, tuple(call.prefix_hashes),
        )  # fmt: skip
        made.held = (hold.amount_nusd, hold.reserved_ns) if hold is not None else None
        if decision is not None:
            made.version, made.acted, made.shadowed = decision.version, decision.acted, decision.shadowed
            made.arms = decision.arms
        if chosen is not None:
            made.route = chosen.strategy, chosen.reason, chosen.saw
        made.cut, made.cut_shadow = call.cut, call.cut_shadow
        return made

    def call(self, deployment: Deployment | None) -> Call:
        """Return the call again, to be ended."""
        made = Call(
            self.request_id, self.trace_id, self.span_id, self.parent_span_id, self.facts, self.operation,
            self.started_ns,
        )  # fmt: skip
        made.asked_model, made.deployment, made.is_offline = self.asked_model, deployment, True
        made.max_tokens, made.temperature = self.max_tokens, self.temperature
        made.request_hash, made.prefix_hashes = self.request_hash, self.prefix_hashes
        made.service_tier, made.attempts = BATCH_TIER, 1
        made.cut, made.cut_shadow = self.cut, self.cut_shadow
        if self.held is not None:
            made.hold = Hold(self.request_id, *self.held)
        if self.version is not None:
            made.decision = Decision(None, (), None, "", (), self.acted, self.shadowed, self.version, arms=self.arms)
        if self.route is not None:
            made.chosen = Chosen(self.route[0], self.route[1], saw=self.route[2])
        made.upstream_ns = time_ns() - self.parked_ns
        return made


decode_parked = msgspec.json.Decoder(Parked).decode
