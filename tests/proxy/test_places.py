"""proxy/place_table.py, shared_map.py and bell.py: the workers of a host have one window, one queue and one order."""
from __future__ import annotations

import asyncio
import dataclasses
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from farthing.errors import ServeError
from farthing.settings import Deployment, Settings
from proxy.dispatch import Deployments
from proxy.health import COOLDOWN_S, Health
from proxy.place_table import DEPLOYMENTS, PlaceTable
from proxy.queue import ShedError
from proxy.shared_map import WORKERS, SharedMap
from proxy.spare import Spare
from proxy.window import Window
from tests.conftest import REPOSITORY
from tests.proxy.processes import Workers, workers
from tests.proxy.rig import Received, Rig, answer_of, answers, asked, post, reply
from tests.proxy.test_caching import embeds
from tests.proxy.test_window import BOUNDS, Crowd, run, settle, window_of
from tests.until import LIMIT_S, until

BODY = json.dumps(asked()).encode()


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[tuple[PlaceTable, PlaceTable]]:
    """Return the table of two workers, as each of them sees it."""
    both = PlaceTable(tmp_path), PlaceTable(tmp_path)
    yield both
    for table in both:
        table.close()


Tables = tuple[PlaceTable, PlaceTable]


async def eventually(condition: Callable[[], bool]) -> None:
    """Let the event loop hear rings until something holds."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.001)


def test_what_one_worker_takes_the_other_cannot_and_what_it_learns_both_know(tables: Tables) -> None:
    one, other = (window_of(table, dataclasses.replace(BOUNDS, most=3)) for table in tables)
    assert [one.take(), other.take(), one.take(), other.take(), one.take()] == [True, True, True, False, False]
    assert (one.places.own, other.places.own, one.places.occupied) == (2, 1, 3)
    assert other.overloaded(100.0) and one.limit == other.limit == pytest.approx(2.1)
    assert not one.overloaded(100.01), "it speaks of the crowd that the other has heard of"
    one.places.leave()
    assert not other.take() and one.places.occupied == int(one.limit)


def test_a_place_goes_to_who_waits_longest_in_whatever_worker(tables: Tables) -> None:
    async def act() -> None:
        here, there = (Crowd(table, dataclasses.replace(BOUNDS, queue=4)) for table in tables)
        for now, (crowd, name, priority) in enumerate((
            (here, "runs", 5), (there, "second", 5), (here, "third", 5), (there, "first", 9), (here, "last", 1),
        )):  # fmt: skip
            here.now = there.now = 100.0 + now
            await crowd.come(name, priority)
        both: list[str] = []
        for turn, crowd in enumerate((here, there, there, here)):
            both += [name for name in (*here.order, *there.order) if name not in both]
            assert both == ["runs", "first", "second", "third"][: turn + 1]
            await crowd.finish()
            await eventually(lambda turn=turn: len(here.order) + len(there.order) == turn + 2)
        assert (here.order, there.order) == (["runs", "third", "last"], ["first", "second"])
        assert (here.queue.waiting, there.queue.waiting, here.windows[0][1].places.occupied) == (0, 0, 1)

    run(act)


def test_in_a_queue_that_workers_fill_together_the_least_important_gives_way_in_whatever_worker(
    tables: Tables,
) -> None:
    async def act() -> None:
        here, there = (Crowd(table) for table in tables)
        await here.come("runs")
        for name, priority in (("low", 2), ("middle", 3)):
            await there.come(name, priority)
        await here.come("usual")
        await here.come("none-less", priority=2)  # three wait, all of them as important
        assert here.refused["none-less"].code == "overloaded"
        task = await here.come("high", priority=8)
        await eventually(lambda: bool(there.refused))
        pushed = there.refused["low"]
        assert isinstance(pushed, ShedError) and (pushed.status, pushed.code) == (429, "pushed_out")
        assert (here.queue.waiting, there.queue.waiting, there.counters.pushed_out) == (2, 1, 1)
        await here.come("one-too-many", priority=3)
        assert here.refused["one-too-many"].code == "overloaded"
        await here.finish()
        assert await task is here.windows[0][1]

    run(act)


def test_who_gives_up_while_another_worker_gives_it_a_place_leaves_that_place_free(tables: Tables) -> None:
    async def act() -> None:
        here, there = (Crowd(table) for table in tables)
        await here.come("runs")
        waits = await there.come("waits")
        here.queue.leave(here.windows[0][1], 1.0)
        waits.cancel()  # it has the place and has not heard of it
        window = there.windows[0][1]
        await eventually(lambda: not window.places.occupied)
        await here.come("next")
        assert here.order == ["runs", "next"] and there.queue.waiting == 0

    run(act)


def test_what_a_model_has_to_do_is_known_in_every_worker(tmp_path: Path) -> None:
    async def act() -> None:
        settings = Settings(data_dir=tmp_path, deployments=(Deployment("m", max_in_flight=2), Deployment("free")))
        here, there = Deployments(settings), Deployments(settings)
        here.share()
        there.share()
        target, free = here.targets
        assert target.window is not None and target.queue is not None and target.window.take() and target.window.take()
        free.health.began(1.0)
        waits = asyncio.create_task(target.queue.enter([(target, target.window)], 5, 60.0, False))
        await settle()
        assert [(one.busy("m"), one.busy("free")) for one in (here, there)] == [(3, 1), (3, 1)]
        assert [one.in_flight for one in there.targets] == [2, 1]
        waits.cancel()
        await asyncio.wait((waits,))
        assert there.busy("m") == 2
        for one in (here, there):
            one.close()

    run(act)


def test_a_deployment_that_one_worker_finds_dead_is_left_alone_by_all_and_tried_by_one(tables: Tables) -> None:
    here, there = (Health(3, table.vitals("m")) for table in tables)
    for health in (here, there):
        health.began(100.0)
    for health in (here, there, here):
        assert here.wait_s(100.0) == there.wait_s(100.0) == 0
        health.failed(100.0)
    there.failed(100.5)  # it had begun before
    assert here.wait_s(101.0) == there.wait_s(101.0) == COOLDOWN_S - 1.0
    assert (here.failures, there.failures, here.vitals.in_flight) == (4, 4, 2)
    for health in (here, there):
        health.ended()
    later = 100.0 + COOLDOWN_S
    assert here.wait_s(later) == there.wait_s(later) == 0
    there.began(later)
    assert here.wait_s(later) > 0 and there.wait_s(later) > 0
    there.failed(later)
    there.ended()
    assert here.wait_s(later) == there.wait_s(later) == 2 * COOLDOWN_S
    later += 2 * COOLDOWN_S
    here.began(later)
    here.succeeded(0.1)
    assert here.wait_s(later) == there.wait_s(later) == there.failures == 0
    here.pause(later, 7.0)
    assert there.pause_s(later) == 7.0


def test_workers_have_no_more_lines_of_batches_under_way_at_a_model_than_one_may(tables: Tables) -> None:
    here, there = (Spare(table) for table in tables)
    assert [spare.take("m", 3) for spare in (here, there, here, there, here)] == [True, True, True, False, False]
    assert there.take("other", 1) and (here.lines, there.lines) == (2, 2)
    here.leave("m")
    assert there.take("m", 3) and not here.take("m", 3)
    alone = Spare(None)
    assert [alone.take("m", 2) for _ in range(3)] == [True, True, False]
    alone.leave("m")
    assert alone.lines == 1 and alone.take("m", 2)


DIES = """
import asyncio, sys
from pathlib import Path
from tests.until import LIMIT_S, until
from tests.proxy.test_window import Crowd
from proxy.health import COOLDOWN_S, Health
from proxy.place_table import PlaceTable
from proxy.spare import Spare

