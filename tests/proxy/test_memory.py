"""A worker's memory: bounded, and flat however many calls, users and prompts pass through it."""
from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from farthing import http_json
from tests.conftest import REPOSITORY
from tests.ports import free_port
from tests.proxy.rig import Rig, answer_of, answers, asked, until

CALLERS = 16
PAGE = os.sysconf("SC_PAGE_SIZE")
POLICIES = """
apiVersion: farthing/v1
kind: Policy
metadata: {name: soak-cache}
match: {team: [soak]}
action: {cache: {max_bytes: 1000000}}
---
apiVersion: farthing/v1
kind: Budget
metadata: {name: soak}
scope: {team: soak}
limit: 1000000 USD
---
apiVersion: farthing/v1
kind: Limit
metadata: {name: soak}
scope: {team: soak}
each: user
requests_per_minute: 1000000
tokens_per_minute: 1000000000
in_flight: 1000
"""


@contextlib.contextmanager
def worker(rig: Rig, folder: Path) -> Iterator[tuple[int, int]]:
    """Run one worker as a process of its own that asks for keys; yield its pid and port."""
    port, url = free_port(), vars(rig.settings)["deployments"][1].url
    (folder / "farthing.toml").write_text(
        f"[[deployments]]\nmodel = 'gpt-plain'\nurl = '{url}'\nprovider = 'openai'\nmetered = true\n"
        "[[prices]]\nprovider = 'openai'\nmodel = 'gpt-plain'\ninput = '1'\noutput = '2'\n"
    )
    environ = {
        **os.environ, "FARTHING_CONFIG": str(folder / "farthing.toml"), "FARTHING_DATA_DIR": str(folder / "data"),
        "FARTHING_PROXY_PORT": str(port), "FARTHING_POLICIES_URL": rig.policies, "FARTHING_REQUIRE_PROXY_KEY": "true",
        "FARTHING_COLLECTOR_URL": vars(rig.settings)["collector_url"],
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "farthing", "proxy"], cwd=REPOSITORY, env=environ)
    try:
        until(lambda: _answers(port), "the worker answers")
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(300)


def _answers(port: int) -> bool:
    try:
        return http_json.call("GET", f"http://127.0.0.1:{port}/healthz")["status"] == "ok"
    except Exception:  # noqa: BLE001 - whatever it is, it does not answer yet
        return False


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


async def _call(port: int, secret: str, first: int, count: int) -> None:
    """Make calls one after the other on one connection: every fifth a repeat, each with its user."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in range(first, first + count):
        body = json.dumps(asked(temperature=0, seed=number - number % 5)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\n"
        tags = f"x-farthing-tags: user=u{number % 20_000},team=other\r\n"
        writer.write(f"{head}{tags}content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert answer.startswith(b"http/1.1 200"), answer
        await reader.readexactly(int(answer.split(b"content-length: ")[1].split(b"\r\n")[0]))
    writer.close()
    await writer.wait_closed()


async def _calls(port: int, secret: str, first: int, count: int) -> None:
    share = count // CALLERS
    await asyncio.gather(*(_call(port, secret, first + caller * share, share) for caller in range(CALLERS)))


@pytest.mark.parametrize(
    ("count", "warm", "grows_mb"), [pytest.param(200_000, 40_000, 4, marks=pytest.mark.proof), (4_000, 2_400, 4)]
)
def test_a_worker_stays_below_80_mb_and_does_not_grow(
    rig: Rig, tmp_path: Path, count: int, warm: int, grows_mb: int
) -> None:
    rig.apply(POLICIES)
    name = f"soak-{count}"
    secret = http_json.call("POST", f"{rig.policies}/v1/keys", {"name": name, "team": "soak"})["key"]
    rig.upstream.next(answers(answer_of()))
    with worker(rig, tmp_path) as (pid, port):
        asyncio.run(_calls(port, secret, 0, warm))
        rig.upstream.received.clear()
        rig.upstream.spans.clear()
        before = resident(pid)
        for first in range(warm, count, 10_000):
            asyncio.run(_calls(port, secret, first, min(10_000, count - first)))
            rig.upstream.received.clear()
            rig.upstream.spans.clear()
        after = resident(pid)
    sys.stderr.write(f"\n{count} calls: {before / 1e6:.1f} MB after {warm}, {after / 1e6:.1f} MB at the end\n")
    assert after < 80_000_000 and after - before < grows_mb * 1_000_000
