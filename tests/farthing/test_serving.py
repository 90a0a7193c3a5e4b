"""farthing/serving.py: a process that serves."""
from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, gc, os, signal
from farthing.serving import Site, run

async def app(scope, receive, send):
    for _ in range(2):
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})

def ready():
    made = gc.get_freeze_count()
    print(made, sum(1 for _ in gc.get_objects()), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

asyncio.run(run([Site("collector", app, "127.0.0.1", 0)], ready))
"""


def test_what_the_start_made_is_not_looked_at_by_every_full_garbage_collection() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    frozen, looked_at = (int(number) for number in ran.stdout.split())
    assert frozen > 10 * looked_at
