"""A request's body, read as its upstream will read it.

The hold is computed from what is read here, so a body that two JSON readers could take differently is refused: a field
that is there twice, or one that differs from a field with a meaning in case alone (Go's decoder takes that one too).
"""
from __future__ import annotations

import json
from collections.abc import Set
from operator import attrgetter
from typing import Any, TypeVar

import msgspec

from proxy.api_error import ApiError

MAX_COUNT = 100_000_000  # tokens; no model answers or reads more
MAX_CHOICES = 128  # OpenAI's limit of `n`
_MAX_MODEL = 256  # characters of a model's name


class Asked(msgspec.Struct, frozen=True):
    """A request as it was sent and as it is read, in whichever format."""

    body: bytes
    raw: dict[str, msgspec.Raw]  # every field as it was sent
    fields: dict[str, Any]
    model: str
    turns: list[Any] = []  # the conversation, oldest first
    stream: bool = False
    wants_usage: bool = True  # the client takes the event that reports usage
    temperature: float | None = None
    max_output: int = 0  # tokens a choice; 0 = no limit is named
    choices: int = 1
    user: str = ""
    output_limit: int = 0  # tokens a choice that a policy sets where the request names no limit

    @property
    def hashed(self) -> dict[str, Any]:
        """What decides the answer: the fields, and the limit that will be among them under the upstream's name."""
        return {**self.fields, "farthing.max_output": self.output_limit} if self.output_limit else self.fields


Shape = TypeVar("Shape", bound=msgspec.Struct)
_size_of = attrgetter("nbytes")
_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_fields = msgspec.json.Decoder(dict[str, Any]).decode


def read_fields(
    body: bytes, shape: type[Shape], meant: Set[str], what: str
) -> tuple[dict[str, msgspec.Raw], dict[str, Any], Shape]:
    """Return the body's fields as they were sent, as values, and those of `shape`; `meant` has every costly name.

    Raises:
        ApiError: 400; it is not `what`, or not one that every reader takes alike.
    """
    try:
        raw, fields = _decode_raw(body), _decode_fields(body)
        read = msgspec.convert(fields, shape)
    except msgspec.ValidationError as error:
        raise ApiError(400, "invalid_request", f"the request is not {what}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, "invalid_json", f"the body is not JSON: {error}") from None
    _check_names(body, raw, meant)
    _check_model(fields["model"])
    return raw, fields, read


def check_count(name: str, value: int | None, most: int) -> None:
    """Refuse a number that no upstream takes.

    Raises:
        ApiError: 400; it lies outside of 1 to `most`.
    """
    if value is not None and not 1 <= value <= most:
        message = f"{name} is {value}; it must be 1 or more, and {most} at most"
        raise ApiError(400, "invalid_request", message, param=name)


def check_present(name: str, value: object, what: str) -> None:
    """Refuse an empty conversation.

    Raises:
        ApiError: 400.
    """
    if not value:
        raise ApiError(400, "invalid_request", f"`{name}` is empty; send at least one {what}", param=name)


def _check_names(body: bytes, raw: dict[str, msgspec.Raw], meant: Set[str]) -> None:
    for name in raw:
        if name not in meant and (known := name.casefold()) in meant:
            message = f"the field {name!r} is unknown; did you mean {known!r}?"
            raise ApiError(400, "invalid_request", message, param=name)
    repeated = "" if _is_compact(body, raw) else _repeated(body)
    if repeated:
        raise ApiError(400, "invalid_request", f"the field {repeated!r} is there twice; send it once", param=repeated)


def _is_compact(body: bytes, raw: dict[str, msgspec.Raw]) -> bool:
    """Tell whether fields, quotes, colons and commas account for every byte, which leaves none for a second field."""
    names = "".join(raw)
    size = len(names) if names.isascii() else len(names.encode())
    return size + sum(map(_size_of, map(memoryview, raw.values()))) + 4 * len(raw) + 1 == len(body)


def _repeated(body: bytes) -> str:
    """Return a field that is there twice, or nothing; slower, for bodies with spaces or escapes."""
    try:
        pairs = json.loads(body.decode(), object_pairs_hook=list, parse_int=str, parse_float=str)
    except RecursionError:
        raise ApiError(400, "invalid_json", "the body is not JSON: it is nested too deeply") from None
    names = [name for name, _ in pairs]
    return next((name for name in names if names.count(name) > 1), "") if len(set(names)) < len(names) else ""


def _check_model(model: str) -> None:
    if not 1 <= len(model) <= _MAX_MODEL:
        message = f"`model` has {len(model)} characters; allowed are 1 to {_MAX_MODEL}"
        raise ApiError(400, "invalid_request", message, param="model")
