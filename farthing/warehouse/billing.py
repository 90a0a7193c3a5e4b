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

# Block number and offset: names one row of a span for good. Each node of a cluster, and each partition there, counts
# its own blocks, so rows of different spans may lie at one.
Place = tuple[int, int]


class Row(NamedTuple):
    """A row of `requests` as far as this question needs it; keys are hashes and 0 stands for none."""

    started_us: int
    place: Place
    span: int  # of tenant, trace and span id
    parent: int  # the same of the parent's span id
    response: int  # of tenant and response id; 0 also where that joins no calls (fragments/no_answer.sql)
    rank: int  # how much the row can be trusted with the money; the higher wins
    received_ms: int
    verdict: int  # as it is stored: BILLED, DUPLICATE or REPLAYED


def corrections(rows: Sequence[Row]) -> list[tuple[Row, int]]:
    """Return the rows whose stored verdict is wrong, each with the right one."""
    firsts, verdicts = _without_copies(rows)
    verdicts |= {(row.span, row.place): DUPLICATE for row in _duplicates(firsts)}
    right = ((row, verdicts.get((row.span, row.place), BILLED)) for row in rows)
    return [(row, verdict) for row, verdict in right if verdict != row.verdict]


def _without_copies(rows: Iterable[Row]) -> tuple[list[Row], dict[tuple[int, Place], int]]:
    """Return one row per span, and the verdict on the copies."""
    first: dict[int, Row] = {}
    copies: dict[tuple[int, Place], int] = {}
    for row in rows:
        other = first.setdefault(row.span, row)
        if other is row:
            continue
        kept, copy = sorted((other, row), key=_before_copies)
        first[row.span] = kept
        copies[copy.span, copy.place] = REPLAYED
    return list(first.values()), copies


def _before_copies(row: Row) -> tuple[int, ...]:
    return -row.rank, row.received_ms, *row.place


def _duplicates(rows: list[Row]) -> list[Row]:
    """Return the rows of which another row carries the money."""
    names = _names(rows)
    calls: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        calls[names[row.span]].append(row)
    below = _calls_below(rows, names)
    if not below and len(calls) == len(rows):
        return []
    ranks = {call: max(row.rank for row in group) for call, group in calls.items()}
    covered = _covered(below, ranks)
    parents = {row.span: row.parent for row in rows}
    above = set(parents.values())
    duplicates: list[Row] = []
    for call, group in calls.items():
        if call in covered:
            duplicates += group
        elif len(group) > 1:
            kept = {min(one, key=lambda row: _before(row, above)).span for one in _shares(group, parents)}
            duplicates += [row for row in group if row.span not in kept]
    return duplicates


def _shares(group: Sequence[Row], parents: Mapping[int, int]) -> Iterable[list[Row]]:
    """Return the rows of one answer, apart where each part has money of its own.

    What the proxy answers is a call of its own, also from its cache, unless another proxy lies behind or before it.
    """
    proxies = {row.span: row for row in group if row.rank >= PROXY_RANK}
    if not proxies:
        return [list(group)]
    tops: dict[int, int] = {}  # span -> the outermost of these proxies around it, itself included; 0 = none
    chains: dict[int, list[Row]] = defaultdict(list)
    for span, row in proxies.items():
        path: list[int] = []
        seen: set[int] = set()
        at = span
        while at in parents and at not in tops and at not in seen:
            path.append(at)
            seen.add(at)
            at = parents[at]
        top = tops.get(at, 0)
        for one in reversed(path):
            top = top or (one if one in proxies else 0)
            tops[one] = top
        chains[tops[span]].append(row)
    return chains.values()


def _names(rows: Iterable[Row]) -> dict[int, int]:
    """Return what the call of each span is known by: the answer where the provider named it, else the span.

    Calls that lie inside one another are one: rows of one answer with a span between them that names none.
    """
    names = {row.span: row.response or row.span for row in rows}
    while around := _circles(_calls_below(rows, names)):
        names = {span: around.get(name, name) for span, name in names.items()}
    return names


def _circles(below: dict[int, set[int]]) -> dict[int, int]:
    """Return calls that lie inside one another, each with the name that they are to share; not all need be found."""
    shared: dict[int, int] = {}
    done: set[int] = set()
    for start in sorted(below):
        path: list[int] = []
        depth: dict[int, int] = {}
        ahead = [(start, False)]
        while ahead:
            call, is_left = ahead.pop()
            if is_left:
                path.pop()
                del depth[call]
                done.add(call)
            elif call in depth:
                circle = path[depth[call] :]
                shared |= dict.fromkeys(circle, min(circle))
            elif call not in done:
                depth[call] = len(path)
                path.append(call)
                ahead.append((call, True))
                ahead += [(one, False) for one in sorted(below.get(call, ()))]
    return shared


def _before(row: Row, parents: Collection[int]) -> tuple[int, ...]:
    """Sort key of the rows that saw one answer: trusted most, then closest to the wire, then received first."""
    return -row.rank, int(row.span in parents), row.received_ms, row.span


def _calls_below(rows: Iterable[Row], names: Mapping[int, int]) -> dict[int, set[int]]:
    """Return the calls that were made inside each call, according to the parents of their spans."""
    below: dict[int, set[int]] = defaultdict(set)
    for row in rows:
        above = names.get(row.parent)
        if above is not None and above != names[row.span]:
            below[above].add(names[row.span])
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
    """Return the best rank inside each call, none of which lies inside itself; a sender decides how deep they go."""
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
            path += [one for one in below[call] if one in below and one not in best]
    return best
