"""The proxy as it is measured: the real control plane with 100 policies, budgets and virtual keys, telemetry on.

Each key is of the team of its name: `governed` is held against a budget and has its answers cached, `held` has the
budget alone, `plain` neither.
"""
from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy_load import Server
from servers import free_port, process

from farthing import http_json

TEAMS = ("governed", "held", "plain")
CACHE_BYTES = 4 * 1024 * 1024  # of answers; full before memory is first looked at
SETTLE_S = 0.3  # a little more than telemetry waits for more
_HEAD = "apiVersion: farthing/v1\nkind: {kind}\nmetadata: {{name: {name}}}\n"
_MATCHES = (
    "team: team-{n}, model: 'gpt-4*'",
    "model: 'model-{n}*'",
    "tags: {{tier: batch}}, team: team-{n}",
    "feature: [feature-{n}, search], model: ['gpt-4*', 'opus-*']",
)


@dataclass(frozen=True)
class Governed:
    """The running proxy: its workers, each on a port of its own so that each can be asked."""

    control: str  # URL of the control plane
    workers: list[Server]
    keys: dict[str, str]  # by name: its teams, and `operator`, which may see the status


@contextmanager
def governed(
    folder: Path, model: int, workers: int = 1, models: Sequence[str] = ("gpt-4o",), teams: Sequence[str] = TEAMS,
    text: str = "",
) -> Iterator[Governed]:  # fmt: skip
    """Run control plane and workers before the server on port `model`; `text` takes the place of the 100 policies."""
    deployment = f"url = 'http://127.0.0.1:{model}/v1'\nprovider = 'openai'\nmetered = true\n"
    (folder / "farthing.toml").write_text("".join(f"[[deployments]]\nmodel = '{one}'\n{deployment}" for one in models))
    port = free_port()
    environ = {
        "FARTHING_CONFIG": str(folder / "farthing.toml"), "FARTHING_DATA_DIR": str(folder),
        "FARTHING_POLICIES_PORT": str(port), "FARTHING_PROXY_WORKERS": str(workers),
        "FARTHING_COLLECTOR_URL": f"http://127.0.0.1:{model}", "FARTHING_REQUIRE_PROXY_KEY": "true",
    }  # fmt: skip
    command, control = [sys.executable, "-m", "farthing"], f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        stack.enter_context(process([*command, "policies"], port, 0, environ))
        keys = {name: _key(control, {"name": name, "team": name}) for name in teams}
        keys["operator"] = _key(control, {"name": "operator", "routes": ["status"]})
        version = http_json.call("POST", f"{control}/v1/apply", text or documents())["version"]
        made: list[Server] = []
        for _ in range(workers):
            own = free_port()
            pid = stack.enter_context(process([*command, "proxy"], own, 1, environ | {"FARTHING_PROXY_PORT": str(own)}))
            made.append(Server(own, pid, lambda own=own: _settle(own, keys["operator"])))
            assert status(own, keys["operator"])["policy_version"] == version
        yield Governed(control, made, keys)


def documents() -> str:
    """Return 100 policies, as a company writes them, and the budgets, as YAML."""
    policies = [
        _HEAD.format(kind="Policy", name=f"policy-{n}") + f"match: {{{_MATCHES[n % 4].format(n=n)}}}\npriority: {n}\n"
        + ("action: {route: {to: gpt-4o-mini}}\n" if n % 2 else "action: {cache: {}}\n")
        for n in range(99)
    ]  # fmt: skip
    cache = _HEAD.format(kind="Policy", name="governed") + "match: {team: governed}\n"
    cache += f"action: {{cache: {{max_bytes: {CACHE_BYTES}}}}}\n"
    budgets = [
        _HEAD.format(kind="Budget", name=team) + f"scope: {{team: {team}}}\nlimit: 1000000 USD\n"
        for team in ("governed", "held")
    ]
    return "---\n".join([*policies, cache, *budgets])


def change(control: str, number: int) -> int:
    """Change one policy, as a person would; return the version that is in force then."""
    text = _HEAD.format(kind="Policy", name="policy-0") + f"match: {{team: team-{number}}}\naction: {{cache: {{}}}}\n"
    return int(http_json.call("POST", f"{control}/v1/apply", text)["version"])


def status(port: int, key: str) -> dict[str, Any]:
    """Return what a worker says of itself."""
    return http_json.call("GET", f"http://127.0.0.1:{port}/v1/status", token=key)


def _key(control: str, spec: dict[str, object]) -> str:
    return str(http_json.call("POST", f"{control}/v1/keys", spec)["key"])


def _settle(port: int, key: str) -> None:
    """Wait until the spans and the settlements of the last requests are out: their cost belongs to those."""
    time.sleep(SETTLE_S)
    for _ in range(200):
        now = status(port, key)
        if not now["spans_waiting"] and not now["settlements_waiting"]:
            return
        time.sleep(SETTLE_S / 3)
    raise SystemExit(f"the proxy does not get rid of its spans and settlements: {now}")
