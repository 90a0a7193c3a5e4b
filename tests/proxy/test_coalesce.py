"""proxy/coalesce.py: one request for many, and nobody fails because of another."""
from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from proxy.coalesce import Flight, Flights

Joined = str | Flight[str] | None


def run(act: Callable[[Flights[str]], Coroutine[Any, Any, None]]) -> None:
    flights: Flights[str] = Flights()
    asyncio.run(act(flights))
    assert len(flights) == 0 and flights.waiting == 0


async def joining(flights: Flights[str], count: int) -> list[asyncio.Task[Joined]]:
    tasks = [asyncio.create_task(flights.join("key")) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def led(task: asyncio.Task[Joined]) -> Flight[str]:
    flight = await task
    assert isinstance(flight, Flight)
    return flight


def test_everybody_gets_the_answer_of_the_one_that_asked() -> None:
    async def act(flights: Flights[str]) -> None:
        first, *others = await joining(flights, 4)
        assert flights.waiting == 3
        (await led(first)).land("answer")
        assert [await task for task in others] == ["answer"] * 3

    run(act)


def test_when_the_leader_fails_the_next_one_takes_over_and_the_others_wait_on() -> None:
    async def act(flights: Flights[str]) -> None:
        first, second, *others = await joining(flights, 4)
        (await led(first)).give_up()
        heir = await led(second)
        assert not any(task.done() for task in others)
        heir.land("answer")
        assert [await task for task in others] == ["answer"] * 2

    run(act)


def test_after_a_second_failure_all_go_alone() -> None:
    async def act(flights: Flights[str]) -> None:
        first, second, *others = await joining(flights, 4)
        (await led(first)).give_up()
        (await led(second)).give_up()
        assert [await task for task in others] == [None, None]

    run(act)


def test_one_that_no_longer_waits_is_passed_over() -> None:
    async def act(flights: Flights[str]) -> None:
        first, second, third = await joining(flights, 3)
        second.cancel()
        await asyncio.sleep(0)
        assert flights.waiting == 1
        (await led(first)).give_up()
        (await led(third)).land("answer")

    run(act)


def test_one_whose_time_is_over_as_it_is_to_lead_hands_the_lead_on() -> None:
    async def act(flights: Flights[str]) -> None:
        first, second, third = await joining(flights, 3)
        flight = await led(first)
        flight.leaders = 0  # two more may fail
        flight.give_up()
        second.cancel()
        (await led(third)).land("answer")

    run(act)


def test_a_leader_that_nobody_waits_for_leaves_nothing_behind() -> None:
    async def act(flights: Flights[str]) -> None:
        (first,) = await joining(flights, 1)
        (await led(first)).give_up()

    run(act)
