"""The one admission path in front of every route: authenticate, match policy, look into the cache, reserve, route.

A cached answer costs nothing, so it is looked up before anything is reserved: a spent budget does not refuse it.
"""
from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence

import msgspec

from farthing.errors import LedgerError, OverBudgetError
from farthing.fingerprint import prefix_hashes, request_hash
from farthing.policy.decide import decide
from farthing.prices import Price
from farthing.settings import Deployment, Settings
from proxy.api_error import ApiError
from proxy.apply import PolicyFeed
from proxy.budget_rules import refuse_dear, refuse_suspended, refuse_unapproved
from proxy.budget_watch import BudgetWatch
from proxy.caches import Caches, Ticket
from proxy.call import Call
from proxy.dispatch import Deployments, Target
from proxy.formats import Format
from proxy.gains import Gains
from proxy.http import asked_priority, deadline_s
from proxy.identity import facts_of, random_bytes, trace_context
from proxy.keys import Caller
from proxy.limits import Limiter
from proxy.offers import FLEX_TIER, Offers, day_of
from proxy.prompt_cache import breakpoints
from proxy.request import Asked
from proxy.router import Router
from proxy.spend import MAX_NUSD, Hold, Spend
from proxy.tokens import TokenControl

_WITH_FLEX = ("chat/completions", "responses")  # whose requests can ask for the flex tier


class Admitted(msgspec.Struct):
    """A request that may go on: `ticket` may hold its answer, else one of the candidates is asked."""

    form: Format
    asked: Asked
    candidates: list[Target]
    ticket: Ticket | None = None  # of the caches, where a policy asks for them

    @property
    def is_answered(self) -> bool:
        """Tell whether the caches have the answer, whole or on its way."""
        return self.ticket is not None and self.ticket.is_answered


