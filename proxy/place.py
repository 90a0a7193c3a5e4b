"""A call's way to a place at a deployment; where none is to be had nothing was used, so nothing is paid."""
from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from farthing.policy.flow import PriorityAction
from farthing.prices import Usage
from proxy.call import Call
from proxy.dispatch import Target
from proxy.queue import Queue
from proxy.window import Window

_USUAL = PriorityAction()
_AT_ONCE_NS = 1_000_000  # a shorter wait is none


@dataclass(frozen=True, slots=True)
class Place:
    """What a call holds at a deployment."""

    queue: Queue
    window: Window
    since: float  # monotonic seconds


async def enter(call: Call, targets: Sequence[Target]) -> Target:
    """Return who is to be asked; waits for a place where all are full.

    Raises:
        ShedError: 429 or 503, no place.
        ApiError: 504, the deadline comes first.
    """
    windows: list[tuple[Target, Window]] = []
    for target in targets:
        if target.window is None:
            return target  # one without a limit is never full
        windows.append((target, target.window))
    queue = targets[0].queue
    assert queue is not None
    rule = call.decision.priority if call.decision is not None else None
    priority = (rule or _USUAL).of(call.asked_priority)
    came_ns = time.time_ns()
    call.is_waiting = True
    try:
        target, window = await queue.enter(
            windows, priority, call.limit_s - (came_ns - call.started_ns) / 1e9, call.is_stream
        )
    except BaseException:
        call.usage, call.usage_source = Usage(), "proxy"
        raise
    finally:
        call.is_waiting = False
        spent_ns = time.time_ns() - came_ns
        if spent_ns > _AT_ONCE_NS:
            call.waited_s += spent_ns / 1e9
            call.priority = priority
    call.place = Place(queue, window, time.monotonic())
    return target


def take_at_once(call: Call, target: Target) -> bool:
    """Take a place if there is one now; a second attempt does not wait."""
    if target.window is None or target.queue is None:
        return True
    if not target.window.take():
        return False
    call.place = Place(target.queue, target.window, time.monotonic())
    return True


def leave(call: Call) -> None:
    """Give back the place that a call holds, if it holds one."""
    if call.place is not None:
        place, call.place = call.place, None
        place.queue.leave(place.window, time.monotonic() - place.since)
