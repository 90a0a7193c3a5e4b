"""The one place that knows the five parts: it loads them by name, so that the contracts import none of them.

In a wheel the parts lie below `farthing/_platform/`, because a package as general as `proxy` must not land in
somebody's site-packages; in the repository they are plain import packages.
"""
from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from farthing.errors import ServeError
from farthing.serving import Site, run
from farthing.settings import Settings

PARTS = ("collector", "analyzer", "policies", "dashboard", "proxy", "engine")
_MODULES = {part: f"{part}.main" for part in PARTS} | {"engine": "proxy.engine.main"}
_PLATFORM = Path(__file__).parent / "_platform"


def load(part: str, module: str = "") -> ModuleType:
    """Return the module `<part>.main`, or another `module` of the part.

    Raises:
        ServeError: a package that the part needs is not installed; the message says how to get it.
    """
    if _PLATFORM.is_dir() and str(_PLATFORM) not in sys.path:
        sys.path.insert(0, str(_PLATFORM))
    try:
        return import_module(f"{part}.{module}" if module else _MODULES[part])
    except ModuleNotFoundError as error:
        raise ServeError(
            f"{part}: the package {error.name!r} is not installed; run: pip install 'farthing[{part}]'"
        ) from None


def serve(part: str, settings: Settings) -> None:
    """Run one part, or `station`, in this process until it is told to stop."""
    if part == "station":
        _serve_station(settings)
    else:
        load(part).main(settings)


def _serve_station(settings: Settings) -> None:
    """Collector, analyzer and dashboard share a process, because an embedded store belongs to one."""
    from farthing.warehouse import Warehouse

    warehouse = Warehouse(settings.warehouse_dsn, cluster=settings.warehouse_cluster)
    try:
        if warehouse.path is not None:  # a server may be away; the collector migrates it once it answers
            warehouse.migrate()
        sites = [
            Site(part, load(part).app(settings, warehouse), settings.host, getattr(settings, f"{part}_port"))
            for part in ("collector", "analyzer", "dashboard")
        ]
        asyncio.run(run(sites))
    finally:
        warehouse.close()


def die_with(parent: int) -> None:
    """Have the kernel end this process when its parent dies, however it dies (Linux)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
