"""The one admission path in front of every route: authenticate, match policy, look into the cache, reserve, route.

A cached answer costs nothing, so it is looked up before anything is reserved: a spent budget does not refuse it.
"""
from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Any

import msgspec

from farthing.errors import LedgerError, OverBudgetError
from farthing.fingerprint import prefix_hashes, request_hash
from farthing.policy.decide import decide
from farthing.prices import Price, PriceBook
from farthing.settings import Deployment, Settings
from proxy.api_error import ApiError
from proxy.apply import PolicyFeed
from proxy.cache import Entry, ExactCache, Key
from proxy.call import Call
from proxy.dispatch import Deployments
from proxy.identity import Keys, trace_context
from proxy.spend import Spend

# Tokens that a chat template may add to a request beyond the bytes of its JSON: a default system prompt, say.
_TEMPLATE_TOKENS = 128


class ChatRequest(msgspec.Struct):
    """What the proxy reads of a chat completion request; everything else passes through as it is."""

    model: str
    messages: list[Any]
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    temperature: float | None = None
    user: str = ""

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.get("include_usage"))


_decode = msgspec.json.Decoder(ChatRequest).decode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(slots=True)
class Admitted:
    """A request that may go on: `cached` holds its answer, or `body` is what to send upstream."""

    request: ChatRequest
    candidates: list[Deployment]
    body: bytes
    cache_key: Key | None = None  # where an answer is to be kept
    cached: Entry | None = None


