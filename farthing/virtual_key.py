"""The proxy's own API keys: `fth_`, 32 random characters and a checksum of 6, so that a typo shows without a look-up.

Only a key's digest is ever stored or sent on. The random part has 190 bits, so the digest needs neither salt nor
stretching: there is nothing to guess.
"""
from __future__ import annotations

import secrets
from hashlib import blake2b
from zlib import crc32

PREFIX = "fth_"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_CHARACTERS = 32
_CHECK_CHARACTERS = 6  # 62 ** 6 > 2 ** 32
_LENGTH = len(PREFIX) + _RANDOM_CHARACTERS + _CHECK_CHARACTERS


def new_key() -> str:
    """Return a key that nobody has."""
    body = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARACTERS))
    return body + _checksum(body)


def is_well_formed(key: str) -> bool:
    """Tell whether a key is whole and its checksum fits; one mistyped character never does."""
    if len(key) != _LENGTH or not key.startswith(PREFIX) or not key.isascii():
        return False
    return _checksum(key[:-_CHECK_CHARACTERS]) == key[-_CHECK_CHARACTERS:]


def digest(key: bytes) -> bytes:
    """Return what is kept of a key."""
    return blake2b(key, digest_size=20, person=b"farthing-api-key").digest()


def shown(key: str) -> str:
    """Return what people may see of a key: enough to tell two apart."""
    return f"{PREFIX}…{key[-4:]}"


def _checksum(body: str) -> str:
    rest, characters = crc32(body.encode()), ""
    for _ in range(_CHECK_CHARACTERS):
        rest, digit = divmod(rest, len(_ALPHABET))
        characters += _ALPHABET[digit]
    return characters
