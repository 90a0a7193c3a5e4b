"""All caches of one worker: each policy's own levels, looked through before anything is reserved.

What a call needs of them is one `Ticket`: its answer, or where its answer is to be kept and who waits for it.
"""
from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import time
from typing import TYPE_CHECKING

from farthing.errors import UpstreamError
from farthing.policy.document import Document
from farthing.prices import Usage
from proxy.broadcast import Broadcast
from proxy.cache import Entry, Key, others, reshaped, shape_of
from proxy.cache_counts import LevelCounts
from proxy.cache_tiers import Tiers
from proxy.call import Call
from proxy.coalesce import Flights
from proxy.embedder import Embedder
from proxy.embedding_cache import Item, is_list_of_inputs
from proxy.formats import Format
from proxy.http import JSON
from proxy.http_request import Request
from proxy.request import Asked
from proxy.ticket import Kept, Ticket

if TYPE_CHECKING:  # it loads numpy, which most proxies never need
    from proxy.semantic import SemanticCounts
    from proxy.semantic_level import SemanticLevel

log = logging.getLogger(__name__)

_EMBEDDINGS, _CHAT = "embeddings", "chat/completions"  # the paths of the APIs


@dataclass(frozen=True, slots=True)
class SemanticReport:
    """One policy's semantic cache in this worker."""

    seen: SemanticCounts
    refused: dict[str, int]  # calls that were none for it, by reason
    unlearned: int  # answers that could not be learned from
    learning: int  # under way


