"""Several embeddings requests as one, and its answer taken apart again.

Each caller's share of the usage is by the length of its inputs, whole tokens that add up to what the upstream billed.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from farthing.errors import UpstreamError
from proxy.embedding_cache import as_inputs
from proxy.formats.chunks import Reported
from proxy.tokens.count import measure


class _Datum(msgspec.Struct):
    index: int
    embedding: msgspec.Raw


class _Answer(msgspec.Struct):
    data: list[_Datum]
    model: str = ""
    usage: msgspec.Raw = msgspec.Raw(b"null")


_decode = msgspec.json.Decoder(_Answer).decode
_decode_usage = msgspec.json.Decoder(Reported | None).decode
_NOT_SHARED = frozenset(("input", "user"))  # `user` says who asks and changes no vector


def shared_fields(fields: Mapping[str, Any]) -> bytes:
    """Return what requests must have in common to be sent as one."""
    common = {name: value for name, value in fields.items() if name not in _NOT_SHARED and value is not None}
    return msgspec.json.encode(common, order="deterministic")


def whole_request(fields: Mapping[str, Any], lists: Sequence[Sequence[Any]]) -> bytes:
    """Return one request with the inputs of all; `fields` are those of any of them."""
    common = {name: value for name, value in fields.items() if name not in _NOT_SHARED}
    return msgspec.json.encode(common | {"input": [one for inputs in lists for one in inputs]})


def taken_apart(body: bytes, lists: Sequence[Sequence[Any]]) -> list[bytes]:
    """Return each caller's own answer.

    Raises:
        UpstreamError: it is not one vector for each input.
    """
    try:
        answer = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamError(f"its answer is no list of embeddings: {error}") from None
    vectors = {datum.index: datum.embedding for datum in answer.data}
    wanted = sum(map(len, lists))
    if sorted(vectors) != list(range(wanted)) or len(answer.data) != wanted:
        raise UpstreamError(f"it answered {len(answer.data)} embeddings to {wanted} inputs")
    weights = [size_of(inputs) for inputs in lists]
    tokens = _tokens(answer.usage)
    shares = [None] * len(lists) if tokens is None else split(tokens, weights)
    made: list[bytes] = []
    first = 0
    for inputs, share in zip(lists, shares, strict=True):
        data = [
            {"object": "embedding", "index": n, "embedding": vectors[first + n]} for n in range(len(inputs))
        ]
        first += len(inputs)
        usage = {} if share is None else {"usage": {"prompt_tokens": share, "total_tokens": share}}
        made.append(msgspec.json.encode({"object": "list", "data": data, "model": answer.model} | usage))
    return made


def _tokens(usage: msgspec.Raw) -> int | None:
    """Return what the upstream billed; None where it does not say, which costs nobody its vectors."""
    try:
        reported = _decode_usage(usage)
    except msgspec.DecodeError:
        return None
    return reported.prompt_tokens if reported is not None else None


def inputs_of(fields: Mapping[str, Any]) -> list[Any]:
    """Return the inputs of a request, one an entry."""
    return as_inputs(fields["input"])


def size_of(inputs: Sequence[Any]) -> int:
    """Return how much there is to embed: bytes of texts, and of tokens their number."""
    return sum(len(one.encode()) if isinstance(one, str) else len(one) for one in inputs)


def tokens_of(inputs: Sequence[Any]) -> int:
    """Return about how many tokens there are to embed."""
    return sum(measure(one).tokens if isinstance(one, str) else len(one) for one in inputs)


def split(tokens: int, weights: Sequence[int]) -> list[int]:
    """Return whole shares of `tokens` by weight that add up to them (the largest remainders get what is left)."""
    whole = sum(weights) or 1
    shares = [tokens * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(tokens * weights[i] % whole), i))
    for i in by_remainder[: tokens - sum(shares)]:
        shares[i] += 1
    return shares
