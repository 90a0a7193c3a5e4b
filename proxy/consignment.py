"""The lines of one of our batches that go to a provider as one batch of its own, as they lie on this host's disk.

A row for each line is there before the line may be sent, and every step is written down before it is taken and after:
whoever finds the folder knows for each line whether it was never sent, may have been, or was, and where its answer is.
"""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from farthing.durable import replace_durably
from proxy.line_file import LineFile
from proxy.parked import Parked, decode_parked

State = Literal["open", "closed", "creating", "made", "ended"]


class Consignment(msgspec.Struct):
    """What is known of one; times are epoch seconds."""

    number: int
    deployment: str  # its name
    path: str  # of the endpoint, behind /v1/
    begun_at: float
    state: State = "open"
    tries: int = 0  # batches asked for; each has a mark of its own
    input_id: str = ""  # of what was uploaded
    asked_at: float = 0.0  # when the last batch was asked for
    batch_id: str = ""
    refused: tuple[int, str] | None = None  # status and body with which the provider will not have it


class _Row(msgspec.Struct):
    line: int
    request_id: str


_decode = msgspec.json.Decoder(Consignment).decode
_decode_row = msgspec.json.Decoder(_Row).decode


class Stored:
    """One consignment and its rows, by the one worker that runs the batch."""

    def __init__(self, folder: Path, consignment: Consignment) -> None:
        self.consignment = consignment
        self._state = folder / f"provider-{consignment.number}.json"
        self._path = folder / f"provider-{consignment.number}.calls"
        self._file = LineFile(self._path)
        self.rows: dict[str, tuple[int, int]] = {}  # request id -> the number of its line, and where its row begins
        at = 0
        with self._path.open("rb") as file:
            for text in file:
                row = _decode_row(text)
                self.rows[row.request_id] = row.line, at
                at += len(text)

    @classmethod
    def all(cls, folder: Path) -> list[Stored]:
        """Return what an earlier life of the batch left here."""
        paths = sorted(folder.glob("provider-*.json"), key=lambda path: int(path.stem.partition("-")[2]))
        return [cls(folder, _decode(path.read_bytes())) for path in paths]

    @property
    def results_path(self) -> Path:
        return self._path.with_suffix(".results")

    @property
    def size(self) -> int:
        """Bytes of the rows."""
        return self._file.size

    def add(self, parked: Parked) -> None:
        """Write a line's row; it outlives this process from now on."""
        at = self._file.add(msgspec.json.encode(parked))
        self.rows[parked.request_id] = parked.line, at

    def row(self, request_id: str) -> Parked:
        """Return a line's row."""
        with self._path.open("rb") as file:
            file.seek(self.rows[request_id][1])
            return decode_parked(file.readline())

    def parked(self) -> Iterator[Parked]:
        """Yield all rows."""
        with self._path.open("rb") as file:
            yield from map(decode_parked, file)

    def write(self) -> None:
        """Put the state in the place of the old one, at once; it outlives this process from now on."""
        new = self._state.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(self.consignment))
        new.rename(self._state)

    def sync(self) -> None:
        """Write the state so that it and the rows outlive a power cut too: before anything is asked of the provider."""
        self._file.sync()
        replace_durably(self._state, msgspec.json.encode(self.consignment))

    def close(self) -> None:
        self._file.close()


class Begun:
    """The calls for whose sake something may have been set aside: those that no row tells of were never sent."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "provider.begun"
        self._file: LineFile | None = None  # most batches have none

    def add(self, request_id: str) -> None:
        """Note a call; a line of this file that a kill has torn is of one for which nothing was set aside yet."""
        self._file = self._file or LineFile(self._path)
        self._file.add(request_id.encode())

    def all(self) -> list[str]:
        return self._path.read_text().split() if self._path.exists() else []

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
