"""The key of a call: a hash over its arguments in one canonical form, so that equal calls meet and others never do.

Kinds are part of the form: `1`, `True`, `1.0` and `"1"` are four keys. What has no canonical form has no key, and its
call is not cached: a default repr would hold an address, and an address is used again.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from pathlib import PurePath
from typing import Any, cast
from uuid import UUID

_DEEPEST = 32  # levels of an argument
_AS_TEXT = (date, time, timedelta, Decimal, UUID, PurePath)


class NoKeyError(Exception):
    """An argument has no canonical form."""


def cache_key(partition: Sequence[str], arguments: Mapping[str, object]) -> bytes:
    """Return the key of a call with these arguments, by name, within a partition.

    Raises:
        NoKeyError: one of them is of a kind that has no canonical form.
    """
    digest = blake2b(digest_size=16)
    for one in (*partition, *(part for name in sorted(arguments) for part in (name, arguments[name]))):
        written = canonical(one)
        digest.update(b"%d:" % len(written))
        digest.update(written)
    return digest.digest()


def canonical(value: object, depth: int = _DEEPEST) -> bytes:
    """Return the one form of a value, its kind included.

    Raises:
        NoKeyError: it has none.
    """
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return _plain(value)
    if depth <= 0:
        raise NoKeyError(f"it is nested deeper than {_DEEPEST} levels")
    if isinstance(value, Enum):
        return _joined(b"enum", [_kind(value), value.name.encode()])
    if isinstance(value, _AS_TEXT):
        return _joined(_kind(value), [(value.isoformat() if isinstance(value, datetime) else str(value)).encode()])
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return _joined(b"map", sorted(canonical(k, depth - 1) + canonical(v, depth - 1) for k, v in pairs))
    if isinstance(value, list | tuple):
        items = cast("list[object]", value)
        return _joined(_kind(items), [canonical(one, depth - 1) for one in items])
    if isinstance(value, AbstractSet):
        return _joined(b"set", sorted(canonical(one, depth - 1) for one in cast("AbstractSet[object]", value)))
    if is_dataclass(value) and not isinstance(value, type):
        record = cast("Any", value)
        parts = [canonical((one.name, getattr(record, one.name)), depth - 1) for one in fields(record)]
        return _joined(_kind(value), parts)
    raise NoKeyError(f"a value of type {type(value).__qualname__} has no canonical form")


def _plain(value: bool | int | float | str | bytes | None) -> bytes:
    if type(value) not in (type(None), bool, int, float, str, bytes):  # a subclass may mean something else
        return _joined(_kind(value), [repr(value).encode("utf-8", "surrogatepass")])
    text = value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass")
    return _joined(type(value).__name__.encode(), [text])


def _kind(value: object) -> bytes:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}".encode()


def _joined(kind: bytes, parts: Sequence[bytes]) -> bytes:
    return b"%b(%b)" % (kind, b"".join([b"%d:%b" % (len(part), part) for part in parts]))
