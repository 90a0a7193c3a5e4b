"""The one admission path in front of every route: authenticate, match policy, look into the cache, reserve, route.

A cached answer costs nothing, so it is looked up before anything is reserved: a spent budget does not refuse it.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timezone

import msgspec

from farthing import semconv
from farthing.errors import LedgerError, OverBudgetError
from farthing.fingerprint import prefix_hashes, request_hash
from farthing.policy.decide import decide
from farthing.prices import Price, PriceBook
from farthing.settings import Deployment, Settings
from proxy.api_error import ApiError
from proxy.apply import PolicyFeed
from proxy.bound import bound_tokens
from proxy.cache import Entry, ExactCache, Key
from proxy.call import Call
from proxy.dispatch import Deployments
from proxy.identity import Keys, random_bytes, trace_context
from proxy.request import Asked, read_request
from proxy.spend import MAX_NUSD, Spend

_OPENAI = ("openai", "azure.ai.openai")  # their newer models refuse max_tokens
_WITH_USAGE = {"include_usage": True}


@dataclass(slots=True)
class Admitted:
    """A request that may go on: `cached` holds its answer, else one of the candidates is asked."""

    asked: Asked
    candidates: list[Deployment]
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

    def identify(self, headers: Mapping[bytes, bytes], body: bytes) -> tuple[Call, Asked]:
        """Read who asks for what.

        Raises:
            ApiError: 400 for a body that is not a chat request, 401 for a wrong key.
        """
        asked = read_request(body)
        chat = asked.chat
        trace_id, parent = trace_context(headers.get(b"traceparent", b"").decode("latin-1"))
        facts = self._keys.facts(headers, chat.model, chat.user or "")
        call = Call(f"req_{random_bytes(12).hex()}", trace_id, random_bytes(8), parent, facts, asked_model=chat.model)
        call.is_stream, call.temperature, call.max_tokens = bool(chat.stream), chat.temperature, chat.max_output
        return call, asked

    async def admit(self, call: Call, asked: Asked) -> Admitted:
        """Decide, look into the cache, and reserve.

        Raises:
            ApiError: the model is unknown, the budget is spent, the price is unknown, or the ledger is away.
        """
        decision = call.decision = decide(self._feed.compiled, call.facts, _day(call))
        candidates = self._deployments.candidates(decision.route_to or call.asked_model)
        call.deployment = candidates[0]
        call.price = self.price(call, candidates[0])
        call.request_hash = request_hash(self._hash_key, call.facts.tenant, asked.fields)
        call.prefix_hashes = prefix_hashes(self._hash_key, call.facts.tenant, asked.chat.messages)
        admitted = Admitted(asked, candidates)
        if decision.cache is not None and (call.temperature == 0 or decision.cache.allow_sampled):
            served, wants_usage = candidates[0].model, asked.chat.wants_usage
            admitted.cache_key = (call.facts.tenant, call.request_hash, served, call.is_stream, wants_usage)
            admitted.cached = self._cache.get(admitted.cache_key, decision.cache.ttl_s)
        if admitted.cached is None and decision.budgets:
            await self._reserve(call, admitted)
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
        tokens = bound_tokens(admitted.asked, call.max_tokens)
        amount = max(price.bound_nusd(*tokens) for price in prices if price is not None)
        if amount > MAX_NUSD:
            message = f"this call may cost {amount / 1e9:.0f} USD; ask for less (max_tokens)"
            raise ApiError(400, "cost_unbounded", message, param="max_tokens")
        return amount

    def body(self, call: Call, asked: Asked, deployment: Deployment) -> bytes:
        """Return what to send to `deployment`: the client's own bytes, changed only where something must change."""
        chat, changes = asked.chat, _limits(call, asked, deployment)
        name = deployment.upstream_model or deployment.model
        if name != chat.model:
            changes["model"] = name
        if chat.stream and not chat.wants_usage:
            changes["stream_options"] = {**(chat.stream_options or {}), **_WITH_USAGE}
        return msgspec.json.encode({**asked.raw, **changes}) if changes else asked.body

    def price(self, call: Call, deployment: Deployment) -> Price | None:
        """Return what a deployment charges on the day of the call, whatever its answers call themselves."""
        key = (deployment.provider, deployment.model, _day(call))
        if key not in self._prices:
            self._prices[key] = self._book.at(*key)
        return self._prices[key]


def _limits(call: Call, asked: Asked, deployment: Deployment) -> dict[str, object]:
    """Return the limit of output tokens that the hold stands on, where the upstream might not know it as it came."""
    if call.decision is None or not call.decision.budgets or asked.chat.max_tokens:
        return {}
    if deployment.provider in (*_OPENAI, semconv.SELF_HOSTED_PROVIDER):  # these honour both names
        field = "max_completion_tokens" if deployment.provider in _OPENAI else "max_tokens"
        return {} if asked.chat.max_completion_tokens else {field: call.max_tokens}
    return {"max_tokens": call.max_tokens}  # a compatible server may know this name only


def _day(call: Call) -> date:
    return datetime.fromtimestamp(call.started_ns // 1_000_000_000, timezone.utc).date()
