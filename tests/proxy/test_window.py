"""proxy/window.py and proxy/queue.py: how many run, who waits, who goes first, and what is refused."""
from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from farthing.policy import Action, CompiledDocument, Document, Policy
from farthing.policy.flow import ConcurrencyAction
from farthing.settings import Deployment, Settings
from proxy.api_error import ApiError
from proxy.counters import Counters
from proxy.dispatch import Deployments, Target
from proxy.health import Health
from proxy.place_table import PlaceTable
from proxy.queue import Queue, ShedError
from proxy.upstream import Timeouts
from proxy.window import Bounds, Window

BOUNDS = Bounds(least=1, most=40, tolerance=2.0, queue=3, max_wait_s=30.0)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[PlaceTable]:
    made = PlaceTable(tmp_path)
    yield made
    made.close()


def window_of(table: PlaceTable, bounds: Bounds = BOUNDS, limit: float = 0.0, taken: int = 0) -> Window:
    """Return a window that has learned `limit`, with so many places taken."""
    window = Window(bounds, table.places("m"))
    window.places.learned[0] = limit
    for _ in range(taken):
        window.places.take()
    return window


def served(window: Window, capacity: int, service_s: float, rounds: int, dice: random.Random) -> float:
    """Fill the window again and again before a server that slows down past its capacity; return the last limit."""
    for number in range(rounds):
        while window.take():
            pass
        crowd = max(1.0, window.places.own / capacity)
        latency = service_s * crowd * dice.uniform(0.9, 1.1)
        window.answered(number * 0.02, latency, is_stream=True, tokens=0)
        window.release(latency)
        while window.places.own > int(window.limit):
            window.release(latency)
    return window.limit


def test_a_window_shrinks_to_what_its_deployment_takes_and_grows_with_it(table: PlaceTable) -> None:
    window, dice = window_of(table), random.Random(1)
    for _ in range(20):  # quiet at first, so that the quick latency is known
        window.answered(0.0, 0.1 * dice.uniform(0.9, 1.1), is_stream=True, tokens=0)
    assert served(window, 5, 0.1, 400, dice) < 16  # twice the quick latency is tolerated: 10 at 5
    assert served(window, 20, 0.1, 600, dice) > 25


def test_a_window_that_is_not_in_use_says_nothing_and_stays(table: PlaceTable) -> None:
    window = window_of(table, limit=10.0)
    for _ in range(50):
        window.take()
        window.answered(0.0, 0.1, is_stream=True, tokens=0)
        window.release(0.1)
    assert window.limit == 10.0


def test_long_answers_do_not_look_like_overload(table: PlaceTable) -> None:
    window, dice = window_of(table), random.Random(2)
    for _ in range(300):
        tokens = dice.choice((10, 2_000))
        while window.take():
            pass
        window.answered(0.0, (tokens + 16) * 0.01, is_stream=False, tokens=tokens)
        window.release(1.0)
    assert window.limit == BOUNDS.most


def test_refusals_shrink_a_window_once_for_each_answer_s_time_and_never_below_its_least(table: PlaceTable) -> None:
    window = window_of(table, limit=40.0, taken=20)
    assert [window.overloaded(now) for now in (1.0, 1.01, 1.02)] == [True, False, False]
    assert window.limit == pytest.approx(14.0)
    for now in range(2, 60):
        window.overloaded(float(now))
    assert window.limit == BOUNDS.least


def test_new_bounds_hold_at_once_and_what_was_learned_stays(table: PlaceTable) -> None:
    window = window_of(table, limit=30.0)
    few, many = dataclasses.replace(BOUNDS, most=8), dataclasses.replace(BOUNDS, least=36)
    for bounds, limit in ((few, 8), (BOUNDS, 30), (many, 36)):
        window.bounds = bounds
        assert window.limit == limit


