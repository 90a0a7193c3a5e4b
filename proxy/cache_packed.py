"""A cached value as bytes that leave this process: sealed, so that what comes back is what was kept, under its name.

The seal is keyed with the hash key: an entry that was damaged, swapped or written by somebody without the key is not
opened, whoever can write to the disk or the Redis that it came from.
"""
from __future__ import annotations

import hmac
from hashlib import blake2b
from typing import TypeVar

import msgspec

_SEAL_BYTES = 16
_MAGIC = b"F1"
_START = len(_MAGIC) + _SEAL_BYTES

Value = TypeVar("Value")


def name_of(key: object, secret: bytes) -> str:
    """Return what an entry is called outside of this process, hex; it tells nothing of what was asked."""
    return blake2b(repr(key).encode(), digest_size=16, key=secret[:64]).hexdigest()


def packed(value: object, name: str, secret: bytes) -> bytes:
    """Return a value as bytes."""
    data = msgspec.msgpack.encode(value)
    return _MAGIC + _seal(data, name, secret) + data


def unpacked(sealed: bytes, kind: type[Value], name: str, secret: bytes) -> Value | None:
    """Return the value that was packed under `name`, None where these bytes are not it."""
    seal, data = sealed[len(_MAGIC) : _START], sealed[_START:]
    if not sealed.startswith(_MAGIC) or not hmac.compare_digest(seal, _seal(data, name, secret)):
        return None
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.MsgspecError:  # of another version
        return None


def _seal(data: bytes, name: str, secret: bytes) -> bytes:
    return blake2b(name.encode() + data, digest_size=_SEAL_BYTES, key=secret[:64]).digest()
