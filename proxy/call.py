"""One call through the proxy, from its first byte to its settlement; every stage fills in what it learned."""
from __future__ import annotations

from collections.abc import Mapping
from time import time_ns
from typing import TYPE_CHECKING

import msgspec

from farthing.policy.decide import Decision, Facts
from farthing.prices import Price, Usage
from farthing.settings import Deployment
from proxy.identity import random_bytes
from proxy.spend import Hold

if TYPE_CHECKING:
    from proxy.gatherer import Parking
    from proxy.limits import Taken
    from proxy.offers import Offer
    from proxy.place import Place
    from proxy.router import Chosen
    from proxy.tokens.cut import Cut


class Call(msgspec.Struct):
    """The state of one call; `outcome` is ok, error, aborted or refused."""

    request_id: str
    trace_id: bytes  # [16]
    span_id: bytes  # [8]
    parent_span_id: bytes  # [8], or empty
    facts: Facts
    operation: str = "chat"  # gen_ai.operation.name
    started_ns: int = msgspec.field(default_factory=time_ns)
    ended_ns: int = 0
    asked_model: str = ""
    deployment: Deployment | None = None
    decision: Decision | None = None
    price: Price | None = None
    offer: Offer | None = None  # of the deployment, for what is asked for
    is_stream: bool = False
    taken: Taken | None = None  # of limits
    is_offline: bool = False  # a line of a batch
    parking: Parking | None = None  # where it may wait for a batch of its provider's
    is_consigned: bool = False  # it is to go to its provider in such a batch
    is_parked: bool = False  # and is on the disk: whoever has its answer ends it
    temperature: float | None = None
    max_tokens: int = 0
    request_hash: str = ""
    prefix_hashes: tuple[str, ...] = ()
    hold: Hold | None = None  # what is set aside for it
    settled_nusd: int | None = None
    usage: Usage | None = None
    reasoning_tokens: int = 0
    service_tier: str = ""  # what was served, else what was asked for; '' = the standard one
    usage_source: str = ""  # provider | proxy | estimate | missing
    cache_hit: str = ""  # the level that answered: exact | coalesced | embedding | semantic; '' = the upstream did
    semantic: tuple[str, str, float] | None = None  # what the semantic cache made of it, why, and the similarity
    batch_calls: int = 1  # calls that were sent to the upstream as one
    saved_input_tokens: int = 0  # of inputs that the upstream was not asked for, in a call that it answered in part
    is_begun: bool = False  # the answer's head has left for the client, so no other answer can be given
    is_complete: bool = False  # the answer says of itself that nothing of it is missing
    is_delivered: bool = False  # all of the answer has left: a client that goes now has not given up
    first_byte_ns: int = 0  # when the first content left for the client
    upstream_ns: int = 0  # nanoseconds spent waiting for the upstream
    engine_s: float | None = None
    engine_queue_s: float | None = None
    response_id: str = ""
    finish_reason: str = ""
    headers: Mapping[bytes, bytes] = {}  # as the client sent them
    cut: Cut | None = None  # what a policy cut from the request
    cut_shadow: Cut | None = None  # what a policy in shadow mode would have cut
    passed_on: tuple[tuple[str, str], ...] = ()  # the client's headers that its upstream is to see
    limit_s: float = 0.0  # how long the call may take in all
    asked_priority: int | None = None  # what its header asks for
    priority: int | None = None  # what it waited with, where it had to wait
    waited_s: float = 0.0  # for a place at its deployment
    is_waiting: bool = False  # for a place, or for the next attempt: no upstream works on it
    chosen: Chosen | None = None  # what a routing strategy decided, where one did
    place: Place | None = None  # that it holds at its deployment
    attempt_of: str = ""  # the request id of the first attempt, of a further one that is paid by itself
    discarded: str = ""  # why its answer was not given to the client: hedge | cascade
    quality: float | None = None  # of its answer, as a cascade judged it
    attempts: int = 0  # upstream requests made
    status: int = 200
    outcome: str = "ok"
    error_type: str = ""

    @property
    def held_nusd(self) -> int:
        return self.hold.amount_nusd if self.hold is not None and not self.hold.is_unheld else 0

    @property
    def is_cache_hit(self) -> bool:
        return bool(self.cache_hit)

    def fail(self, outcome: str, error_type: str, status: int) -> None:
        """Say how the call ended other than well; what was said first stands."""
        if self.outcome == "ok":
            self.outcome, self.error_type, self.status = outcome, error_type, status

    def again(self) -> Call:
        """Return a further attempt at the same request: a call of its own, that is reserved and paid by itself."""
        now = time_ns()
        made = Call(
            f"req_{random_bytes(12).hex()}", self.trace_id, random_bytes(8), self.parent_span_id, self.facts,
            self.operation, now,
        )  # fmt: skip
        for name in _OF_THE_REQUEST:
            setattr(made, name, getattr(self, name))
        made.limit_s = self.limit_s - (now - self.started_ns) / 1e9
        made.attempt_of = self.attempt_of or self.request_id
        return made

    def swap(self, other: Call) -> None:
        """Change places with another attempt, so that whoever holds this one holds the one that goes on.

        What was taken of limits was taken once for all attempts, and stays with the one that goes on.
        """
        for name in self.__struct_fields__:
            if name == "taken":
                continue
            mine = getattr(self, name)
            setattr(self, name, getattr(other, name))
            setattr(other, name, mine)

    def cost_nusd(self) -> int | None:
        """Return what the call costs, nano-dollars; None = the price or the usage is unknown."""
        if self.is_cache_hit or self.outcome == "refused":
            return 0
        if self.price is None or self.usage is None:
            return None
        return self.price.cost_nusd(self.usage)


# What all attempts at one request have in common
_OF_THE_REQUEST = (
    "asked_model", "decision", "is_stream", "is_offline", "temperature", "max_tokens", "request_hash",
    "prefix_hashes", "headers", "cut", "cut_shadow", "passed_on", "asked_priority", "chosen",
)  # fmt: skip
