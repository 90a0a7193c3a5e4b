"""The semantic cache as a level of a policy's caches: what is looked up before a call, and learned after it.

Loaded with numpy where a policy asks for it, and not before. Learning runs behind the answer, in a bounded number of
tasks; what cannot be learned from in time is not learned from, and nothing is served that was not proved.
"""
from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from time import time
from typing import Any

import msgspec

from farthing.policy.caching import CacheAction, SemanticAction
from proxy.cache import Entry
from proxy.call import Call
from proxy.embedder import Embedder
from proxy.http import JSON
from proxy.replay import as_answer, as_events
from proxy.semantic import Lookup, Partition, Query, SemanticCache, SemanticPolicy, as_vector
from proxy.semantic_agree import Mark, normalised_mark, vector_mark
from proxy.semantic_guard import guard
from proxy.semantic_request import MAX_TEXT, split
from proxy.semantic_shelf import Shelf
from proxy.semantic_store import Reply

log = logging.getLogger(__name__)

CHAT = "chat/completions"  # the only API whose requests are compared
_LEARNERS = 64  # answers that are being learned from at once; more are not learned from
_LEARN_TIMEOUT_S = 5.0
_SAVE_S = 10.0  # seconds from a lesson to the disk
_NOT_COMPARED = ("stream", "stream_options")  # how an answer comes, and not what it says


@dataclass(frozen=True)
class Likeness:
    """What the semantic cache makes of one call, and what it takes to learn from its answer."""

    query: Query
    found: Lookup
    action: SemanticAction
    policy: SemanticPolicy
    headers: Mapping[bytes, bytes]


class SemanticLevel:
    """The semantic cache of one policy in one worker."""

    def __init__(self, embedder: Embedder, secret: bytes, shelf: Shelf | None = None) -> None:
        self.cache = SemanticCache(random.random, time)  # an answer's age outlives the process
        self._shelf = shelf
        self._ttl_s = 0.0  # for which what was learned is kept; 0 = the policy keeps nothing on the disk
        self._saved: dict[bytes, int] = {}  # partition -> its lessons as they were written
        self._saver: asyncio.Task[None] | None = None
        self._embedder = embedder
        self._secret = secret
        self._learners: set[asyncio.Task[None]] = set()
        self.refused: dict[str, int] = {}  # calls that are none for this cache, by reason
        self.unlearned = 0

    async def look(self, call: Call, fields: Mapping[str, Any], model: str, action: CacheAction) -> Likeness | None:
        """Return what is known of requests like this one; None where it is none for this cache, or has no vector."""
        rule = action.semantic
        assert rule is not None
        asked = {name: value for name, value in fields.items() if name not in _NOT_COMPARED}
        # Vectors of other embedders are others, and so are answers to other betas of the API.
        scope = f"{call.facts.tenant}\0{rule.embedder}\0{rule.agree}" + "".join(map(str, call.passed_on))
        parts = split(asked, scope, model, self._secret, action.allow_sampled)
        if isinstance(parts, str):
            self.refused[parts] = self.refused.get(parts, 0) + 1
            return None
        timeout_s = rule.embed_timeout_s
        vectors = await self._embedder.embed(rule.embedder, [parts.text], call.headers, timeout_s, as_vector)
        if vectors is None:
            self.refused["embedder"] = self.refused.get("embedder", 0) + 1
            return None
        query = Query(parts.partition, vectors[0], guard(parts.text, self._secret), parts.body)
        policy = _policy(rule, action.ttl_s)
        self.cache.max_bytes = rule.max_bytes
        self._ttl_s = action.ttl_s if action.disk else 0.0
        if self._ttl_s and not self.cache.knows(query.partition):
            await self._recall(query.partition, policy)
        found = self.cache.lookup(query, policy)
        call.semantic = (found.kind, found.reason, round(found.similarity, 4))
        return Likeness(query, found, rule, policy, call.headers)

    def served(self, likeness: Likeness, now: float) -> Entry | None:
        """Return the answer to give, where there is one that may be given."""
        if likeness.found.kind != "hit":
            return None
        reply = likeness.found.reply
        return Entry(reply.body, JSON, reply.usage, reply.response_id, now)

    def learn(self, likeness: Likeness, entry: Entry) -> None:
        """Hold an upstream's answer against the one that was kept, and keep it; returns at once."""
        if len(self._learners) >= _LEARNERS:
            self.unlearned += 1
            return
        task = asyncio.create_task(self._learn(likeness, entry))
        self._learners.add(task)
        task.add_done_callback(self._learners.discard)

    @property
    def learning(self) -> int:
        """Answers that are being learned from."""
        return len(self._learners)

    async def close(self) -> None:
        tasks = [*self._learners, *([self._saver] if self._saver else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._save()

    async def _recall(self, key: bytes, policy: SemanticPolicy) -> None:
        """Take what was learned of a partition before this worker met it."""
        partition = Partition(policy)
        if self._shelf is not None and await self._shelf.fill(key, partition, policy.max_entries):
            self.cache.adopt(key, partition)

    async def _save_later(self) -> None:
        await asyncio.sleep(_SAVE_S)
        self._saver = None
        await self._save()

    async def _save(self) -> None:
        """Write every partition that has learned since it was written."""
        if self._shelf is None or not self._ttl_s:
            return
        partitions = self.cache.partitions()
        self._saved = {key: self._saved.get(key, 0) for key, _ in partitions}  # of those that are gone nothing
        for key, partition in partitions:
            if (lessons := partition.lessons) != self._saved[key]:
                await self._shelf.keep(key, partition, self._ttl_s)
                self._saved[key] = lessons

    async def _learn(self, likeness: Likeness, entry: Entry) -> None:
        body = entry.body if entry.content_type.startswith(JSON) else as_answer(CHAT, entry.body, entry.usage)
        text = _text_of(body)
        mark = await self._mark(text, likeness) if text else None
        if body is None or mark is None or as_events(CHAT, body, wants_usage=True) is None:
            self.unlearned += 1
            return
        reply = Reply(body, mark, JSON, entry.usage, entry.response_id)
        self.cache.observe(likeness.query, likeness.found, reply, likeness.policy)
        if self._saver is None and self._shelf is not None and self._ttl_s:
            self._saver = asyncio.create_task(self._save_later())

    async def _mark(self, text: str, likeness: Likeness) -> Mark | None:
        """Return what an answer is compared by; a long one's meaning is beyond the encoder, its words are not."""
        rule = likeness.action
        if rule.agree == "words" or len(text) > MAX_TEXT:
            return normalised_mark(text, self._secret)
        vectors = await self._embedder.embed(rule.embedder, [text], likeness.headers, _LEARN_TIMEOUT_S, as_vector)
        return None if vectors is None else vector_mark(text, vectors[0], self._secret)


def _policy(rule: SemanticAction, ttl_s: float) -> SemanticPolicy:
    return SemanticPolicy(
        serve=rule.serve, delta=rule.delta, confidence=rule.confidence, floor=rule.floor,
        verify_share=rule.verify_share, ttl_s=ttl_s, max_entries=rule.max_entries, max_bodies=rule.max_bodies,
        alarm_checks=rule.alarm_checks,
    )  # fmt: skip


def _text_of(body: bytes | None) -> str:
    """Return the text of an answer with nothing beside it, else nothing."""
    try:
        (choice,) = msgspec.json.decode(body or b"")["choices"]
        message = choice["message"]
        content = message["content"]
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return ""
    is_plain = choice.get("finish_reason") == "stop" and not message.get("tool_calls") and not message.get("refusal")
    return content if is_plain and isinstance(content, str) else ""
