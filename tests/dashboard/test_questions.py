from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, cast

import pytest

from dashboard.questions import Questions
from farthing.errors import WarehouseError
from farthing.warehouse import Warehouse


class SlowStore:
    """Answers after a while, and counts how many questions it has at once."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.most = self._now = 0
        self._lock = threading.Lock()

    def ask(self, question: str, **values: Any) -> list[dict[str, Any]]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        self.asked.append(question)
        time.sleep(0.05)
        with self._lock:
            self._now -= 1
        if question == "broken":
            raise WarehouseError("the disk is full")
        return [{"question": question, **values}]


def _questions(store: SlowStore) -> Questions:
    return Questions(cast(Warehouse, store), "tenant-1")


def test_the_same_question_under_way_is_asked_once() -> None:
    store = SlowStore()

    async def both() -> list[Any]:
        questions = _questions(store)
        return await asyncio.gather(*[questions.ask("totals", teams=["a"]) for _ in range(5)])

    answers = asyncio.run(both())
    assert store.asked == ["totals"]
    assert answers == [[{"question": "totals", "tenant": "tenant-1", "part": "dashboard", "teams": ["a"]}]] * 5


def test_a_finished_question_is_asked_again() -> None:
    store = SlowStore()

    async def twice() -> None:
        questions = _questions(store)
        await questions.ask("totals")
        await questions.ask("totals")

    asyncio.run(twice())
    assert store.asked == ["totals", "totals"]


def test_at_most_two_questions_run_at_once() -> None:
    store = SlowStore()

    async def many() -> None:
        questions = _questions(store)
        await asyncio.gather(*[questions.ask("totals", limit=number) for number in range(8)])

    asyncio.run(many())
    assert (len(store.asked), store.most) == (8, 2)


def test_questions_do_not_hold_up_the_event_loop() -> None:
    async def measured() -> float:
        asking = asyncio.create_task(_questions(SlowStore()).ask("totals"))
        started = time.perf_counter()
        await asyncio.sleep(0.001)
        waited = time.perf_counter() - started
        await asking
        return waited

    assert asyncio.run(measured()) < 0.04


def test_an_error_reaches_every_asker_and_is_not_kept() -> None:
    store = SlowStore()

    async def fail() -> list[Any]:
        questions = _questions(store)
        return await asyncio.gather(*[questions.ask("broken") for _ in range(2)], return_exceptions=True)

    answers = asyncio.run(fail())
    assert [str(answer) for answer in answers] == ["the disk is full"] * 2
    assert store.asked == ["broken"]


def test_a_reader_who_leaves_does_not_take_the_answer_from_the_others() -> None:
    store = SlowStore()

    async def one_leaves() -> Any:
        questions = _questions(store)
        leaving = asyncio.create_task(questions.ask("totals"))
        staying = asyncio.create_task(questions.ask("totals"))
        await asyncio.sleep(0.01)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        return await staying

    assert len(asyncio.run(one_leaves())) == 1
