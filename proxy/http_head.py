"""A request's head as this server understands it: of this protocol alone, with a target that is a path."""
from __future__ import annotations

import re
from collections.abc import Mapping

_OF_OFFER = (b"connection", b"upgrade", b"http2-settings")
_ORIGIN = re.compile(rb"^https?://[^/?]*/?", re.IGNORECASE)


def without_offer(method: bytes, target: bytes, headers: Mapping[bytes, bytes]) -> bytes:
    """Return the head of a request that offers another protocol, as if it had not."""
    kept = [b"%b: %b\r\n" % pair for pair in headers.items() if pair[0].lower() not in _OF_OFFER]
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, b"".join(kept))


def path_of(target: bytes) -> bytes:
    """Return the path and query of a target; clients that were told of a proxy write a whole address."""
    return target if target.startswith(b"/") else _ORIGIN.sub(b"/", target)
