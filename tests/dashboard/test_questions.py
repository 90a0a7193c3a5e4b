from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest

from dashboard.questions import Questions
from farthing.errors import WarehouseError
from farthing.warehouse import Warehouse


class SlowStore:
    """Answers once it is let, and counts how many questions it has at once."""

    def __init__(self, together: int = 1) -> None:
        self.asked: list[str] = []
        self.most = self._now = 0
        self.may_answer = threading.Event()
        self._lock = threading.Lock()
        self._together = threading.Barrier(together)  # it answers so many at a time

    def ask(self, question: str, **values: Any) -> list[dict[str, Any]]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        self.asked.append(question)
        self._together.wait(120)
        assert self.may_answer.wait(120)
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
        asking = asyncio.gather(*[questions.ask("totals", teams=["a"]) for _ in range(5)])
        await asyncio.sleep(0)
        store.may_answer.set()
        return await asking

    answers = asyncio.run(both())
    assert store.asked == ["totals"]
    assert answers == [[{"question": "totals", "tenant": "tenant-1", "part": "dashboard", "teams": ["a"]}]] * 5


def test_a_finished_question_is_asked_again() -> None:
    store = SlowStore()

    async def twice() -> None:
        store.may_answer.set()
        questions = _questions(store)
        await questions.ask("totals")
        await questions.ask("totals")

    asyncio.run(twice())
    assert store.asked == ["totals", "totals"]


def test_at_most_two_questions_run_at_once() -> None:
    store = SlowStore(together=2)

    async def many() -> None:
        store.may_answer.set()
        questions = _questions(store)
        await asyncio.gather(*[questions.ask("totals", limit=number) for number in range(8)])

    asyncio.run(many())
    assert (len(store.asked), store.most) == (8, 2)


def test_questions_do_not_hold_up_the_event_loop() -> None:
    store = SlowStore()

    async def both() -> list[Any]:
        asking = asyncio.create_task(_questions(store).ask("totals"))
        while not store.asked:
            await asyncio.sleep(0)
        store.may_answer.set()  # which the loop could not do if it waited for the answer
        return await asking

    assert len(asyncio.run(both())) == 1


def test_an_error_reaches_every_asker_and_is_not_kept() -> None:
    store = SlowStore()

    async def fail() -> list[Any]:
        questions = _questions(store)
        asking = asyncio.gather(*[questions.ask("broken") for _ in range(2)], return_exceptions=True)
        await asyncio.sleep(0)
        store.may_answer.set()
        return await asking

    answers = asyncio.run(fail())
    assert [str(answer) for answer in answers] == ["the disk is full"] * 2
    assert store.asked == ["broken"]


def test_a_reader_who_leaves_does_not_take_the_answer_from_the_others() -> None:
    store = SlowStore()

    async def one_leaves() -> Any:
        questions = _questions(store)
        leaving = asyncio.create_task(questions.ask("totals"))
        staying = asyncio.create_task(questions.ask("totals"))
        while not store.asked:
            await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        store.may_answer.set()
        return await staying

    assert len(asyncio.run(one_leaves())) == 1
