"""A third of the requests meets a fault: what share is answered, how much later, and is anything paid or held twice?

The first deployment of a pool misbehaves, the second is well; every fault once with the pool alone and once with a
hedge. `make proof` prints the table of the long form.
"""
from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import Counter
from dataclasses import dataclass

import pytest

from farthing import semconv
from tests.proxy.rig import (
    EVENTS,
    Behaviour,
    Received,
    Rig,
    answer_of,
    answers,
    asked,
    hangs,
    post,
    resets,
    streams,
    until,
)

DEADLINE_MS = "30000"
HANGING_MS = "3000"  # where somebody hangs until then
HEDGE = {"after_ms": 60, "max_share": 1}
MALFORMED = b"data: {not json\n\ndata: \x00\xff\n\n: only a comment\n\n" + EVENTS[:40] + b"\n\n"


async def slow(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.15)
    await well(request, reader, writer)


async def well(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await (streams(EVENTS) if request.json.get("stream") else answers(answer_of()))(request, reader, writer)


# Fault -> what it does, whether it is a stream's, and whether the pool, and the pool with a hedge, hide all of it
FAULTS: dict[str, tuple[Behaviour | None, bool, bool, bool]] = {
    "refuse": (None, False, True, True),
    "reset": (resets, False, False, False),  # it may have begun, so that it is not sent again
    "hang": (hangs, False, False, True),
    "slow": (slow, False, True, True),
    "429": (answers(b"{}", status=429), False, True, True),
    "500": (answers(b"{}", status=500), False, True, True),
    "cut at byte 0": (streams(EVENTS, cut_at=0), True, False, False),
    "cut at byte 100": (streams(EVENTS, cut_at=100), True, False, False),
    "malformed SSE": (streams(MALFORMED), True, False, False),
}


@dataclass(frozen=True)
class Outcome:
    """One row of the table."""

    asked: int
    answered: int
    median_ms: float
    worst_ms: float
    double: int  # requests whose hold was settled more than once
    held_nusd: int
    leaked: int  # connections on which the upstream still waits
    overrun_nusd: int

    @property
    def share(self) -> float:
        return self.answered / self.asked


def every_third(fault: Behaviour) -> Behaviour:
    count = 0

    async def behave(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        if request.path.startswith("/west"):
            await well(request, reader, writer)
            return
        count += 1
        await (fault if count % 3 == 0 else well)(request, reader, writer)

    return behave


def measure(rig: Rig, fault: str, hedged: bool, count: int) -> Outcome:
    behave, is_stream, _, _ = FAULTS[fault]
    team = rig.budget()
    pool = {"strategy": "fixed", "deployment": "eastern"} if behave else {"strategy": "fixed", "deployment": "pair/1"}
    rig.policy(team, route=pool | ({"hedge": HEDGE} if hedged else {}))
    rig.upstream.next(every_third(behave) if behave else well)
    body = json.dumps(asked("many" if behave else "pair", stream=is_stream)).encode()
    waits: list[float] = []
    answered = 0
    for _ in range(count):
        started = time.monotonic()
        told = post(rig, team, body, **{semconv.HEADER_DEADLINE: HANGING_MS if behave is hangs else DEADLINE_MS})
        waits.append((time.monotonic() - started) * 1000)
        answered += told.status == 200 and is_whole(told.whole, is_stream)  # type: ignore[attr-defined]
    until(lambda: rig.upstream.busy == 0, "no connection is left waiting")
    rig.quiet()
    settled = Counter(row["request_id"] for row in rig.settlements(team))
    balance = rig.balance(team)
    assert len(settled) >= count
    return Outcome(
        count, answered, statistics.median(waits), max(waits), sum(times > 1 for times in settled.values()),
        balance["held_nusd"], rig.upstream.busy, balance["overrun_nusd"],
    )  # fmt: skip


def is_whole(body: bytes, is_stream: bool) -> bool:
    if not is_stream:
        return json.loads(body)["choices"][0]["message"]["content"] == "hello"
    return b'"he"' in body and b'"llo"' in body and b"[DONE]" in body


@pytest.mark.parametrize("hedged", [False, True], ids=["pool", "hedged"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_hidden_where_it_can_be_and_nothing_is_paid_twice_or_leaked(
    rig: Rig, fault: str, hedged: bool
) -> None:
    hides = FAULTS[fault][3 if hedged else 2]
    found = measure(rig, fault, hedged, 3)
    assert (found.double, found.held_nusd, found.leaked, found.overrun_nusd) == (0, 0, 0, 0)
    assert found.answered == (3 if hides else 2)


@pytest.mark.proof
def test_the_table_of_faults(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    count = 150
    measure(rig, "429", False, 6)  # the first requests open what the others use
    lines = [f"{'fault':16} {'':7} {'answered':>8} {'median ms':>10} {'worst ms':>9} {'double':>7} {'leaked':>7}"]
    for fault in FAULTS:
        for hedged in (False, True):
            found = measure(rig, fault, hedged, count)
            assert (found.double, found.held_nusd, found.leaked, found.overrun_nusd) == (0, 0, 0, 0)
            lines.append(
                f"{fault:16} {'hedged' if hedged else 'pool':7} {found.share:8.1%} {found.median_ms:10.1f} "
                f"{found.worst_ms:9.1f} {found.double:7} {found.leaked:7}"
            )
    with capsys.disabled():
        print("\n" + "\n".join(lines))
