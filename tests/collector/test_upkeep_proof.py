"""What the upkeep promises against kills: every call billed once, and sums that agree with the rows.

The file is also the process that is killed: `python test_upkeep_proof.py work|check FOLDER` sends calls that two spans
describe through the real spool, flusher and upkeep over a real chDB store.
"""
from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from collector.commit import GroupCommit
from collector.flush import Flusher
from collector.pricing import Pricing
from collector.spool import Spool
from collector.upkeep import Upkeep
from farthing import otlp, semconv
from farthing.prices import PriceBook
from farthing.warehouse import Warehouse, rollup

CALLS = 50  # in one body, each with two spans
AT = int(datetime(2026, 9, 20, 10, 20, tzinfo=timezone.utc).timestamp()) * 10**9
REPOSITORY = Path(__file__).resolve().parents[2]


def body() -> bytes:
    attributes = otlp.attributes([
        (semconv.OPERATION_NAME, "chat"), (semconv.PROVIDER_NAME, "openai"), (semconv.REQUEST_MODEL, "gpt-4o-mini"),
        (semconv.USAGE_INPUT_TOKENS, 1_000_000), (semconv.USAGE_OUTPUT_TOKENS, 0),
    ])  # fmt: skip
    return otlp.traces([("service.name", "shop")], "test", "1", list(_spans(attributes)))


def _spans(attributes: bytes) -> Iterator[bytes]:
    for _ in range(CALLS):
        trace, outer, inner = random.randbytes(16), random.randbytes(8), random.randbytes(8)
        started = AT + random.randrange(3 * 3600) * 10**9
        window = (started, started)
        yield otlp.span(trace, outer, b"", "chat", window, attributes)
        yield otlp.span(trace, inner, outer, "chat", window, attributes)


def work(folder: Path, rounds: int) -> None:
    """Send, flush and settle; say how many calls were acknowledged so far, then what the warehouse answers."""
    warehouse = Warehouse(f"chdb://{folder / 'store'}")
    warehouse.migrate()
    spool = Spool(folder / "spool", 10**9)
    flusher = Flusher(spool, warehouse, Pricing(warehouse, PriceBook()), 3600)
    upkeep = Upkeep(warehouse, flusher.fresh, 3600)
    print("open", flush=True)
    for _ in range(rounds):
        asyncio.run(GroupCommit(spool).put("proof", body()))
        print("sent", flush=True)
        flusher.flush()
        upkeep.settle()
    if not rounds:
        flusher.flush()
        upkeep.settle()
        print(json.dumps(_answer(warehouse, upkeep)), flush=True)
    warehouse.close()


def _answer(warehouse: Warehouse, upkeep: Upkeep) -> dict[str, object]:
    since, until = (datetime(2026, 9, 20, hour, tzinfo=timezone.utc) for hour in (8, 16))
    asked: dict[str, object] = {"since": since, "until": until, "teams": [], "models": []}
    (fast,) = warehouse.ask("totals", tenant="proof", part="test", **asked)
    (raw,) = warehouse.ask("totals", tenant="proof", part="test", **asked, **rollup.rows_alone(since))
    return {
        "fast": (fast["requests"], str(fast["cost_usd"])),
        "raw": (raw["requests"], str(raw["cost_usd"])),
        "uses_hours": warehouse.boundary.bounds(asked)["rolled_until"] > since,
        "error": upkeep.last_error,
    }


def _started(folder: Path, task: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, task, str(folder)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )


@pytest.mark.parametrize("kills", [2, pytest.param(15, marks=pytest.mark.proof)])
def test_no_kill_leaves_a_call_billed_twice_or_not_at_all(kills: int, tmp_path: Path) -> None:
    chance, sent = random.Random(kills), 0
    for _ in range(kills):
        child = _started(tmp_path, "work")
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        time.sleep(chance.uniform(0.2, 3))
        child.send_signal(signal.SIGKILL)
        sent += child.stdout.read().count("sent")
        child.wait()
        child.stdout.close()
    child = _started(tmp_path, "check")
    answer = json.loads(child.communicate(timeout=300)[0].splitlines()[-1])
    calls, usd = answer["raw"]
    assert answer == {"fast": answer["raw"], "raw": answer["raw"], "uses_hours": True, "error": ""}
    # A body whose acknowledgement the kill cut off may be stored or not.
    assert sent * CALLS <= calls <= (sent + kills) * CALLS
    assert calls % CALLS == 0
    assert float(usd) == pytest.approx(calls * 0.15)


if __name__ == "__main__":
    work(Path(sys.argv[2]), rounds=10_000 if sys.argv[1] == "work" else 0)