class Caches:
    """The caches of one proxy worker."""

    def __init__(self, document: Callable[[], Document], tiers: Tiers, clock: Callable[[], float] = time) -> None:
        self._document = document  # the one in use
        self.tiers = tiers
        self.embedder: Embedder | None = None  # for the semantic caches; set once there are routes
        self._secret = tiers.secret
        self._clock = clock
        self._version = -1
        self._kept: dict[str, Kept] = {}  # by policy
        self.flights: Flights[Entry | Broadcast] = Flights()

    async def look(self, form: Format, call: Call, asked: Asked) -> Ticket | None:
        """Return the ticket of a call that a policy caches; None where its answer is no other call's.

        Waits for the answer of an identical call where the policy says so.
        """
        assert call.decision is not None and call.decision.cache is not None and call.deployment is not None
        action, model = call.decision.cache, call.deployment.model
        if not (form.is_deterministic or call.temperature == 0 or action.allow_sampled):
            return None
        shape = shape_of(asked.stream, asked.wants_usage)
        asked_hash = call.request_hash + "".join([f"\n{name}: {value}" for name, value in call.passed_on])
        key: Key = (call.facts.tenant, form.path, asked_hash, model, shape)
        ticket = Ticket(self._of(call.decision.cache_name, call.decision.version), action, key, model=model)
        if form.path == _EMBEDDINGS and action.embeddings and is_list_of_inputs(asked.fields["input"]):
            await self._plan(call, asked, ticket)
        elif action.exact:
            ticket.entry = ticket.kept.exact.get(key, action.ttl_s)
            if ticket.entry is None and self.tiers.has(action):
                await self._find_behind(ticket)
        if ticket.entry is None and action.coalesce:
            ticket.flight = self.flights.lead(ticket.key)
            if ticket.flight is None:
                await self._join(ticket)
        if not ticket.is_answered and action.semantic is not None and form.path == _CHAT:
            await self._look_alike(call, asked, ticket)
        return ticket

    def serve(self, call: Call, ticket: Ticket) -> None:
        """Say on a call that it is answered from here, and count what that saves."""
        assert ticket.entry is not None
        call.cache_hit, call.usage, call.response_id = ticket.level, ticket.entry.usage, ticket.entry.response_id
        ticket.kept.saved[ticket.level].add(call.price, call.usage)

    def count_prompt(self, call: Call) -> None:
        """Count what a provider's cache of prompts did for a call whose policy asks for it."""
        decision = call.decision
        if decision is None or decision.cache is None or decision.cache.prompt_ttl is None:
            return
        if call.usage is not None and not call.is_cache_hit and call.outcome != "refused":
            self._of(decision.cache_name, decision.version).prompts.add(call.price, call.usage)

    def prompt_surcharges(self) -> dict[str, int]:
        """Return what each policy's writes to providers' caches of prompts cost above input, nano-dollars."""
        return {name: kept.prompts.written_nusd for name, kept in self._kept.items() if kept.prompts.written_nusd}

    def keep(self, call: Call, ticket: Ticket, body: bytes, content_type: bytes) -> None:
        """Take an upstream's whole answer where it is good, and hand it to those who wait."""
        if not ticket.wants_answer or not _is_good(call, ticket.model) or call.usage is None:
            return
        usage = Usage(call.usage.input_uncached + call.saved_input_tokens) if ticket.plan is not None else call.usage
        entry = Entry(body, content_type, usage, call.response_id, self._clock())
        if ticket.keeps_whole:
            ticket.kept.exact.put(ticket.key, entry, ticket.action.max_bytes)
            self.tiers.put(ticket.key, entry, ticket.action)
        if ticket.likeness is not None and ticket.kept.semantic is not None:
            ticket.kept.semantic.learn(ticket.likeness, entry)
        self._land(ticket, entry)

    def joined(self, call: Call, ticket: Ticket, body: bytes) -> bytes:
        """Return the whole answer to a call of whose inputs the upstream was asked for some, and keep what is new.

        Raises:
            UpstreamError: the answer is not one vector for each input that was sent.
        """
        plan = ticket.plan
        if plan is None or call.outcome == "error" or (plan.is_whole and not _is_good(call, ticket.model)):
            return body
        try:
            joined = ticket.kept.inputs.join(plan, body)
        except UpstreamError:
            if plan.is_whole:
                return body
            raise
        for key, item in ticket.kept.inputs.kept(plan):
            self.tiers.put(key, item, ticket.action)
        if plan.is_whole:
            return body  # to the byte as the upstream sent it
        call.saved_input_tokens = joined.saved_tokens
        ticket.kept.saved["embedding"].add(call.price, Usage(joined.saved_tokens))
        return joined.body

    def shared(self, call: Call, ticket: Ticket, form: Format, request: Request) -> Broadcast | None:
        """Return what takes a stream that has begun, so that all who wait for the call's answer get it as it comes.

        A fallback's answer is nobody else's: then they need wait no longer, and nothing is returned.
        """
        flight = ticket.flight
        if flight is None or call.deployment is None or call.deployment.model != ticket.model:
            self.leave(ticket)
            return None
        made = Broadcast(call, form, request, ticket.within, flight.close)
        flight.share(made)
        return made

    def leave(self, ticket: Ticket) -> None:
        """End a call's part in here, however it went."""
        if ticket.flight is not None:
            flight, ticket.flight = ticket.flight, None
            flight.give_up()

    async def close(self) -> None:
        """Let go of what runs in the background."""
        for kept in self._kept.values():
            if kept.semantic is not None:
                await kept.semantic.close()
        await self.tiers.close()

    @property
    def sharing(self) -> int:
        """Calls that read a stream which others may join."""
        return sum(stream.readers for stream in self.flights.shared if isinstance(stream, Broadcast))

    def counts(self) -> list[LevelCounts]:
        """Return every level of every policy."""
        return [level for policy, kept in self._kept.items() for level in kept.counts(policy)]

    async def _find_behind(self, ticket: Ticket) -> None:
        """Look behind the memory, in each shape that can be turned into the one that is wanted."""
        *same, wants = ticket.key
        keys: list[Key] = [ticket.key, *((*same, has) for has in others(wants))]  # type: ignore[misc] # the same fields
        exact, action = ticket.kept.exact, ticket.action
        for key, entry in (await self.tiers.find(keys, Entry, action, self._clock())).items():
            exact.put(key, entry, action.max_bytes)
            if ticket.entry is None:
                ticket.entry = entry if key == ticket.key else reshaped(entry, key[1], key[-1], wants)
        ticket.kept.found_behind += ticket.entry is not None

    async def _plan(self, call: Call, asked: Asked, ticket: Ticket) -> None:
        """Find which inputs of an embeddings call are there; with all of them there it is answered."""
        inputs, action = ticket.kept.inputs, ticket.action
        inputs.max_bytes, inputs.ttl_s = action.max_bytes, action.ttl_s
        plan = inputs.plan(call.facts.tenant, ticket.model, asked.fields)
        if plan.missing and self.tiers.has(action):
            found = await self.tiers.find(plan.missing, Item, action, self._clock())
            inputs.add(found)
            plan = inputs.again(plan, call.facts.tenant, ticket.model, asked.fields) if found else plan
        ticket.plan = plan
        if not plan.missing:
            joined = inputs.join(plan)
            ticket.entry = Entry(joined.body, JSON, Usage(joined.saved_tokens), "", self._clock())
            ticket.level = "embedding"

    def semantic_counts(self) -> dict[str, SemanticReport]:
        """Return what each policy's semantic cache has seen: would-be hits, checks, alarms, and why calls missed."""
        return {
            name: SemanticReport(level.cache.counts, level.refused, level.unlearned, level.learning)
            for name, kept in self._kept.items()
            if (level := kept.semantic) is not None
        }

    async def _join(self, ticket: Ticket) -> None:
        found = await self.flights.join(ticket.key)
        if isinstance(found, Entry):
            ticket.entry, ticket.level = found, "coalesced"
        elif isinstance(found, Broadcast):
            ticket.stream, ticket.level = found, "coalesced"
        else:
            ticket.flight = found

    async def _look_alike(self, call: Call, asked: Asked, ticket: Ticket) -> None:
        """Look for requests that mean the same; whoever waits for this call's flight gets what is served."""
        assert call.decision is not None
        try:
            level = ticket.kept.semantic or await self._open_semantic(call.decision.cache_name, ticket.kept)
            if level is None:
                return
            ticket.likeness = await level.look(call, asked.fields, ticket.model, ticket.action)
        except BaseException:
            self.leave(ticket)
            raise
        served = level.served(ticket.likeness, self._clock()) if ticket.likeness is not None else None
        if served is not None:
            ticket.entry, ticket.level = reshaped(served, _CHAT, "answer", ticket.key[-1]), "semantic"
            self._land(ticket, ticket.entry)

    async def _open_semantic(self, policy: str, kept: Kept) -> SemanticLevel | None:
        """Load what the semantic cache needs, numpy above all, beside the event loop."""
        if self.embedder is None:
            return None
        try:
            levels = await asyncio.to_thread(importlib.import_module, "proxy.semantic_level")
            shelves = await asyncio.to_thread(importlib.import_module, "proxy.semantic_shelf")
        except ImportError as error:
            log.error("the semantic cache stays off: %s; pip install 'farthing[semantic]'", error)
            self.embedder = None
            return None
        if kept.semantic is None:
            disk = self.tiers.disk
            shelf = shelves.Shelf(disk, policy, self._secret) if disk is not None else None
            kept.semantic = levels.SemanticLevel(self.embedder, self._secret, shelf)
        return kept.semantic

    def _land(self, ticket: Ticket, entry: Entry | None) -> None:
        if ticket.flight is not None and entry is not None:
            flight, ticket.flight = ticket.flight, None
            flight.land(entry)

    def _of(self, policy: str, version: int) -> Kept:
        if version != self._version:
            self._forget_others(version)
        kept = self._kept.get(policy)
        if kept is None:
            kept = self._kept[policy] = Kept()
        return kept

    def _forget_others(self, version: int) -> None:
        """Let go of what policies kept that are no more."""
        caching = {policy.name for policy in self._document().rules if policy.action.cache is not None}
        self._kept = {name: kept for name, kept in self._kept.items() if name in caching}
        self._version = version


def _is_good(call: Call, model: str) -> bool:
    """Tell whether an answer may be given again: whole, of known usage, and of the model that the policy meant."""
    if call.deployment is None or call.deployment.model != model:
        return False  # a fallback answered
    return call.usage_source == "proxy" and call.is_complete and call.outcome != "error"