def test_a_call_that_is_given_up_after_long_shrinks_the_window_and_one_after_a_moment_does_not(
    table: PlaceTable,
) -> None:
    window = window_of(table, taken=8)
    target = Target(Deployment("m"), "openai", (), Timeouts(), Health(0), Queue("m", Counters(), table), window)
    window.answered(0.0, 1.0, is_stream=True, tokens=0)
    before = window.limit
    target.gave_up(now=10.0, since=8.5, is_stream=True)
    assert window.limit == before
    target.gave_up(now=10.0, since=7.5, is_stream=True)
    assert window.limit < before and target.queue is not None and target.queue.counters.shrunk == 1


def test_limits_of_the_settings_and_of_a_policy_hold_together_and_are_those_of_all_workers(tmp_path: Path) -> None:
    limited = Deployment("m", max_in_flight=10)
    deployments = Deployments(Settings(data_dir=tmp_path, proxy_workers=2, deployments=(limited, Deployment("free"))))
    of_m, of_free = (pool.window for pool in deployments.targets)
    assert of_m is not None and (of_m.bounds.least, of_m.bounds.most, of_free) == (10, 10, None)
    rule = Policy(name="w", action=Action(concurrency=ConcurrencyAction(min=4, max=64, queue=21)))
    deployments.follow(CompiledDocument(Document(version=1, policies=(rule,))))
    assert of_m is deployments.targets[0].window  # what it has learned stays
    assert (of_m.bounds.least, of_m.bounds.most, of_m.bounds.queue) == (4, 10, 21)
    free = deployments.targets[1].window
    assert free is not None and free.bounds.most == 64
    deployments.follow(CompiledDocument(Document(version=2)))
    assert deployments.targets[1].window is None
    deployments.close()


def test_without_a_limit_nothing_is_shared(tmp_path: Path) -> None:
    deployments = Deployments(Settings(data_dir=tmp_path, deployments=(Deployment("free"),)))
    deployments.close()
    assert list(tmp_path.iterdir()) == []


class Crowd:
    """A queue before deployments with so many places each, and those who came to it."""

    def __init__(self, table: PlaceTable, bounds: Bounds = BOUNDS, deployments: int = 1, places: int = 1) -> None:
        self.now, self.counters = 100.0, Counters()
        self.queue = Queue("m", self.counters, table, lambda: self.now)
        fixed = dataclasses.replace(bounds, least=places, most=places)
        self.windows = [
            (Target(Deployment("m", name=f"m/{n}"), "openai", (), Timeouts(), Health(0)),
             Window(fixed, table.places(f"m/{n}")))
            for n in range(deployments)
        ]
        self.order: list[str] = []
        self.refused: dict[str, ApiError] = {}

    async def come(self, name: str, priority: int = 5, left_s: float = 60.0) -> asyncio.Task[Window | None]:
        async def wait() -> Window | None:
            try:
                _, window = await self.queue.enter(self.windows, priority, left_s, False)
            except ApiError as error:
                self.refused[name] = error
                return None
            self.order.append(name)
            return window

        task = asyncio.create_task(wait())
        await settle()
        return task

    async def finish(self, held_s: float = 1.0) -> None:
        busy = next(window for _, window in self.windows if window.places.own)
        self.queue.leave(busy, held_s)
        await settle()


async def settle() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


