"""Farthing in an application: `import farthing.auto`, or `farthing.configure(...)`, then `farthing.tags(...)`.

Importing this package loads neither the OpenTelemetry SDK nor any part of the platform; the functions load what they
need when they are first asked for.
"""
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from farthing.tags import tags

if TYPE_CHECKING:
    from farthing.cached import cached_component, cached_tool
    from farthing.grading import grade
    from farthing.tracing import configure, flush, shutdown, status

__version__ = "0.1.0"
__all__ = [
    "__version__", "cached_component", "cached_tool", "configure", "flush", "grade", "shutdown", "status", "tags",
]  # fmt: skip

_LATER = {
    "cached_component": "farthing.cached", "cached_tool": "farthing.cached", "configure": "farthing.tracing",
    "flush": "farthing.tracing", "grade": "farthing.grading", "shutdown": "farthing.tracing",
    "status": "farthing.tracing",
}  # fmt: skip


def __getattr__(name: str) -> object:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'farthing' has no attribute {name!r}")
