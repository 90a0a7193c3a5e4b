"""multipart/form-data as the official clients send a file: a few small fields and one file, whole in memory."""
from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.api_error import ApiError

_MAX_PARTS = 32
_BOUNDARY = re.compile(rb'boundary=(?:"([^"\r\n]{1,200})"|([^\s;,"]{1,200}))', re.IGNORECASE)
_NAME = re.compile(rb'[;\s]name="([^"\r\n]{0,200})"')
_FILENAME = re.compile(rb'[;\s]filename="([^"\r\n]{0,1000})"')


@dataclass(frozen=True)
class Part:
    """One field."""

    name: str
    content: bytes
    filename: str = ""


def parts_of(content_type: bytes, body: bytes) -> dict[str, Part]:
    """Return the fields of a form by name.

    Raises:
        ApiError: 400; it is no such form.
    """
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith(b"multipart/form-data") or found is None:
        shown = content_type.decode("latin-1")[:100]
        raise _refusal(f"content-type {shown!r}: send multipart/form-data with a boundary")
    delimiter = b"\r\n--" + (found[1] or found[2])
    pieces = (b"\r\n" + body).split(delimiter, _MAX_PARTS + 1)
    if len(pieces) < 2 or len(pieces) > _MAX_PARTS + 1 or not pieces[-1].startswith(b"--"):
        raise _refusal(f"the form is not whole, or has more than {_MAX_PARTS} fields")
    parts = [_part(piece) for piece in pieces[1:-1]]
    return {part.name: part for part in parts}


def _part(piece: bytes) -> Part:
    head, blank, content = piece.partition(b"\r\n\r\n")
    disposition = next(
        (line for line in head.split(b"\r\n") if line.lower().startswith(b"content-disposition:")), b""
    )
    name = _NAME.search(disposition)
    if not blank or name is None:
        raise _refusal("a field has no name")
    filename = _FILENAME.search(disposition)
    return Part(_text(name[1]), content, _text(filename[1]) if filename else "")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _refusal(message: str) -> ApiError:
    return ApiError(400, "invalid_form", message)