def run(act: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await act()

    asyncio.run(whole())


def test_the_more_important_go_first_then_the_older(table: PlaceTable) -> None:
    async def act() -> None:
        crowd = Crowd(table)
        for name, priority in (("first", 0), ("b", 5), ("c", 5), ("a", 9)):
            await crowd.come(name, priority)
        for _ in range(4):
            await crowd.finish()
        assert crowd.order == ["first", "a", "b", "c"]
        assert (crowd.counters.queued, crowd.queue.waiting, crowd.windows[0][1].places.occupied) == (3, 0, 0)

    run(act)


def test_in_a_full_queue_the_least_important_gives_way(table: PlaceTable) -> None:
    async def act() -> None:
        crowd = Crowd(table)
        for name, priority in (("runs", 5), ("a", 5), ("b", 3), ("c", 4), ("low", 2), ("high", 7)):
            await crowd.come(name, priority)
        low, b = crowd.refused["low"], crowd.refused["b"]
        assert isinstance(low, ShedError) and isinstance(b, ShedError)
        assert (low.status, low.code, low.retry_after_s) == (503, "overloaded", 1)
        assert (b.status, b.code, b.retry_after_s) == (429, "pushed_out", 1)
        assert (crowd.counters.queue_full, crowd.counters.pushed_out) == (1, 1)
        for _ in range(4):
            await crowd.finish()
        assert crowd.order == ["runs", "high", "a", "c"]

    run(act)


def test_a_place_at_any_deployment_of_the_model_will_do(table: PlaceTable) -> None:
    async def act() -> None:
        crowd = Crowd(table, deployments=2)
        tasks = [await crowd.come(name) for name in "abc"]
        assert tasks[0].result() is not tasks[1].result() and not tasks[2].done()
        crowd.queue.leave(crowd.windows[1][1], 1.0)
        await settle()
        assert tasks[2].result() is crowd.windows[1][1]

    run(act)


def test_who_is_cancelled_leaves_no_place_taken_and_no_place_in_the_queue(table: PlaceTable) -> None:
    async def act() -> None:
        crowd = Crowd(table)
        tasks = [await crowd.come(name) for name in "abc"]
        tasks[1].cancel()
        await settle()
        assert crowd.queue.waiting == 1
        crowd.queue.leave(crowd.windows[0][1], 1.0)  # c has the place now and is cancelled before it hears of it
        tasks[2].cancel()
        await settle()
        assert (crowd.windows[0][1].places.occupied, crowd.queue.waiting) == (0, 0)
        await crowd.come("d")
        assert crowd.order == ["a", "d"]

    run(act)


def test_what_cannot_be_answered_in_time_is_not_begun(table: PlaceTable) -> None:
    async def act() -> None:
        crowd = Crowd(table)
        crowd.windows[0][1].answered(0.0, 2.0, is_stream=False, tokens=1)
        await crowd.come("a")
        await crowd.come("too-late", left_s=1.0)
        await crowd.come("in-time", left_s=10.0)
        crowd.now += 9.0
        await crowd.finish(held_s=0.5)
        assert {name: error.code for name, error in crowd.refused.items()} == {
            "too-late": "deadline_unmeetable", "in-time": "deadline_unmeetable",
        }  # fmt: skip
        assert (crowd.counters.hopeless, crowd.windows[0][1].places.occupied) == (2, 0)

    run(act)


def test_a_wait_that_will_be_too_long_is_refused_at_once_with_its_length(table: PlaceTable) -> None:
    async def act() -> None:
        crowd = Crowd(table)
        crowd.windows[0][1].places.learned[2] = 20.0  # seconds that a place is held
        await crowd.come("runs")
        await crowd.come("waits")  # 20 s
        await crowd.come("refused")  # 40 s, of 30
        assert crowd.refused["refused"].retry_after_s == 40
        assert crowd.queue.waiting == 1

    run(act)


def test_a_wait_ends_with_its_time(table: PlaceTable) -> None:
    async def act() -> None:
        crowd = Crowd(table, bounds=dataclasses.replace(BOUNDS, max_wait_s=0.01))
        await crowd.come("runs")
        await (await crowd.come("waits"))
        assert crowd.refused["waits"].code == "overloaded"
        assert (crowd.counters.waited_out, crowd.queue.waiting) == (1, 0)

    run(act)


def test_places_that_a_policy_adds_go_to_those_who_wait(table: PlaceTable) -> None:
    async def act() -> None:
        crowd = Crowd(table)
        for name in "abc":
            await crowd.come(name)
        window = crowd.windows[0][1]
        window.bounds = dataclasses.replace(window.bounds, least=3, most=3)
        crowd.queue.hand_out(window)
        await settle()
        assert crowd.order == ["a", "b", "c"] and window.places.occupied == 3

    run(act)
