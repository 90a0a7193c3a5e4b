"""A limit on a block: near or far off, it ends the block, and nothing but the block."""
from __future__ import annotations

import asyncio

import pytest

from proxy import within
from proxy.within import Within


@pytest.fixture(params=[0.5, 0.002], ids=["near", "far"])
def seconds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Return a limit that has a timer of its own at once, and one that is first looked at from afar."""
    monkeypatch.setattr(within, "_LOOK_S", request.param)
    return 0.02


def test_a_block_that_takes_too_long_ends_with_a_timeout(seconds: float) -> None:
    async def block() -> None:
        with Within(seconds):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        asyncio.run(block())


def test_the_inner_limit_ends_the_inner_block_alone(seconds: float) -> None:
    async def block() -> str:
        with Within(600):
            with pytest.raises(TimeoutError), Within(seconds):
                await asyncio.Event().wait()
            return "went on"

    assert asyncio.run(block()) == "went on"


def test_who_is_cancelled_by_others_is_cancelled_and_not_late(seconds: float) -> None:
    async def run() -> bool:
        async def block() -> None:
            with Within(600):
                await asyncio.Event().wait()

        task = asyncio.create_task(block())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        return task.cancelled()

    assert asyncio.run(run())


def test_a_block_that_has_ended_is_left_alone(seconds: float) -> None:
    async def run() -> str:
        with Within(seconds):
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError), Within(3 * seconds):  # the first one's limit has passed meanwhile
            await asyncio.Event().wait()
        return "went on"

    assert asyncio.run(run()) == "went on"


def test_two_event_loops_of_one_thread_do_not_share_limits(seconds: float) -> None:
    async def block() -> None:
        with Within(seconds):
            await asyncio.Event().wait()

    for _ in range(2):
        with pytest.raises(TimeoutError):
            asyncio.run(block())
