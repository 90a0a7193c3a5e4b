"""A look at the warehouse again and again: one that fails is told of and followed by the next."""
from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from farthing.errors import FarthingError
from policies.http import HttpError

log = logging.getLogger(__name__)


async def repeat(look: Callable[[], Awaitable[object]], interval_s: float, failed: str) -> None:
    """Look every `interval_s` seconds, 0 = never; what a failure means is said by `failed`."""
    while interval_s:
        await asyncio.sleep(interval_s)
        try:
            await look()
        except (HttpError, FarthingError) as error:
            log.warning("%s: %s", failed, error)
