"""The most tokens that a request can be billed for, or why nobody can say before it has been answered.

A token is at least one byte of the request, so bytes bound the input; what an upstream fetches or prices by another
rule is bounded by a constant or, where there is none, refused on calls that a budget governs.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from proxy.api_error import ApiError
from proxy.request import Asked

# Tokens that a chat template may add to a request beyond the bytes of its JSON: a default system prompt, say.
TEMPLATE_TOKENS = 128
# The dearest published rule, gpt-4o-mini in OpenAI's guide to images: 2,833 + 5,667 for each 512-pixel tile, 8 at most.
IMAGE_TOKENS = 50_000

# Field -> values that leave a call within the price of its tokens. `auto` is what a request without the field means.
_WITHIN_PRICE: Mapping[str, tuple[object, ...]] = {
    "service_tier": (None, "auto", "default", "flex"),  # priority costs more per token
    "modalities": (None, ["text"]),  # audio tokens have a price of their own
    "audio": (None,),
    "web_search_options": (None,),  # a fee for each search
    "models": (None,),  # other models to fall back to, each with its price
    "plugins": (None,),  # fees
    "chat_template": (None,),  # a template may repeat the prompt
}
_PART_FIELDS = frozenset(("type", "text", "refusal", "image_url", "cache_control"))
_PART_TYPES = frozenset(("text", "refusal", "image_url"))
_MESSAGE_MEDIA = frozenset(("audio", "images"))


def bound_tokens(asked: Asked, max_output: int) -> tuple[int, int]:
    """Return the most input and output tokens of a call with `max_output` tokens a choice.

    Raises:
        ApiError: 400; something in the request has no bound.
    """
    for name, allowed in _WITHIN_PRICE.items():
        if name in asked.fields and asked.fields[name] not in allowed:
            raise _unbounded(f"`{name}` changes what a call costs", name)
    images = [image for message in asked.chat.messages for image in _images(message)]
    inputs = len(asked.body) - sum(images) + len(images) * IMAGE_TOKENS + TEMPLATE_TOKENS
    # Rejected tokens of a prediction are billed as output, beyond max_tokens.
    predicted = len(bytes(asked.raw["prediction"])) if "prediction" in asked.raw else 0
    return inputs, asked.chat.choices * (max_output + predicted)


def _images(message: Any) -> list[int]:
    """Return the bytes that each image of a message takes up in the body."""
    if not isinstance(message, dict):
        return []
    for name in cast("dict[str, Any]", message):
        if name.casefold() in _MESSAGE_MEDIA:
            raise _unbounded(f"a message with `{name}`", "messages")
    content: Any = message.get("content")
    if isinstance(content, list):
        return [size for part in cast("list[Any]", content) for size in _image(part)]
    if content is not None and not isinstance(content, str):
        raise _unbounded(f"a message's content of type {type(content).__name__}", "messages")
    return []


def _image(part: Any) -> tuple[int, ...]:
    """Return the size of a part that is an image, nothing for text."""
    if isinstance(part, str):
        return ()
    if not isinstance(part, dict) or part.get("type") not in _PART_TYPES or not _PART_FIELDS.issuperset(part):
        what = part.get("type") if isinstance(part, dict) else type(part).__name__
        raise _unbounded(f"a content part of type {what!r}", "messages")
    if "image_url" not in part:
        return ()
    image = part["image_url"]
    url = image.get("url") if isinstance(image, dict) else image
    return (len(url) if isinstance(url, str) and url.isascii() else 0,)


def _unbounded(what: str, param: str) -> ApiError:
    message = (
        f"{what} beyond what can be bounded beforehand, and a budget applies to this call; leave it out, or use a key "
        "or a model without a budget"
    )
    return ApiError(400, "cost_unbounded", message, param=param)
