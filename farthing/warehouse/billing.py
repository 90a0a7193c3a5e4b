"""Which row carries the money where several describe one call: a pure function of the rows.

Rows are one call where they are the same span delivered twice, where the provider gave both the same response id, or
where one is the parent span of the other. A parent of several calls, such as a router's span, is a duplicate of all of
them. Neither the order of arrival nor the order of the rows changes what comes out, except between exact equals.
"""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

BILLED, DUPLICATE, REPLAYED = 0, 1, 2
REASONS = {BILLED: "", DUPLICATE: "duplicate", REPLAYED: "replayed"}
PROXY_RANK = 8  # of a row that the proxy wrote; see `rank` in upkeep/calls.sql

Place = tuple[int, int]  # block number and offset: names one row for good, copies of one span apart


class Row(NamedTuple):
    """A row of `requests` as far as this question needs it; keys are hashes and 0 stands for none."""

    started_us: int
    place: Place
    span: int  # of tenant, trace and span id
    parent: int  # the same of the parent's span id
    response: int  # of tenant and response id; 0 also for a call that an application's own cache answered
    rank: int  # how much the row can be trusted with the money; the higher wins
    received_ms: int
    verdict: int  # as it is stored: BILLED, DUPLICATE or REPLAYED


def corrections(rows: Sequence[Row]) -> list[tuple[Row, int]]:
    """Return the rows whose stored verdict is wrong, each with the right one."""
    firsts, verdicts = _without_copies(rows)
    verdicts |= {row.place: DUPLICATE for row in _duplicates(firsts)}
    right = ((row, verdicts.get(row.place, BILLED)) for row in rows)
    return [(row, verdict) for row, verdict in right if verdict != row.verdict]


def _without_copies(rows: Iterable[Row]) -> tuple[list[Row], dict[Place, int]]:
    """Return one row per span, and the verdict on the copies."""
    first: dict[int, Row] = {}
    copies: dict[Place, int] = {}
    for row in rows:
        other = first.setdefault(row.span, row)
        if other is row:
            continue
        kept, copy = sorted((other, row), key=_before_copies)
        first[row.span] = kept
        copies[copy.place] = REPLAYED
    return list(first.values()), copies


def _before_copies(row: Row) -> tuple[int, ...]:
    return -row.rank, row.received_ms, *row.place


def _duplicates(rows: list[Row]) -> list[Row]:
    """Return the rows of which another row carries the money."""
    calls: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        calls[_call(row)].append(row)
    below = _calls_below(rows)
    if not below and len(calls) == len(rows):
        return []
    ranks = {call: max(row.rank for row in group) for call, group in calls.items()}
    covered = _covered(below, ranks)
    parents = {row.parent for row in rows}
    proxies_parents = {row.parent for row in rows if row.rank >= PROXY_RANK}
    duplicates: list[Row] = []
    for call, group in calls.items():
        if call in covered:
            duplicates += group
        elif len(group) > 1:
            first = min(group, key=lambda row: _before(row, parents))
            # What the proxy answers is a call of its own, also from its cache, unless another proxy stands behind it.
            duplicates += [
                row for row in group if row is not first and (row.rank < PROXY_RANK or row.span in proxies_parents)
            ]
    return duplicates


def _call(row: Row) -> int:
    """Return what the call of a row is known by: the answer where the provider named it, else the span."""
    return row.response or row.span


def _before(row: Row, parents: Collection[int]) -> tuple[int, ...]:
    """Sort key of the rows that saw one answer: trusted most, then closest to the wire, then received first."""
    return -row.rank, int(row.span in parents), row.received_ms, row.span


def _calls_below(rows: Iterable[Row]) -> dict[int, set[int]]:
    """Return the calls that were made inside each call, according to the parents of their spans."""
    spans = {row.span: _call(row) for row in rows}
    below: dict[int, set[int]] = defaultdict(set)
    for row in rows:
        above = spans.get(row.parent)
        if above is not None and above != _call(row):
            below[above].add(_call(row))
    return below


def _covered(below: dict[int, set[int]], ranks: Mapping[int, int]) -> set[int]:
    """Return the calls whose money is carried by the calls inside them, or by the one around them.

    A call keeps the money only where nothing inside it is known as well, and then all inside it yields.
    """
    best = _best_below(below, ranks)
    keepers = [call for call, rank in best.items() if rank < ranks[call]]
    covered = best.keys() - set(keepers)
    waiting = keepers
    while waiting:
        inside = below.pop(waiting.pop(), set())
        covered |= inside
        waiting += inside
    return covered


def _best_below(below: dict[int, set[int]], ranks: Mapping[int, int]) -> dict[int, int]:
    """Return the best rank inside each call; without recursion, because a sender decides how deep its spans are."""
    best: dict[int, int] = {}
    for start in sorted(below):
        path, on_path = [start], set[int]()
        while path:
            call = path[-1]
            if call in on_path or call in best:
                path.pop()
                on_path.discard(call)
                best.setdefault(call, max((max(ranks[one], best.get(one, 0)) for one in below[call]), default=-1))
                continue
            on_path.add(call)
            below[call] -= on_path  # spans that name one another as parents
            path += [one for one in below[call] if one in below and one not in best]
    return best
