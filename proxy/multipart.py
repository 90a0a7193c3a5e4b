"""multipart/form-data as the official clients send a file: a few small fields and one file, found and not read.

A form is looked through block by block where it lies, so a large file in it takes no memory.
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import BinaryIO

from proxy.api_error import ApiError

_MAX_PARTS = 32
_HEAD_BYTES = 16 * 1024  # of one field, before its content
_BLOCK = 1024 * 1024
_BOUNDARY = re.compile(rb'boundary=(?:"([^"\r\n]{1,200})"|([^\s;,"]{1,200}))', re.IGNORECASE)
_NAME = re.compile(rb'[;\s]name="([^"\r\n]{0,200})"')
_FILENAME = re.compile(rb'[;\s]filename="([^"\r\n]{0,1000})"')


@dataclass(frozen=True)
class Part:
    """One field, and where its content lies in the form."""

    name: str
    start: int
    end: int
    filename: str = ""

    @property
    def size(self) -> int:
        return self.end - self.start

    def beginning(self, form: BinaryIO, most: int) -> bytes:
        """Return its content, `most` bytes of it."""
        form.seek(self.start)
        return form.read(min(most, self.size))


def parts_of(content_type: bytes, form: BinaryIO) -> dict[str, Part]:
    """Return the fields of a form by name.

    Raises:
        ApiError: 400; it is no such form.
    """
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith(b"multipart/form-data") or found is None:
        shown = content_type.decode("latin-1")[:100]
        raise _refusal(f"content-type {shown!r}: send multipart/form-data with a boundary")
    delimiter = b"\r\n--" + (found[1] or found[2])
    places = list(islice(_places(form, delimiter), _MAX_PARTS + 2))
    if not places or len(places) > _MAX_PARTS + 1 or not _is_last(form, places[-1] + len(delimiter)):
        raise _refusal(f"the form is not whole, or has more than {_MAX_PARTS} fields")
    parts = [_part(form, start + len(delimiter), end) for start, end in pairwise(places)]
    return {part.name: part for part in parts}


def _places(form: BinaryIO, mark: bytes) -> Iterator[int]:
    """Yield where `mark` lies; the one that begins the form has no line before it."""
    form.seek(0)
    held, base = b"\r\n", -2  # the end of the last block, in which a mark may begin
    while block := form.read(_BLOCK):
        data = held + block
        at = data.find(mark)
        while at >= 0:
            yield base + at
            at = data.find(mark, at + len(mark))
        held = data[1 - len(mark) :]
        base += len(data) - len(held)


def _is_last(form: BinaryIO, end: int) -> bool:
    form.seek(end)
    return form.read(2) == b"--"


def _part(form: BinaryIO, start: int, end: int) -> Part:
    form.seek(start)
    head, blank, _ = form.read(min(_HEAD_BYTES, end - start)).partition(b"\r\n\r\n")
    disposition = next(
        (line for line in head.split(b"\r\n") if line.lower().startswith(b"content-disposition:")), b""
    )
    name = _NAME.search(disposition)
    if not blank or name is None:
        raise _refusal("a field has no name")
    filename = _FILENAME.search(disposition)
    return Part(_text(name[1]), start + len(head) + len(blank), end, _text(filename[1]) if filename else "")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _refusal(message: str) -> ApiError:
    return ApiError(400, "invalid_form", message)
