"""Keyed hashes of requests, so that repeats can be found without keeping what was asked.

The key never leaves the machine: an outsider cannot test guesses against a stored hash.
"""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import msgspec

# Fields that do not change what a model answers
_IGNORED = frozenset(("user", "metadata", "stream", "stream_options", "store", "safety_identifier", "prompt_cache_key"))
_canonical = msgspec.json.Encoder(order="deterministic").encode
MAX_PREFIXES = 8  # prefixes hashed per request, the shortest first


def load_key(configured: str, data_dir: Path) -> bytes:
    """Return the configured key, or the one made at the first start and kept in `data_dir`."""
    if configured:
        return sha256(configured.encode()).digest()
    path = data_dir / "hash.key"
    data_dir.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(descriptor, "wb") as handle:
        key = os.urandom(32)
        handle.write(key)
    return key


def request_hash(key: bytes, tenant: str, request: Mapping[str, object]) -> str:
    """Return the hash of what is asked of which model by which tenant, 32 hex digits; key order does not matter."""
    asked = request
    if not _IGNORED.isdisjoint(request):
        asked = {name: value for name, value in request.items() if name not in _IGNORED}
    inner, outer = _begun(key, tenant)
    digest, whole = inner.copy(), outer.copy()
    digest.update(_canonical(asked))
    whole.update(digest.digest())
    return whole.hexdigest()[:32]


@lru_cache(maxsize=256)
def _begun(key: bytes, tenant: str) -> tuple[Any, Any]:
    """Return both hashes of HMAC-SHA256 (RFC 2104) as far as they do not depend on the request."""
    padded = (key if len(key) <= 64 else sha256(key).digest()).ljust(64, b"\0")
    inner, outer = (sha256(bytes([byte ^ pad for byte in padded])) for pad in (0x36, 0x5C))
    inner.update(tenant.encode() + b"\0")
    return inner, outer


def prefix_hashes(key: bytes, tenant: str, messages: Sequence[object]) -> tuple[str, ...]:
    """Return the hashes of the conversation after each message but the last, 16 hex digits each."""
    if len(messages) < 2:
        return ()
    running = blake2b(tenant.encode(), digest_size=8, key=key[:32])
    hashes: list[str] = []
    for message in messages[:-1][:MAX_PREFIXES]:
        running.update(_canonical(message))
        hashes.append(running.hexdigest())
    return tuple(hashes)
