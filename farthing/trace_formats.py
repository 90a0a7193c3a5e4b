"""The formats of public serving traces: how a file is told from its first line, and how one of its lines is read.

- Azure LLM inference 2023 and 2024 (Azure/AzurePublicDataset): CSV `TIMESTAMP,ContextTokens,GeneratedTokens`; times of
  day with up to nine places of a second, UTC where no zone is written.
- Mooncake (kvcache-ai/Mooncake): JSON lines with `timestamp` (milliseconds since the start), `input_length`,
  `output_length`, `hash_ids` (blocks of 512 prompt tokens).
- BurstGPT (HPMLL/BurstGPT): CSV `Timestamp` (seconds since the start), `Model`, `Request tokens`, `Response tokens`,
  `Total tokens`, `Log Type`, and in newer releases `Session ID`, `Elapsed time`.
"""
from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from farthing.errors import TraceFileError

MAX_TOKENS = 2**32 - 1  # what the warehouse's column holds
MAX_LINE = 1 << 20  # characters
_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LAST = datetime(2262, 1, 1, tzinfo=timezone.utc)  # nanoseconds in 63 bits reach no further
_TIME = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?")


@dataclass(frozen=True)
class Line:
    """One line of a trace file."""

    path: Path
    number: int  # from 1
    text: str

    def wrong(self, name: str, value: object, allowed: str) -> TraceFileError:
        """Return the error for a bad value in this line."""
        return TraceFileError(f"{self.path}, line {self.number}: {name} = {value!r}; allowed is {allowed}")


@dataclass(frozen=True)
class Parse:
    """How the lines of one file are read."""

    format: str  # azure | mooncake | burstgpt
    is_absolute: bool
    header_lines: int
    row: Callable[[Line], dict[str, Any]]  # the fields of a TraceRequest


def detect(path: Path) -> Parse:
    """Tell a file's format from its first line.

    Raises:
        TraceFileError: the file cannot be read, or is of no known format.
    """
    first = next(lines(path), Line(path, 1, ""))
    if first.text.startswith("{"):
        return Parse("mooncake", False, 0, _mooncake)
    header = [name.strip().lower() for name in first.text.split(",")]
    if header[:3] == ["timestamp", "contexttokens", "generatedtokens"]:
        return Parse("azure", True, 1, _azure)
    if {"timestamp", "model", "request tokens", "response tokens"} <= set(header):
        return Parse("burstgpt", False, 1, lambda line: _burstgpt(line, header))
    allowed = (
        "`TIMESTAMP,ContextTokens,GeneratedTokens` (Azure), a JSON object with `timestamp` (Mooncake), or "
        "`Timestamp,Model,Request tokens,Response tokens,…` (BurstGPT), plain or gzip"
    )
    raise first.wrong("the first line", first.text[:80], allowed)


def lines(path: Path) -> Iterator[Line]:
    """Read a file line by line, plain or gzip by its content, without line ends.

    Raises:
        TraceFileError: it cannot be read, is not text, or a line is longer than a megabyte.
    """
    number = 0
    try:
        with path.open("rb") as probe:
            is_gzip = probe.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rt", encoding="utf-8-sig") if is_gzip else path.open(encoding="utf-8-sig") as handle:
            while text := handle.readline(MAX_LINE):
                number += 1
                if len(text) == MAX_LINE:
                    raise Line(path, number, "").wrong("it", f"{text[:40]}…", f"up to {MAX_LINE:,} characters")
                yield Line(path, number, text.strip())
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        where = f"{path}, after line {number}" if number else str(path)
        raise TraceFileError(f"{where}: cannot be read: {error}") from None


def _azure(line: Line) -> dict[str, Any]:
    cells = _cells(line, 3)
    return {
        "at_ns": _moment_ns(line, cells[0]),
        "input_tokens": _tokens(line, "ContextTokens", cells[1]),
        "output_tokens": _tokens(line, "GeneratedTokens", cells[2]),
    }


def _burstgpt(line: Line, header: list[str]) -> dict[str, Any]:
    cells = dict(zip(header, _cells(line, len(header)), strict=True))
    return {
        "at_ns": _offset_ns(line, "Timestamp", cells["timestamp"], _NS),
        "input_tokens": _tokens(line, "Request tokens", cells["request tokens"]),
        "output_tokens": _tokens(line, "Response tokens", cells["response tokens"]),
        "model": cells["model"],
        "session": cells.get("session id", ""),
    }


def _mooncake(line: Line) -> dict[str, Any]:
    try:
        decoded: object = json.loads(line.text)
    except ValueError:
        decoded = None
    if not isinstance(decoded, dict):
        raise line.wrong("the line", line.text[:80], 'a JSON object such as {"timestamp": 0, "input_length": 1, …}')
    row = cast(Mapping[str, object], decoded)
    hashes = row.get("hash_ids", [])
    if not isinstance(hashes, list):
        raise line.wrong("hash_ids", hashes, "a list")
    return {
        "at_ns": _offset_ns(line, "timestamp", row.get("timestamp"), _NS // 1000),
        "input_tokens": _tokens(line, "input_length", row.get("input_length")),
        "output_tokens": _tokens(line, "output_length", row.get("output_length")),
        "prefix_hashes": tuple(str(one) for one in cast(list[object], hashes)),
    }


def _cells(line: Line, number: int) -> list[str]:
    try:
        cells = [cell.strip() for one in csv.reader([line.text]) for cell in one]
    except csv.Error:
        cells = []
    if len(cells) != number:
        raise line.wrong("the line", line.text[:80], f"{number} values between commas")
    return cells


def _tokens(line: Line, name: str, value: object) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) < 20) or int(text) > MAX_TOKENS:
        raise line.wrong(name, value, f"a whole number of tokens from 0 to {MAX_TOKENS:,}")
    return int(text)


def _offset_ns(line: Line, name: str, value: object, unit_ns: int) -> int:
    try:
        offset = Decimal(str(value)) * unit_ns
    except ArithmeticError:
        offset = Decimal(-1)
    if not offset.is_finite() or not 0 <= offset < 2**62:
        raise line.wrong(name, value, "a time since the start of the trace, 0 or more")
    return int(offset)


def _moment_ns(line: Line, text: str) -> int:
    """Return nanoseconds since the epoch, exact to all nine places, which `datetime` alone would cut to six."""
    found = _TIME.fullmatch(text)
    try:
        at = datetime.fromisoformat(f"{found[1]}{(found[3] or '+00:00').replace('Z', '+00:00')}") if found else None
    except ValueError:
        at = None
    if found is None or at is None or not _EPOCH <= at < _LAST:
        raise line.wrong("TIMESTAMP", text, "a date and time such as 2023-11-16 18:17:03.9799600")
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * _NS + int((found[2] or "").ljust(9, "0"))
