"""Lets rows go when their time is over: whole partitions, because deleting rows would rewrite all that stay.

A partition goes once its last possible row is past its time, so that rows stay up to a day (spans) or a month (the
others) longer than asked. Dropping needs next to no room, so it also helps a disk that is full.
"""
from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Protocol

log = logging.getLogger(__name__)

_DAY = re.compile(r"(\d{4})-(\d\d)-(\d\d)")
_MONTH = re.compile(r"(\d{4})(\d\d)")


class Store(Protocol):
    """What retention needs of a store."""

    cluster: str

    def rows(self, statement: str) -> Any: ...

    def change(self, statement: str) -> None: ...


@dataclass(frozen=True)
class Partition:
    """A partition of a table, with all of its parts."""

    table: str
    name: str  # a day such as 2026-11-18, or a month such as 202611
    partition_id: str
    rows: int
    size: int  # bytes on the disk

    @property
    def ends(self) -> date | None:
        """The first day after it; None where it is not a range of days."""
        if match := _DAY.fullmatch(self.name):
            return date(*(int(number) for number in match.groups())) + timedelta(days=1)
        if match := _MONTH.fullmatch(self.name):
            year, month = (int(number) for number in match.groups())
            return date(year + month // 12, month % 12 + 1, 1)
        return None


def partitions(store: Store, tables: Iterable[str]) -> list[Partition]:
    """Return the partitions of some tables."""
    names = ", ".join(f"'{name}'" for table in tables for name in (table, f"{table}_local"))
    parts = f"clusterAllReplicas('{store.cluster}', system.parts)" if store.cluster else "system.parts"
    found = store.rows(
        "SELECT replaceRegexpOne(table, '_local$', ''), partition, partition_id, sum(rows), sum(bytes_on_disk) "
        f"FROM {parts} WHERE active AND rows > 0 AND database = currentDatabase() AND table IN ({names}) "
        "GROUP BY 1, 2, 3 ORDER BY 1, 2"
    )
    return [Partition(*row) for row in found]


def expired(held: Iterable[Partition], keep_days: Mapping[str, int], today: date) -> list[Partition]:
    """Return what is past its time; 0 days = for ever. A day is left over for stores that count days elsewhere."""
    gone: list[Partition] = []
    for partition in held:
        days = keep_days.get(partition.table, 0)
        if days and partition.ends is not None and partition.ends + timedelta(days=days + 1) <= today:
            gone.append(partition)
    return gone


def drop_expired(store: Store, keep_days: Mapping[str, int], today: date) -> list[Partition]:
    """Drop what is past its time and return it.

    Raises:
        WarehouseError: the store refused.
    """
    gone = expired(partitions(store, keep_days), keep_days, today)
    for partition in gone:
        statement = f"ALTER TABLE {partition.table} DROP PARTITION ID '{partition.partition_id}'"
        store.change(f"{statement} SETTINGS max_partition_size_to_drop = 0")
        log.info(
            "%s: dropped %s, %d rows, %d bytes; kept are %d days",
            partition.table, partition.name, partition.rows, partition.size, keep_days[partition.table],
        )  # fmt: skip
    return gone
