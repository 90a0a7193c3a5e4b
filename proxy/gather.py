"""One page of metrics for all workers of a host: a scrape reaches one of them, and which one is chance.

Each worker leaves what it counted in a file, about once a second; whoever is asked shows its own numbers as they stand
and the others' from their files, with the worker as a label, so that a sum over it is right and a restart is a reset.
"""
from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from farthing.prometheus import Family, render
from proxy.metrics import Metrics

log = logging.getLogger(__name__)

INTERVAL_S = 1.0
_decode = msgspec.json.Decoder(list[Family]).decode


class Gather:
    """The metrics of this worker and of those beside it; alone it keeps no files and names no worker."""

    def __init__(self, metrics: Metrics, folder: Path, workers: int) -> None:
        self._metrics = metrics
        self._folder = folder
        self._is_alone = workers <= 1
        self._own = folder / f"{os.getpid()}.json"
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if not self._is_alone:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._task = asyncio.create_task(self._leave_often())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._own.unlink(missing_ok=True)

    def page(self) -> bytes:
        """Return everything as text."""
        own = self._metrics.families()
        if self._is_alone:
            return render(own)
        merged: dict[str, Family] = {}
        for worker, families in [(self._own.stem, own), *self._others()]:
            for family in families:
                into = merged.setdefault(family.name, Family(family.name, family.kind, family.help))
                into.samples += [(suffix, labels | {"worker": worker}, n) for suffix, labels, n in family.samples]
        return render(merged.values())

    def _others(self) -> Iterable[tuple[str, list[Family]]]:
        for file in sorted(self._folder.glob("*.json")):
            if file == self._own:
                continue
            if not _is_alive(file.stem):
                file.unlink(missing_ok=True)
                continue
            try:
                yield file.stem, _decode(file.read_bytes())
            except (OSError, msgspec.DecodeError) as error:
                log.warning("metrics: %s is left out: %s", file, error)

    async def _leave_often(self) -> None:
        while True:
            self._leave()
            await asyncio.sleep(INTERVAL_S)

    def _leave(self) -> None:
        try:
            new = self._own.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(self._metrics.families()))
            new.rename(self._own)
        except OSError as error:
            log.warning("metrics: %s cannot be written: %s", self._own, error)


def _is_alive(worker: str) -> bool:
    try:
        os.kill(int(worker), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
