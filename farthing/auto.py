"""`import farthing.auto` is all that an application needs: it instruments the process from its environment.

Nothing here raises into the application: what fails is logged in one warning, and the application runs as before.
"""
from __future__ import annotations

import logging

try:
    from farthing.tracing import start_from_environment

    start_from_environment()
except Exception as error:  # noqa: BLE001 - whatever it is, the application comes first
    logging.getLogger("farthing").warning("farthing: this process is not instrumented: %r", error)
