"""The most tokens that a request can be billed for, or why nobody can say before it has been answered.

A token is at least one byte of the request, so bytes bound the input; what an upstream fetches or prices by another
rule is bounded by a constant or, where there is none, refused on calls that a budget governs.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from proxy.api_error import ApiError
from proxy.request import Asked

# Tokens that a chat template may add to a request beyond the bytes of its JSON: a default system prompt, say.
TEMPLATE_TOKENS = 128
# The dearest published rule, gpt-4o-mini in OpenAI's guide to images: 2,833 + 5,667 for each 512-pixel tile, 8 at most.
IMAGE_TOKENS = 50_000


def refuse_unpriced(asked: Asked, within_price: Mapping[str, tuple[object, ...]]) -> None:
    """Refuse a field with a value that a call's tokens do not pay for; `within_price` has those that they do.

    Raises:
        ApiError: 400.
    """
    if within_price.keys().isdisjoint(asked.fields):
        return
    for name, allowed in within_price.items():
        if name in asked.fields and asked.fields[name] not in allowed:
            raise unbounded(f"`{name}` changes what a call costs", name)


def input_bound(asked: Asked, images: Iterable[int], more: int = TEMPLATE_TOKENS) -> int:
    """Return the most input tokens of a request; `images` has the bytes that each of its images takes up."""
    sizes = list(images)
    return len(asked.body) - sum(sizes) + len(sizes) * IMAGE_TOKENS + more


def parts_of(content: Any, where: str) -> list[dict[str, Any]]:
    """Return the parts of a message's content that are not plain text.

    Raises:
        ApiError: 400; it is of a kind that nobody knows.
    """
    if content is None or isinstance(content, str):
        return []
    if not isinstance(content, list):
        raise unbounded(f"a content of type {type(content).__name__}", where)
    parts = [part for part in cast("list[Any]", content) if not isinstance(part, str)]
    for part in parts:
        if not isinstance(part, dict):
            raise unbounded(f"a content part of type {type(part).__name__}", where)
        refuse_nameless(part, where)
    return parts


def refuse_nameless(part: dict[str, Any], where: str) -> None:
    """Refuse a part whose kind is named by something else than a word, and so by nothing.

    Raises:
        ApiError: 400.
    """
    kind = part.get("type")
    if kind is not None and not isinstance(kind, str):
        raise unbounded(f"a part whose type is a {type(kind).__name__}", where)


def ascii_size(value: object) -> int:
    """Return the bytes that an image's data takes up in the body, 0 where that cannot be told for sure."""
    return len(value) if isinstance(value, str) and value.isascii() else 0


def unbounded(what: str, param: str) -> ApiError:
    """Return the refusal of a call whose cost nobody can bound."""
    message = (
        f"{what} beyond what can be bounded beforehand, and a budget applies to this call; leave it out, or use a key "
        "or a model without a budget"
    )
    return ApiError(400, "cost_unbounded", message, param=param)
