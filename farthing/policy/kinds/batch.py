"""kind: Batch: what the files and batches of a scope may take; without one the defaults here hold."""
from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from farthing.policy.match import Match
from farthing.policy.record import Named

_MIB = 1024 * 1024


class Batch(Named):
    """Limits of `/v1/files` and `/v1/batches`; the object with the most specific scope holds."""

    KIND: ClassVar[str] = "Batch"
    PLURAL: ClassVar[str] = "batches"

    scope: Match = Match()  # empty: everybody; a batch has no model, so one that names a model fits none
    concurrent: Annotated[int, Field(ge=0, le=1000)] = 2  # batches that run at once on a host, 0 = none begins
    # Lines of a batch under way at once, together with the interactive calls to their model: those come first, and a
    # batch takes what they leave.
    lines_in_flight: Annotated[int, Field(ge=1, le=10_000)] = 8
    max_lines: Annotated[int, Field(ge=1, le=1_000_000)] = 50_000  # of one file
    max_file_bytes: Annotated[int, Field(ge=1, le=1024 * _MIB)] = 32 * _MIB
    max_stored_bytes: Annotated[int, Field(ge=1)] = 2048 * _MIB  # of all files of one owner
    # Of one batch that lines are handed to a provider in (`provider_batches` of a deployment), and how long it is
    # waited for further lines of the same batch.
    provider_lines: Annotated[int, Field(ge=1, le=50_000)] = 10_000
    provider_bytes: Annotated[int, Field(ge=1, le=128 * _MIB)] = 8 * _MIB
    provider_wait_s: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 30.0
    keep_days: Annotated[int, Field(ge=1, le=3650)] = 30  # days that files, and batches that have ended, are kept
