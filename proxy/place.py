"""A call's way to a place at a deployment; where none is to be had nothing was used, so nothing is paid."""
from __future__ import annotations

import time
from collections.abc import Sequence

from farthing.policy.flow import PriorityAction
from farthing.prices import Usage
from proxy.call import Call
from proxy.dispatch import Target
from proxy.window import Window

_USUAL = PriorityAction()


async def enter(call: Call, targets: Sequence[Target]) -> tuple[Target, Window | None]:
    """Return who is to be asked, and the window that the call has a place in; waits where all are full.

    Raises:
        ShedError: 429 or 503, no place.
        ApiError: 504, the deadline comes first.
    """
    windows: list[tuple[Target, Window]] = []
    for target in targets:
        if target.window is None:
            return target, None  # one without a limit is never full
        windows.append((target, target.window))
    queue = targets[0].queue
    assert queue is not None
    rule = call.decision.priority if call.decision is not None else None
    priority = (rule or _USUAL).of(call.asked_priority)
    came_ns = time.time_ns()
    waited_s = (came_ns - call.started_ns) / 1e9
    call.is_waiting = True
    try:
        entered = await queue.enter(windows, priority, call.limit_s - waited_s, call.is_stream)
    except BaseException:
        call.usage, call.usage_source = Usage(), "proxy"
        raise
    finally:
        call.is_waiting = False
        spent_ns = time.time_ns() - came_ns
        if spent_ns > _AT_ONCE_NS:
            call.waited_s += spent_ns / 1e9
            call.priority = priority
    return entered


_AT_ONCE_NS = 1_000_000  # a shorter wait is none
