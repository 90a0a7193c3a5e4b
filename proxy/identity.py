"""Who is asking: the key, the tags and the trace context of a request.

An unknown key raises; there is no anonymous principal behind a failed check.
"""
from __future__ import annotations

import hmac
import random
from collections.abc import Mapping
from urllib.parse import unquote

from farthing import semconv
from farthing.policy.decide import Facts
from farthing.settings import ProxyKey, Settings
from proxy.api_error import ApiError

MAX_TAGS = 32
MAX_TAG_LENGTH = 256  # characters of a name or a value
_CORE = frozenset(semconv.CORE_TAGS)

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


class Keys:
    """Checks keys against the configured ones; with none configured every caller is the default tenant."""

    def __init__(self, settings: Settings) -> None:
        self._known = settings.proxy_keys
        self._tenant = settings.tenant

    def facts(self, headers: Mapping[bytes, bytes], model: str, body_user: str) -> Facts:
        """Return who asks for what.

        Raises:
            ApiError: 401 where the key is missing or unknown.
        """
        key = self._check(headers)
        tags = parse_tags(headers.get(semconv.HEADER_TAGS.encode(), b"").decode("latin-1"))
        return Facts(
            tenant=key.tenant if key else self._tenant,
            team=(key.team if key else "") or tags.get("team", ""),
            user=tags.get("user", "") or body_user[:MAX_TAG_LENGTH],
            feature=tags.get("feature", ""),
            session=tags.get("session", ""),
            key=key.name if key else "",
            model=model,
            tags={name: value for name, value in tags.items() if name not in _CORE},
        )

    def _check(self, headers: Mapping[bytes, bytes]) -> ProxyKey | None:
        if not self._known:
            return None
        given = headers.get(b"authorization", b"").removeprefix(b"Bearer ").strip() or headers.get(b"x-api-key", b"")
        match: ProxyKey | None = None
        for known in self._known:  # every key is compared, so that time tells nothing
            if hmac.compare_digest(known.key.encode(), given) and given:
                match = known
        if match is None:
            problem = f"the API key is {'unknown' if given else 'missing'}"
            message = f"{problem}; send one of this proxy's keys as a Bearer token or as x-api-key"
            raise ApiError(401, "invalid_api_key", message)
        return match
