"""Who is asking: what the key says, the tags and the trace context of a request."""
from __future__ import annotations

import random
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote

from farthing import semconv
from farthing.policy.decide import Facts
from proxy.keys import Caller

MAX_TAGS = 32
MAX_TAG_LENGTH = 256  # characters of a name or a value
_REMEMBERED_BYTES = 512  # of a header with tags that is worth remembering; a client may send any
_CORE = frozenset(semconv.CORE_TAGS)
_TAGS = semconv.HEADER_TAGS.encode()

# Ids have to be unique and not secret; asking the system for each costs more than deciding the request does.
random_bytes = random.Random().randbytes  # seeded by the system, in each worker


def parse_tags(header: str) -> dict[str, str]:
    """Return the tags of `team=search,user=ann`; what is not of that form is left out."""
    tags: dict[str, str] = {}
    for pair in header.split(","):
        name, equals, value = pair.partition("=")
        name = name.strip()
        if equals and name and len(tags) < MAX_TAGS:
            tags[name[:MAX_TAG_LENGTH]] = unquote(value.strip())[:MAX_TAG_LENGTH]
    return tags


def trace_context(header: str) -> tuple[bytes, bytes]:
    """Return (trace id, parent span id) of a W3C traceparent; a new trace where there is none."""
    if not header:
        return random_bytes(16), b""
    parts = header.split("-")
    if len(parts) >= 4 and len(parts[1]) == 32 and len(parts[2]) == 16:
        try:
            trace_id, parent = bytes.fromhex(parts[1]), bytes.fromhex(parts[2])
        except ValueError:
            return random_bytes(16), b""
        # fromhex skips spaces; an id of another length would cost the collector's trust in a whole batch.
        if len(trace_id) == 16 and len(parent) == 8 and any(trace_id) and any(parent):
            return trace_id, parent
    return random_bytes(16), b""


def facts_of(caller: Caller, headers: Mapping[bytes, bytes], model: str, body_user: str) -> Facts:
    """Return who asks for what; what the key fixes, a request cannot say otherwise."""
    header = headers.get(_TAGS, b"")
    user = "" if caller.user else body_user[:MAX_TAG_LENGTH]
    facts = _known_facts if len(header) <= _REMEMBERED_BYTES else _facts
    return facts(caller, header, model, user)


def _facts(caller: Caller, header: bytes, model: str, body_user: str) -> Facts:
    tags = parse_tags(header.decode("latin-1")) if header else {}
    return Facts(
        tenant=caller.tenant,
        team=caller.team or tags.get("team", ""),
        user=caller.user or tags.get("user", "") or body_user,
        feature=tags.get("feature", ""),
        session=tags.get("session", ""),
        key=caller.key,
        model=model,
        tags={name: value for name, value in tags.items() if name not in _CORE},
    )


_known_facts = lru_cache(maxsize=1024)(_facts)  # a caller's requests have few different headers