class Admission:
    """Lets requests in, or says why not."""

    def __init__(
        self, settings: Settings, hash_key: bytes, deployments: Deployments, feed: PolicyFeed, cache: ExactCache,
        spend: Spend,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._hash_key = hash_key
        self._deployments = deployments
        self._feed = feed
        self._cache = cache
        self._spend = spend
        self._keys = Keys(settings)
        self._book = PriceBook(settings.prices)
        self._prices: dict[tuple[str, str, date], Price | None] = {}

    def identify(self, headers: Mapping[bytes, bytes], body: bytes) -> tuple[Call, ChatRequest]:
        """Read who asks for what.

        Raises:
            ApiError: 400 for a body that is not a chat request, 401 for a wrong key.
        """
        request = _parsed(body)
        trace_id, parent = trace_context(headers.get(b"traceparent", b"").decode("latin-1"))
        facts = self._keys.facts(headers, request.model, request.user)
        call = Call(f"req_{os.urandom(12).hex()}", trace_id, os.urandom(8), parent, facts, asked_model=request.model)
        call.is_stream, call.temperature = request.stream, request.temperature
        call.max_tokens = request.max_completion_tokens or request.max_tokens or 0
        return call, request

    async def admit(self, call: Call, request: ChatRequest, body: bytes) -> Admitted:
        """Decide, look into the cache, and reserve.

        Raises:
            ApiError: the model is unknown, the budget is spent, the price is unknown, or the ledger is away.
        """
        decision = call.decision = decide(self._feed.compiled, call.facts, _day(call))
        candidates = self._deployments.candidates(decision.route_to or request.model)
        call.deployment = candidates[0]
        call.price = self.price(call, candidates[0])
        call.request_hash = request_hash(self._hash_key, call.facts.tenant, _decode_object(body))
        call.prefix_hashes = prefix_hashes(self._hash_key, call.facts.tenant, request.messages)
        admitted = Admitted(request, candidates, body)
        if decision.cache is not None and (request.temperature == 0 or decision.cache.allow_sampled):
            served = candidates[0].model
            admitted.cache_key = (call.facts.tenant, call.request_hash, served, request.stream, request.wants_usage)
            admitted.cached = self._cache.get(admitted.cache_key, decision.cache.ttl_s)
        if admitted.cached is None:
            if decision.budgets:
                await self._reserve(call, admitted)
            admitted.body = self._upstream_body(call, admitted)
        return admitted

    async def _reserve(self, call: Call, admitted: Admitted) -> None:
        assert call.decision is not None
        amount = self._bound(call, admitted)
        try:
            call.is_reserved = await self._spend.reserve(call.request_id, call.facts, amount)
        except OverBudgetError as error:
            raise ApiError(
                429, "budget_exceeded", f"{error}. Ask for less (max_tokens), wait for the budget's next period, "
                f"or have it raised.", kind="insufficient_quota",
            ) from None  # fmt: skip
        except LedgerError as error:
            if any(budget.hard and budget.on_ledger_away == "refuse" for budget in call.decision.budgets):
                raise ApiError(
                    503, "ledger_unavailable", f"a hard budget applies and its ledger is away ({error}); try again",
                    retry_after_s=1,
                ) from None  # fmt: skip
        call.held_nusd = amount if call.is_reserved else 0

    def _bound(self, call: Call, admitted: Admitted) -> int:
        """Return an upper bound of the bill, nano-dollars, over all deployments that may serve the call."""
        prices = [self.price(call, deployment) for deployment in admitted.candidates]
        if any(price is None for price in prices):
            model = call.deployment.model if call.deployment else call.asked_model
            raise ApiError(
                400, "price_unknown", f"the model {model!r} has no price and a budget applies to this call; add "
                "[[prices]] for it in farthing.toml, or ask for a priced model",
            )  # fmt: skip
        if not call.max_tokens:
            call.max_tokens = self._settings.max_output_tokens
        outputs = max(1, admitted.request.n or 1) * call.max_tokens
        inputs = len(admitted.body) + _TEMPLATE_TOKENS  # a token is at least one byte
        return max(price.bound_nusd(inputs, outputs) for price in prices if price is not None)

    def _upstream_body(self, call: Call, admitted: Admitted) -> bytes:
        """Return the client's own bytes, changed only where something must change."""
        request, deployment = admitted.request, admitted.candidates[0]
        changes: dict[str, msgspec.Raw] = {}
        name = deployment.upstream_model or deployment.model
        if name != request.model:
            changes["model"] = msgspec.Raw(msgspec.json.encode(name))
        if call.max_tokens and not (request.max_tokens or request.max_completion_tokens):
            field = "max_completion_tokens" if deployment.provider == "openai" else "max_tokens"
            changes[field] = msgspec.Raw(b"%d" % call.max_tokens)
        if request.stream and not request.wants_usage:
            options = {**(request.stream_options or {}), "include_usage": True}
            changes["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
        if not changes:
            return admitted.body
        return msgspec.json.encode({**_decode_raw(admitted.body), **changes})

    def price(self, call: Call, deployment: Deployment) -> Price | None:
        """Return what a deployment charges on the day of the call, whatever its answers call themselves."""
        key = (deployment.provider, deployment.model, _day(call))
        if key not in self._prices:
            self._prices[key] = self._book.at(*key)
        return self._prices[key]


def _day(call: Call) -> date:
    return datetime.fromtimestamp(call.started_ns // 1_000_000_000, timezone.utc).date()


def _parsed(body: bytes) -> ChatRequest:
    try:
        request = _decode(body)
    except msgspec.ValidationError as error:
        raise ApiError(400, "invalid_request", f"the request is not a chat completion: {error}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise ApiError(400, "invalid_json", f"the body is not JSON: {error}") from None
    if not request.messages:
        raise ApiError(400, "invalid_request", "`messages` is empty; send at least one message", param="messages")
    limit = request.max_completion_tokens or request.max_tokens
    if limit is not None and limit < 1:
        raise ApiError(400, "invalid_request", f"max_tokens is {limit}; it must be 1 or more", param="max_tokens")
    if request.n is not None and not 1 <= request.n <= 128:
        raise ApiError(400, "invalid_request", f"n is {request.n}; it must be from 1 to 128", param="n")
    return request
