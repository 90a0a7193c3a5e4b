"""How every benchmark ends: its limits judged, and all of it as one JSON object on the last line."""
from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Limits = Mapping[str, tuple[str, float]]  # figure -> ("<=" or ">=", bound)


def conclude(bench: str, figures: Mapping[str, Any], limits: Limits, **versions: object) -> int:
    """Print the verdict and return the exit code, 1 where a limit is missed; `versions` says what ran."""
    missed = [name for name, (sign, bound) in limits.items() if not _holds(float(figures[name]), sign, bound)]
    shown = {name: f"{sign} {bound:g}" for name, (sign, bound) in limits.items()}
    machine = {"cpus": os.cpu_count(), "cpu": _cpu_name(), "python": platform.python_version(), **versions}
    print(json.dumps({"bench": bench, "figures": figures, "limits": shown, "missed": missed, "machine": machine}))
    return 1 if missed else 0


def _holds(value: float, sign: str, bound: float) -> bool:
    return value <= bound if sign == "<=" else value >= bound


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())
