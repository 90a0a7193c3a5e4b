"""The embedding cache: each input of a request on its own, so that a request is sent on with what is new in it alone.

A key covers the tenant, the served model and every field but the input, so two requests share a vector only where the
upstream would have given both the same one. The answer is put together in the order asked; its usage is what the
upstream billed, and what the cached inputs would have cost is told apart from it.
"""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from time import time
from typing import Any

import msgspec
from msgspec import Raw, Struct

from farthing.errors import UpstreamError

ENTRY_BYTES = 360  # of Python objects an entry, beside its vector (measured)

_SAME_ANSWER = frozenset(("model", "input", "user"))  # not in the key as fields: the served model is, and each input


class _Datum(Struct):
    index: int
    embedding: Raw


class _Usage(Struct):
    prompt_tokens: int = 0
    total_tokens: int = 0


class _Answer(Struct):
    data: list[_Datum]
    model: str = ""
    usage: _Usage | None = None


_answers = msgspec.json.Decoder(_Answer)


@dataclass(frozen=True)
class Item:
    """The vector of one input."""

    embedding: bytes  # JSON as the upstream sent it: a list of numbers, or base64 in quotes
    tokens: float  # what the upstream billed for it; of a request with several inputs, its share by length
    model: str  # as the upstream calls itself
    stored_at: float  # epoch seconds


@dataclass(frozen=True)
class Plan:
    """What of a request is there already."""

    keys: tuple[bytes, ...]  # one an input
    found: dict[bytes, Item]
    missing: tuple[bytes, ...]  # keys to ask the upstream for, each once, in the order of `forward`
    lengths: tuple[int, ...]  # of the missing inputs, in characters or tokens
    forward: bytes  # the body to send on; empty where nothing is missing

    @property
    def is_whole(self) -> bool:
        """Tell whether the upstream is asked for all that the client asked for, so that its answer needs no joining."""
        return len(self.missing) == len(self.keys)

    @property
    def hits(self) -> int:
        """Inputs that need no upstream; one that is there twice in the request counts as found once it was asked."""
        return len(self.keys) - len(self.missing)


@dataclass(frozen=True)
class Joined:
    """The whole answer and what it cost."""

    body: bytes
    billed_tokens: int
    saved_tokens: int


