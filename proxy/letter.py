"""An embeddings call as it would be sent alone, and the batch in which it waits for others."""
from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from time import monotonic, time_ns
from typing import Any

import msgspec

from farthing.errors import UpstreamError
from farthing.policy.micro_batch import MicroBatchAction
from proxy.call import Call
from proxy.dispatch import Target
from proxy.embedding_batch import tokens_of
from proxy.upstream import NotSentError, Timeouts
from proxy.whole_response import WholeResponse

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Letter:
    """One call as it would be sent alone."""

    tenant: str
    url: str
    headers: Headers
    body: bytes
    fields: Mapping[str, Any]  # of the body
    timeouts: Timeouts
    is_repeatable: bool
    until: float  # monotonic seconds; nobody waits for the answer then

    @classmethod
    def of(cls, call: Call, target: Target, url: str, headers: Headers, body: bytes) -> Letter:
        left_s = call.limit_s - (time_ns() - call.started_ns) / 1e9
        return cls(
            call.facts.tenant, url, headers, body, msgspec.json.decode(body), target.timeouts,
            is_repeatable=not target.deployment.metered, until=monotonic() + left_s,
        )  # fmt: skip


@dataclass(eq=False)
class Waiting:
    letter: Letter
    inputs: list[Any]
    size: int
    answer: asyncio.Future[WholeResponse]

    @cached_property
    def tokens(self) -> int:
        """Estimated, for a policy that has a budget of them."""
        return tokens_of(self.inputs)

    def tell(self, answer: WholeResponse) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: UpstreamError) -> None:
        """Raise an error of its own: one that several raise would gather all of their frames."""
        if not self.answer.done():
            kind = NotSentError if isinstance(error, NotSentError) else UpstreamError
            self.answer.set_exception(kind(str(error)))


@dataclass(eq=False)
class Batch:
    calls: list[Waiting] = field(default_factory=list[Waiting])
    inputs: int = 0
    size: int = 0
    timer: asyncio.TimerHandle | None = None
    leaves_at: float = 0.0
    under_way: asyncio.Task[None] | None = None
    _tokens: int = 0
    _counted: int = 0  # calls

    def add(self, call: Waiting) -> None:
        self.calls.append(call)
        self.inputs += len(call.inputs)
        self.size += call.size

    @property
    def tokens(self) -> int:
        """Counted once a policy has a budget of them, each call once."""
        self._tokens += sum(call.tokens for call in self.calls[self._counted :])
        self._counted = len(self.calls)
        return self._tokens

    def fits(self, call: Waiting, rule: MicroBatchAction) -> bool:
        """Tell whether a call may join."""
        return (
            self.inputs + len(call.inputs) <= rule.max_inputs
            and self.size + call.size <= rule.max_bytes
            and (rule.max_tokens is None or self.tokens + call.tokens <= rule.max_tokens)
        )

    def has_enough(self, inputs: int, rule: MicroBatchAction) -> bool:
        """Tell whether it need not wait for more."""
        return (
            self.inputs >= inputs
            or self.size >= rule.max_bytes
            or (rule.max_tokens is not None and self.tokens >= rule.max_tokens)
        )

    def live(self) -> list[Waiting]:
        """Return the calls that somebody still waits for."""
        return [call for call in self.calls if not call.answer.done()]
