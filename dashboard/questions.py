"""Asks the warehouse without holding up the event loop.

Dash runs a plain callback on the loop, so every question goes through a thread. Two at a time keep both cores of a
small machine busy; more only lengthen each other. A question that is already under way is not asked again.
"""
from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from farthing.warehouse import Warehouse

PART = "dashboard"
AT_ONCE = 2

Rows = list[dict[str, Any]]
Key = tuple[str, tuple[tuple[str, object], ...]]


@dataclass
class Questions:
    """The questions of one tenant; belongs to one event loop."""

    warehouse: Warehouse
    tenant: str
    at_once: int = AT_ONCE
    _under_way: dict[Key, asyncio.Task[Rows]] = field(default_factory=dict)
    _slots: asyncio.Semaphore | None = None

    async def ask(self, question: str, **values: object) -> Rows:
        """Answer one of the warehouse's questions.

        Raises:
            WarehouseError: the store refused, or a limit on time, rows or memory was reached.
        """
        key = _key(question, values)
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(self._ask(question, values))
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return await asyncio.shield(task)  # a reader who leaves must not take the answer from the others

    async def _ask(self, question: str, values: Mapping[str, object]) -> Rows:
        self._slots = self._slots or asyncio.Semaphore(self.at_once)
        async with self._slots:
            return await asyncio.to_thread(
                self.warehouse.ask, question, tenant=self.tenant, part=PART, **values
            )


def _key(question: str, values: Mapping[str, object]) -> Key:
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return question, tuple(sorted(plain.items(), key=lambda item: item[0]))
