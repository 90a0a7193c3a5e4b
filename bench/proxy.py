"""Claim: a governed request costs a proxy microseconds, an event a few, a policy change reaches all within 100 ms.

    python bench/proxy.py [--windows 20] [--requests 1600] [--streams 64] [--requests-flat 200000] [--changes 100]

One proxy worker with virtual keys, 100 policies, budgets, an exact cache and telemetry, behind the real control plane;
then nginx and LiteLLM, in the same run on the same core; upstream, collector and load on the other one. `json_us` has
all of that on, and no request is like another, so each is looked up, held, settled, recorded and kept; `hit_us` is
answered from the cache. Prints lines for people, then one line of JSON; exit 1 on a missed limit. A peer that cannot be
had is left out with its limits.
"""
from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from proxy_change import changed
from proxy_governed import governed
from proxy_latency import added_ms
from proxy_load import Ask, Server, event_us, fresh, load, request_of, request_us, same, stream_of
from proxy_peers import LITELLM, LITELLM_KEY, find_litellm, find_nginx, litellm_before, nginx_before
from proxy_upstream import upstream
from servers import pin, rss_mb
from verdict import conclude

LIMITS = {
    "json_us": ("<=", 80.0),
    "hit_us": ("<=", 60.0),
    "sse_event_us": ("<=", 6.0),
    "added_ms": ("<=", 0.15),
    "added_ttft_ms": ("<=", 0.3),
    "rss_mb": ("<=", 80.0),
    "rss_growth_mb": ("<=", 2.0),  # from a tenth of the requests to all of them: 11 bytes a request
    "change_p99_ms": ("<=", 100.0),
    "streams_cut": ("<=", 0.0),
}
PEER_LIMITS = {
    "json_us_over_nginx": ("<=", 5.0),
    "sse_event_us_over_nginx": ("<=", 5.0),
    "litellm_json_us_over_ours": (">=", 100.0),
    "litellm_sse_event_us_over_ours": (">=", 100.0),
}
COSTS = ("json_us", "sse_event_us")  # that peers have too


def main() -> int:
    """Measure ours and the peers, judge the claim."""
    arguments = _arguments()
    pin(os.getpid(), 0)
    figures = measure(arguments)
    limits = LIMITS | {name: limit for name, limit in PEER_LIMITS.items() if name in figures}
    for name, value in figures.items():
        print(f"{name:32} {value:10.2f}" + (f"  ({' '.join(map(str, limits[name]))})" if name in limits else ""))
    return conclude("proxy", figures, limits, litellm=LITELLM, load1=round(os.getloadavg()[0], 1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--windows", type=int, default=20, help="of which the lowest counts: other work only ever adds")
    parser.add_argument("--requests", type=int, default=1600, help="of a window")
    parser.add_argument("--streams", type=int, default=64, help="at once")
    parser.add_argument("--pairs", type=int, default=2000, help="calls through the proxy and directly, in turns")
    parser.add_argument("--requests-flat", type=int, default=200_000, help="over which memory may not grow")
    parser.add_argument("--changes", type=int, default=100, help="of a policy")
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Return all figures; those of a peer only where it can be had."""
    with tempfile.TemporaryDirectory() as name, upstream() as model:
        folder = Path(name)
        figures = ours(arguments, _made(folder / "one"), model)
        figures |= changed(_made(folder / "two"), model, arguments.changes)
        nginx, why = find_nginx()
        if nginx:
            with nginx_before(folder, nginx, model) as server:
                costs = peer(server, "", arguments.windows, arguments.requests, arguments.streams)
                ask, stream = fresh(request_of("")), fresh(stream_of("", 1))
                adds = added_ms(server.port, model, ask, stream, arguments.pairs)
            figures |= {f"nginx_{name}": value for name, value in {**costs, **adds}.items()}
            figures |= {f"{cost}_over_nginx": round(figures[cost] / costs[cost], 2) for cost in COSTS}
        else:
            print(f"nginx is left out: {why}")
        litellm, why = find_litellm()
        if litellm:
            with litellm_before(folder, litellm, model) as server:
                costs = peer(server, LITELLM_KEY, max(1, arguments.windows // 4), max(16, arguments.requests // 10), 2)
                figures["litellm_rss_mb"] = round(rss_mb(server.pid), 1)
            figures |= {f"litellm_{cost}": costs[cost] for cost in COSTS}
            figures |= {f"litellm_{cost}_over_ours": round(costs[cost] / figures[cost], 1) for cost in COSTS}
        else:
            print(f"LiteLLM is left out: {why}")
    return figures


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def ours(arguments: argparse.Namespace, folder: Path, model: int) -> dict[str, float]:
    """Return the figures of one governed worker."""
    with governed(folder, model) as running:
        (server,), keys = running.workers, running.keys
        kinds = {
            "json_us": fresh(request_of(keys["governed"])),
            "hit_us": same(request_of(keys["governed"])),
            "held_us": fresh(request_of(keys["held"])),
            "plain_us": fresh(request_of(keys["plain"])),
        }
        figures = request_us(server, kinds, arguments.windows, arguments.requests)
        figures["ledger_us"] = round(figures["held_us"] - figures["plain_us"], 2)
        figures["cache_us"] = round(figures["json_us"] - figures["held_us"], 2)  # looked up in vain, then kept
        windows = _stream_windows(arguments.windows)
        figures["sse_event_us"] = event_us(server, keys["governed"], windows, arguments.streams)
        stream = fresh(stream_of(keys["governed"], 1))
        figures |= added_ms(server.port, model, kinds["json_us"], stream, arguments.pairs)
        figures |= grown(server, kinds["json_us"], arguments.requests_flat)
    return figures


def peer(server: Server, key: str, windows: int, requests: int, streams: int) -> dict[str, float]:
    """Return what a request and an event cost another server."""
    figures = request_us(server, {"json_us": fresh(request_of(key))}, windows, requests)
    return figures | {"sse_event_us": event_us(server, key, _stream_windows(windows), streams)}


def _stream_windows(windows: int) -> int:
    return max(1, windows // 3)  # each takes more than a second


def grown(server: Server, ask: Ask, requests: int) -> dict[str, float]:
    """Return a worker's memory after so many requests, and how much came since the first tenth."""
    asyncio.run(load(server.port, ask, requests // 10))
    server.settle()
    early = rss_mb(server.pid)
    asyncio.run(load(server.port, ask, requests - requests // 10))
    server.settle()
    late = rss_mb(server.pid)
    return {"rss_mb": round(late, 1), "rss_growth_mb": round(late - early, 2)}


if __name__ == "__main__":
    raise SystemExit(main())