class EmbeddingCache:
    """Vectors of one proxy worker; bounded in bytes, the least recently used one goes first."""

    def __init__(self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time) -> None:
        self.max_bytes = max_bytes  # this and the TTL may change while it runs
        self.ttl_s = ttl_s
        self.bytes = self.hits = self.misses = self.evictions = self.saved_tokens = 0
        self._clock = clock
        self._items: OrderedDict[bytes, Item] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def plan(self, tenant: str, served_model: str, request: dict[str, Any]) -> Plan:
        """Return what of `request`, OpenAI's body as read, is there and what has to be asked for."""
        inputs = as_inputs(request["input"])
        scope = _scope(tenant, served_model, request)
        keys = tuple(_key(scope, one) for one in inputs)
        found = {key: item for key in dict.fromkeys(keys) if (item := self._get(key)) is not None}
        asked = {key: one for key, one in zip(keys, inputs, strict=True) if key not in found}
        self.hits += len(keys) - len(asked)
        self.misses += len(asked)
        forward = msgspec.json.encode(request | {"input": list(asked.values())}) if asked else b""
        return Plan(keys, found, tuple(asked), tuple(len(one) for one in asked.values()), forward)

    def again(self, plan: Plan, tenant: str, served_model: str, request: dict[str, Any]) -> Plan:
        """Return the plan of the same request after more was added; it is still one look-up."""
        self.hits -= plan.hits
        self.misses -= len(plan.missing)
        return self.plan(tenant, served_model, request)

    def join(self, plan: Plan, answered: bytes = b"") -> Joined:
        """Keep what the upstream answered to `plan.forward`, and return the answer to the whole request.

        Raises:
            UpstreamError: the answer is not one vector for each input that was sent.
        """
        fresh, usage, model = _read(plan, answered) if plan.missing else ({}, _Usage(), "")
        vectors = plan.found | self._keep(plan, fresh, usage, model)
        data = b",".join(
            b'{"object":"embedding","index":%d,"embedding":%b}' % (i, vectors[key].embedding)
            for i, key in enumerate(plan.keys)
        )
        head = msgspec.json.encode({"model": vectors[plan.keys[0]].model, "usage": usage})
        counted = [vectors[key].tokens for key in plan.keys]
        saved = max(0, round(sum(counted) - sum(vectors[key].tokens for key in plan.missing)))
        self.saved_tokens += saved
        return Joined(b'{"object":"list","data":[' + data + b"]," + head[1:], usage.prompt_tokens, saved)

    def kept(self, plan: Plan) -> list[tuple[bytes, Item]]:
        """Return what of `plan` an upstream has answered and is kept."""
        return [(key, item) for key in plan.missing if (item := self._items.get(key)) is not None]

    def add(self, items: Mapping[bytes, Item]) -> None:
        """Keep what was found elsewhere."""
        for key, item in items.items():
            self._put(key, item)

    def _keep(self, plan: Plan, fresh: dict[bytes, bytes], usage: _Usage, model: str) -> dict[bytes, Item]:
        whole = sum(plan.lengths) or 1
        made: dict[bytes, Item] = {}
        for (key, embedding), length in zip(fresh.items(), plan.lengths, strict=True):
            made[key] = Item(embedding, usage.prompt_tokens * length / whole, model, self._clock())
            if usage.prompt_tokens:  # else nobody could say what a hit saves
                self._put(key, made[key])
        return made

    def _get(self, key: bytes) -> Item | None:
        item = self._items.get(key)
        if item is not None and self._clock() - item.stored_at > self.ttl_s:
            self._drop(key)
            item = None
        if item is not None:
            self._items.move_to_end(key)
        return item

    def _put(self, key: bytes, item: Item) -> None:
        if key in self._items:
            self._drop(key)
        if len(item.embedding) + ENTRY_BYTES > self.max_bytes:
            return
        self._items[key] = item
        self.bytes += len(item.embedding) + ENTRY_BYTES
        while self.bytes > self.max_bytes:
            self._drop(next(iter(self._items)))
            self.evictions += 1

    def _drop(self, key: bytes) -> None:
        self.bytes -= len(self._items.pop(key).embedding) + ENTRY_BYTES


def is_list_of_inputs(value: Any) -> bool:
    """Tell whether each input can be told from the others; what is not is the upstream's to refuse."""
    return all(isinstance(one, str | list) and one for one in as_inputs(value))


def as_inputs(value: Any) -> list[Any]:
    """Return the inputs of a request, one an entry: a string, or a list of tokens."""
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int)):
        return [value]
    return list(value)


def _scope(tenant: str, served_model: str, request: dict[str, Any]) -> bytes:
    """Return what all inputs of a request share of their keys."""
    fields = {name: value for name, value in request.items() if name not in _SAME_ANSWER and value is not None}
    if fields.get("encoding_format") == "float":
        del fields["encoding_format"]  # the default
    return msgspec.json.encode([tenant, served_model, fields], order="deterministic")


def _key(scope: bytes, one: Any) -> bytes:
    return blake2b(scope + b"\0" + msgspec.json.encode(one), digest_size=16).digest()


def _read(plan: Plan, answered: bytes) -> tuple[dict[bytes, bytes], _Usage, str]:
    """Return the vector of each missing key, and what the upstream says of itself."""
    try:
        answer = _answers.decode(answered)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamError(f"its answer is no list of embeddings: {error}") from None
    by_index = {datum.index: bytes(datum.embedding) for datum in answer.data}
    if sorted(by_index) != list(range(len(plan.missing))) or len(answer.data) != len(plan.missing):
        raise UpstreamError(f"it answered {len(answer.data)} embeddings to {len(plan.missing)} inputs")
    fresh = {key: by_index[i] for i, key in enumerate(plan.missing)}
    return fresh, answer.usage or _Usage(), answer.model