async def main():
    table = PlaceTable(Path(sys.argv[1]))
    tried = Health(1, table.vitals("m"))
    tried.failed(0.0)
    tried.began(COOLDOWN_S)
    assert Spare(table).take("m", 1)
    crowd = Crowd(table, places=2)
    for name in ("runs", "runs too", "waits"):
        await crowd.come(name, priority=9)
    print(crowd.order, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_a_killed_worker_s_places_come_back_and_nothing_waits_for_those_who_waited_there(
    tables: Tables, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", DIES, str(tmp_path)]
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "['runs', 'runs too']\n"

        async def act() -> None:
            crowd = Crowd(tables[0], places=2)
            health, spare = Health(1, tables[0].vitals("m")), Spare(tables[0])
            waits = await crowd.come("a")
            assert crowd.queue.waiting == 1 and not spare.take("m", 1)
            assert health.vitals.in_flight == 1 and health.wait_s(COOLDOWN_S) > 0
            other.kill()
            other.wait()
            assert await waits is crowd.windows[0][1]
            await crowd.come("b")
            assert crowd.order == ["a", "b"] and crowd.windows[0][1].places.occupied == 2
            assert health.vitals.in_flight == health.wait_s(COOLDOWN_S) == 0 and spare.take("m", 1)

        run(act)


def test_what_was_counted_and_learned_ends_with_the_last_worker_and_not_before(tmp_path: Path) -> None:
    first, second = PlaceTable(tmp_path), PlaceTable(tmp_path)
    window_of(first, limit=7.0, taken=2)
    first.close()
    window = Window(BOUNDS, second.places("m"))
    assert (window.limit, window.places.occupied) == (7.0, 0)
    third = PlaceTable(tmp_path)
    assert third.seat == 0, "a seat that was left is taken again"
    second.close()
    assert Window(BOUNDS, third.places("m")).limit == 7.0
    third.close()
    again = PlaceTable(tmp_path)
    assert Window(BOUNDS, again.places("m")).limit == Window(BOUNDS, again.places("new")).limit == 8.0
    again.close()


def test_more_workers_and_more_deployments_than_there_is_room_for_are_refused_by_name(tmp_path: Path) -> None:
    seats = [SharedMap(tmp_path / "seats", "x", 8) for _ in range(WORKERS)]
    with pytest.raises(ServeError, match="seats has 32 workers already; run fewer"):
        SharedMap(tmp_path / "seats", "x", 8)
    for seat in seats:
        seat.close()
    table = PlaceTable(tmp_path)
    for number in range(DEPLOYMENTS):
        table.places(f"d{number}")
    with pytest.raises(ServeError, match="only 512 deployments can have a limit; 'one more' is one more"):
        table.places("one more")
    table.close()


class Crowded:
    """An upstream that keeps requests until it is let go or they are given up, and knows how many it had at once."""

    def __init__(self, body_of: Callable[[Received], bytes] = lambda _: answer_of()) -> None:
        self.here = self.most = self.came = 0
        self._body_of = body_of
        self.goes_on = threading.Event()

    async def __call__(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.here, self.came = self.here + 1, self.came + 1
        self.most = max(self.most, self.here)
        try:
            while not self.goes_on.is_set() and not reader.at_eof():
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.005)  # the others that were let in too soon come meanwhile
        finally:
            self.here -= 1
        writer.write(reply(self._body_of(request), "content-type: application/json"))


def shown(running: Workers, metric: str) -> dict[int, float]:
    """Return what each worker shows of its one deployment, by its process id."""
    with urllib.request.urlopen(f"{running.url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    found = [line for line in lines if line.startswith(f"farthing_{metric}{{")]
    return {int(re.search(r'worker="(\d+)"', line)[1]): float(line.split()[-1]) for line in found}  # type: ignore[index]


def concurrency(rig: Rig, **action: object) -> None:
    rig.apply(
        "apiVersion: farthing/v1\nkind: Policy\nmetadata: {name: window}\nmatch: {model: gpt-plain}\n"
        f"action: {{concurrency: {json.dumps(action)}}}\n"
    )


def test_two_workers_hold_a_limit_exactly_and_what_a_killed_one_had_comes_back(rig: Rig, tmp_path: Path) -> None:
    crowded = Crowded()
    rig.upstream.next(crowded)
    concurrency(rig, min=3, max=3, queue=40, max_wait_ms=300_000)
    with workers(rig, tmp_path, max_in_flight=7) as running, ThreadPoolExecutor(40) as pool:
        until(lambda: list(shown(running, "window").values()) == [3, 3], "both know the policy")
        calls = [pool.submit(outcome, rig, running) for _ in range(40)]
        until(lambda: crowded.here == 3 and sum(shown(running, "queue_depth").values()) == 37, "37 wait for 3")
        taken: dict[int, float] = {}
        until(lambda: taken.update(shown(running, "window_taken")) or sum(taken.values()) == 3, "all are shown")
        assert (crowded.came, crowded.most) == (3, 3)
        killed = max(taken, key=lambda pid: taken[pid])
        running.kill(killed)
        survivor = running.processes[0].pid
        until(lambda: shown(running, "window_taken") == {survivor: 3}, "the other worker has all places")
        until(lambda: crowded.here == 3 and crowded.came == 3 + taken[killed], "and uses them")
        crowded.most = 3
        crowded.goes_on.set()
        outcomes = [call.result() for call in calls]
        until(lambda: shown(running, "window_taken") == {survivor: 0}, "all places are free")
    assert crowded.most == 3 and 0 < outcomes.count(200) == 40 - outcomes.count("killed") < 40
    assert crowded.came == outcomes.count(200) + taken[killed]


@pytest.mark.proof  # its short form is in test_micro_batch.py
def test_two_workers_have_no_more_batches_of_embeddings_under_way_than_a_policy_says_together(
    rig: Rig, tmp_path: Path
) -> None:
    crowded = Crowded(embeds)
    rig.upstream.next(crowded)
    rig.apply(
        "apiVersion: farthing/v1\nkind: Policy\nmetadata: {name: gather-crowd}\nmatch: {team: crowd}\n"
        "action: {micro_batch: {max_inputs: 1, concurrent: 3}}\n"
    )
    concurrency(rig, min=64, max=64)
    body = json.dumps({"model": "gpt-plain", "input": "a"}).encode()
    with workers(rig, tmp_path) as running, ThreadPoolExecutor(40) as pool:
        until(lambda: list(shown(running, "window").values()) == [64, 64], "both know the policies")
        calls = [pool.submit(outcome, rig, running, body, "/v1/embeddings") for _ in range(40)]
        until(lambda: sum(shown(running, "in_flight").values()) == 40, "all calls are here")
        until(lambda: crowded.here == 3, "three are under way")
        assert (crowded.came, crowded.most) == (3, 3)
        taken: dict[int, float] = {}
        until(lambda: taken.update(shown(running, "micro_batches_under_way")) or sum(taken.values()) == 3, "as shown")
        killed = max(taken, key=lambda pid: taken[pid])
        running.kill(killed)
        until(lambda: crowded.here == 3 and crowded.came == 3 + taken[killed], "the other worker has all places")
        crowded.most = 3
        crowded.goes_on.set()
        outcomes = [call.result() for call in calls]
    assert crowded.most == 3 and 0 < outcomes.count(200) == 40 - outcomes.count("killed") < 40
    assert crowded.came == outcomes.count(200) + taken[killed]


def outcome(rig: Rig, running: Workers, body: bytes = BODY, path: str = "/v1/chat/completions") -> int | str:
    try:
        return post(rig, "crowd", body, running.url, path).status
    except (ConnectionError, http.client.HTTPException):
        return "killed"


def test_a_window_that_one_worker_s_upstream_refuses_shrinks_for_both(rig: Rig, tmp_path: Path) -> None:
    concurrency(rig, min=1, max=64)
    rig.upstream.next(answers(b"{}", status=429))
    with workers(rig, tmp_path) as running:
        until(lambda: list(shown(running, "window").values()) == [8, 8], "both know the policy")
        assert post(rig, "crowd", BODY, running.url).status == 429
        until(lambda: list(shown(running, "window").values()) == [1, 1], "both have learned from one call")
