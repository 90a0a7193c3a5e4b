"""The lines of a batch's input: each a request with an id of its own, or what is wrong with it."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

MAX_ERRORS = 100  # listed; what is wrong with more lines can wait until these are mended


class Line(msgspec.Struct):
    """One request."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Body(msgspec.Struct):
    model: str = ""
    stream: bool | None = None


_decode = msgspec.json.Decoder(Line).decode
_decode_body = msgspec.json.Decoder(_Body).decode


def lines_of(path: Path) -> Iterator[tuple[int, Line]]:
    """Yield the lines of an input that `problems_of` finds nothing wrong with, numbered from 1; empty ones are none."""
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if text.strip():
                yield number, _decode(text)


def model_of(line: Line) -> str:
    return _decode_body(line.body).model


def problems_of(path: Path, endpoint: str, max_lines: int) -> tuple[int, list[dict[str, Any]]]:
    """Return how many requests an input has, and what is wrong with it, in OpenAI's shape."""
    found: list[dict[str, Any]] = []
    ids: set[str] = set()
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            problem = _problem(text, endpoint, ids)
            if problem is not None:
                found.append({"code": problem[0], "message": problem[1], "param": problem[2], "line": number})
            if len(ids) > max_lines:
                message = f"the file has more than {max_lines} requests; split it"
                return len(ids), [*found, _whole("too_many_requests", message)]
            if len(found) >= MAX_ERRORS:
                return len(ids), found
    return len(ids), found or ([] if ids else [_whole("empty_file", "the file has no request in it")])


def _whole(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "param": None, "line": None}


def _problem(text: bytes, endpoint: str, ids: set[str]) -> tuple[str, str, str | None] | None:
    """Return code, message and field of what is wrong with a line, and add its id to `ids` where it has one."""
    try:
        line = _decode(text)
        body = _decode_body(line.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return "invalid_json_line", f"this is no request: {error}", None
    if line.custom_id in ids:
        message = f"custom_id = {line.custom_id!r} is there twice; give each line its own"
        return "duplicate_custom_id", message, "custom_id"
    ids.add(line.custom_id)
    if line.method != "POST":
        return "invalid_method", f"method = {line.method!r}; allowed is POST", "method"
    if line.url != endpoint:
        return "invalid_url", f"url = {line.url!r}; the batch's endpoint is {endpoint}", "url"
    if body.stream:
        return "invalid_request", "stream = true; a batch has nobody to stream to", "body.stream"
    return None