class Admission:
    """Lets requests in, or says why not."""

    def __init__(
        self, settings: Settings, hash_key: bytes, deployments: Deployments, feed: PolicyFeed, caches: Caches,
        spend: Spend, watch: BudgetWatch, gains: Gains,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._hash_key = hash_key
        self._deployments = deployments
        self._feed = feed
        self._caches = caches
        self._spend = spend
        self.offers = Offers(settings.prices)
        self._router = Router(deployments, self.offers.asked_price, watch, gains)
        self.tokens = TokenControl()
        self.limiter = Limiter(settings.data_dir / "proxy" / "limits", settings.max_output_tokens)

    def identify(
        self, form: Format, caller: Caller, headers: Mapping[bytes, bytes], body: bytes
    ) -> tuple[Call, Asked]:
        """Read what a caller asks for.

        Raises:
            ApiError: 400 for a body that is not such a request, 403 for a model that the key may not ask for.
        """
        asked = form.read(body)
        trace_id, parent = trace_context(headers.get(b"traceparent", b"").decode("latin-1"))
        caller.check_model(asked.model)
        facts = facts_of(caller, headers, asked.model, asked.user)
        ids = random_bytes(20)
        call = Call(f"req_{ids[:12].hex()}", trace_id, ids[12:], parent, facts, form.operation)
        call.asked_model, call.is_stream, call.headers = asked.model, asked.stream, headers
        call.temperature, call.max_tokens = asked.temperature, asked.max_output
        call.limit_s = deadline_s(headers, self._settings.request_timeout_s)
        call.asked_priority = asked_priority(headers)
        return call, asked

    async def admit(self, form: Format, call: Call, asked: Asked) -> Admitted:
        """Decide, look into the cache, and reserve.

        Raises:
            ApiError: the model is unknown, the budget is spent, the price is unknown, or the ledger is away.
        """
        if not (self._feed.is_known or self._settings.serve_without_policies):
            raise _ungoverned(self._feed.last_error)
        decision = call.decision = decide(self._feed.compiled, call.facts, day_of(call), call.request_id)
        self.limiter.enter(call, asked)
        if decision.tokens is not None or decision.tokens_shadow is not None:
            asked = await self.tokens.govern(form, call, asked)
        call.request_hash = request_hash(self._hash_key, call.facts.tenant, asked.hashed)
        call.prefix_hashes = prefix_hashes(self._hash_key, call.facts.tenant, asked.turns)
        if decision.route is not None and decision.route.strategy is not None:
            call.chosen = self._router.choose(call, asked, decision, form.api)
            candidates = call.chosen.targets
        else:
            candidates = self._candidates(decision.route_to or call.asked_model, decision.fallbacks, form.api)
        candidates = _consigned(call, candidates)
        if decision.is_flex and not call.is_consigned:
            asked = self._in_flex(form, call, asked, candidates)
        self.assign(call, asked, candidates[0])
        admitted = Admitted(form, asked, candidates)
        if decision.cache is not None:
            ticket = admitted.ticket = await self._caches.look(form, call, asked)
            if ticket is not None and call.is_consigned and ticket.entry is None:
                self._caches.leave(ticket)  # who waits for its answer would wait for a day
                ticket = admitted.ticket = None
            if ticket is not None and ticket.forward:
                admitted.asked = form.read(ticket.forward)
                admitted.candidates = [one for one in candidates if one.deployment.model == ticket.model]
        if decision.budgets and not admitted.is_answered:
            await self._reserve_or_leave(call, admitted)
        return admitted

    async def _reserve_or_leave(self, call: Call, admitted: Admitted) -> None:
        """Reserve; a call that is refused must not keep those waiting who count on its answer."""
        try:
            await self._reserve(call, admitted)
        except BaseException:
            if admitted.ticket is not None:
                self._caches.leave(admitted.ticket)
            raise

    def _in_flex(self, form: Format, call: Call, asked: Asked, candidates: Sequence[Target]) -> Asked:
        """Ask for the flex tier, where each provider that may serve has a price for it and the choice was left open."""
        metered = [one.deployment for one in candidates if one.deployment.metered]
        is_open = form.path in _WITH_FLEX and asked.fields.get("service_tier") in (None, "auto")
        if not (metered and is_open and all(FLEX_TIER in self.offers.prices_of(call, one) for one in metered)):
            return asked
        return form.read(msgspec.json.encode({**asked.raw, "service_tier": FLEX_TIER}))

    def _candidates(self, model: str, fallbacks: Sequence[str], api: str) -> list[Target]:
        """Return the deployments of a model, then those of the models to fall back to, as far as they are served."""
        found = self._deployments.candidates(model, api)
        if not fallbacks:
            return found
        return found + [target for other in fallbacks for target in self._deployments.known(other, api)]

    async def reserve(self, call: Call, admitted: Admitted) -> None:
        """Reserve for a further attempt, where a budget holds the request.

        Raises:
            ApiError: it does not fit, has no price, or the ledger is away.
        """
        if call.decision is not None and call.decision.budgets:
            await self._reserve(call, admitted)

    async def _reserve(self, call: Call, admitted: Admitted) -> None:
        assert call.decision is not None
        refuse_suspended(call.decision.budgets)
        refuse_unapproved(call.decision.unapproved)
        amount = self._bound(call, admitted)
        refuse_dear(call.decision.budgets, amount)
        try:
            call.hold = await self._held(call, amount)
        except OverBudgetError as error:
            raise ApiError(
                429, "budget_exceeded", f"{error}. Ask for less (max_tokens), wait for the budget's next period, "
                f"or have it raised.", kind="insufficient_quota",
            ) from None  # fmt: skip
        except LedgerError as error:
            hard = [one for one in call.decision.budgets if one.hard and one.on_ledger_away == "refuse"]
            if hard or call.is_consigned:  # what waits for a day has to be held all the while
                raise ApiError(
                    503, "ledger_unavailable", f"a hard budget applies and its ledger is away ({error}); try again",
                    retry_after_s=1,
                ) from None  # fmt: skip
            call.hold = await self._spend.let_through(call.request_id, call.facts, amount)

    def _held(self, call: Call, amount: int) -> Coroutine[None, None, Hold | None]:
        if call.is_consigned and call.parking is not None:
            lifetime_s = call.parking.begin(call)
            return self._spend.reserve_lasting(call.request_id, call.facts, amount, lifetime_s)
        assert call.decision is not None
        return self._spend.reserve(call.request_id, call.facts, call.decision.budgets, amount)

    def _bound(self, call: Call, admitted: Admitted) -> int:
        """Return an upper bound of the bill, nano-dollars, over all deployments that may serve the call.

        Where some have a price, those without one are left out.
        """
        asked = admitted.asked
        priced: list[Target] = []
        prices: list[Price] = []
        for target in admitted.candidates:
            known = call.offer if target.deployment is call.deployment else None
            if billable := (known or self.offers.of(call, asked, target.deployment)).billable:
                priced.append(target)
                prices += billable
        admitted.candidates = priced
        if not priced:
            raise _unpriced(call)
        if not call.max_tokens:
            call.max_tokens = self._settings.max_output_tokens
        tokens = admitted.form.bound(asked, call.max_tokens)
        amount = max([price.bound_nusd(*tokens) for price in prices])
        if amount > MAX_NUSD:
            message = f"this call may cost {amount / 1e9:.0f} USD; ask for less (max_tokens)"
            raise ApiError(400, "cost_unbounded", message, param="max_tokens")
        return amount

    def body(self, call: Call, admitted: Admitted, deployment: Deployment) -> bytes:
        """Return what to send to `deployment`: the client's own bytes, changed only where something must change."""
        asked = admitted.asked
        has_budget = call.decision is not None and bool(call.decision.budgets)
        is_limited = has_budget or asked.output_limit > 0
        changes = admitted.form.changes(asked, deployment, call.max_tokens if is_limited else 0)
        cache = call.decision.cache if call.decision is not None else None
        if cache is not None and cache.prompt_ttl is not None and admitted.form.api == "anthropic":
            changes |= breakpoints(asked, cache.prompt_ttl)
        name = deployment.upstream_model or deployment.model
        if name != asked.model:
            changes["model"] = name
        return msgspec.json.encode({**asked.raw, **changes}) if changes else asked.body

    def assign(self, call: Call, asked: Asked, target: Target) -> Deployment:
        """Give a call to a deployment; until it answers, the service tier is what was asked for."""
        deployment = call.deployment = target.deployment
        offer = call.offer = self.offers.of(call, asked, deployment)
        call.service_tier, call.price = offer.tier, offer.price
        return deployment


def _consigned(call: Call, candidates: list[Target]) -> list[Target]:
    """Return who may serve a call; a line whose first choice hands lines over goes nowhere else."""
    is_cascade = call.chosen is not None and bool(call.chosen.levels)
    if call.parking is None or is_cascade or not candidates[0].deployment.provider_batches:
        return candidates
    call.is_consigned = True
    return [one for one in candidates if one.deployment.provider_batches]


def _ungoverned(why: str) -> ApiError:
    message = (
        f"this proxy has never had a policy document, so it cannot tell what budgets apply ({why}); start the control "
        "plane (`farthing policies`), set policies_url, or set serve_without_policies = true"
    )
    return ApiError(503, "no_policies", message, retry_after_s=1)


def _unpriced(call: Call) -> ApiError:
    model = call.deployment.model if call.deployment else call.asked_model
    named = f"{model!r} in the service tier {call.service_tier!r}" if call.service_tier else repr(model)
    return ApiError(
        400, "price_unknown", f"the model {named} has no price and a budget applies to this call; add "
        "[[prices]] for it in farthing.toml, or ask for a priced model",
    )  # fmt: skip
