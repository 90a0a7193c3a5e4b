"""One record of a segment: an OTLP body with the collector's stamp, framed so that the file itself can be inserted.

    varint length | body | tenant (1001) | receive time (1002) | blake2b of tenant and body (1004) | crc32 (1003)

The stamp is protobuf appended to protobuf, so it merges into the message and, coming last, wins over what a sender put
into the same fields. The crc covers everything before it and makes a torn or flipped record visible.
"""
from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from farthing.otlp import field_tag, varint

_TENANT = field_tag(1001, 2)
_RECEIVED = field_tag(1002, 0)
_CRC = field_tag(1003, 5)
_DIGEST = field_tag(1004, 2) + bytes((16,))
_crc_bytes = struct.Struct("<I")
_STAMP = 10  # bytes that a receive time takes at most
TAIL = len(_DIGEST) + 16 + len(_CRC) + 4  # bytes of the two last fields
MAX_RECORD = 256 * 1024 * 1024  # a longer length is a corrupt one


def digest(tenant: str, body: bytes) -> bytes:
    """Return what identifies a body of a tenant, 16 bytes."""
    name = tenant.encode()
    return blake2b(body, digest_size=16, key=name if len(name) <= 64 else blake2b(name).digest()).digest()


def frame(tenant: str, body: bytes, received_ms: int, body_digest: bytes) -> bytes:
    """Return the record of `body`."""
    name = tenant.encode()
    stamp = b"".join((_TENANT, varint(len(name)), name, _RECEIVED, varint(received_ms), _DIGEST, body_digest))
    crc = _CRC + _crc_bytes.pack(zlib.crc32(stamp, zlib.crc32(body)))
    return b"".join((varint(len(body) + len(stamp) + len(crc)), body, stamp, crc))


def hollow(framed: bytes) -> bytes:
    """Return a record that carries the same digest and no body."""
    return frame("", b"", 0, body_digest_of(framed))


def body_digest_of(stamped: bytes | memoryview) -> bytes:
    """Return the digest that a record carries."""
    return bytes(stamped[-TAIL + len(_DIGEST) : -len(_CRC) - 4])


def digests(path: Path) -> list[bytes]:
    """Return the digests of the records of a segment that was found whole; no more of it is read than their ends."""
    with path.open("rb") as handle:
        return [body_digest_of(_last_bytes(handle, end, TAIL)) for end in _ends(handle)]


def pieces(path: Path, size: int) -> Iterator[bytes]:
    """Yield the bytes of a segment that was found whole, some whole records of about `size` bytes at a time."""
    with path.open("rb") as handle:
        start = end = 0
        for end in _ends(handle):
            if end - start >= size:
                yield _last_bytes(handle, end, end - start)
                start = end
        yield _last_bytes(handle, end, end - start)


def _ends(handle: BinaryIO) -> Iterator[int]:
    """Yield where each record of an open segment ends."""
    at, size = 0, handle.seek(0, 2)
    while at < size:
        handle.seek(at)
        length, start = _read_varint(memoryview(handle.read(10)), 0)
        at += start + length
        if length < TAIL or at > size:
            return
        yield at


def received_ms(path: Path) -> tuple[int, int] | None:
    """Return when the first and the last body of a segment came; None where it holds none.

    They are read from its two ends; where a record without a time stands there, as the hollow ones, from all records.
    """
    with path.open("rb") as handle:
        head = memoryview(handle.read(10))
        length, start = _read_varint(head, 0)
        if not length:
            return None
        ends = (start + length, handle.seek(0, 2))
        times = [_received_of(_last_bytes(handle, end, TAIL + _STAMP)) for end in ends]
        if not all(times):
            times = [_received_of(_last_bytes(handle, end, TAIL + _STAMP)) for end in _ends(handle)]
    known = [one for one in times if one]
    return (min(known), max(known)) if known else None


def _last_bytes(handle: BinaryIO, end: int, size: int) -> bytes:
    """Return as many bytes before the end of a record, or all there are."""
    size = min(end, size)
    handle.seek(end - size)
    return handle.read(size)


def _received_of(tail: bytes) -> int:
    """Return the receive time from the last bytes of a record; it is the varint that ends where the digest begins."""
    at = len(tail) - TAIL - 1
    number = tail[at]
    while at and tail[at - 1] >= 128:
        at -= 1
        number = number << 7 | tail[at] & 127
    return number


def scan(buffer: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (start, payload start, end) of every whole record; corrupt bytes are stepped over to the next whole one."""
    view, at = memoryview(buffer), 0
    while at < len(buffer):
        found = _record_at(view, at)
        if found is None:
            at = _resync(view, at + 1)
            continue
        yield at, found[0], found[1]
        at = found[1]


def _record_at(view: memoryview, at: int) -> tuple[int, int] | None:
    length, start = _read_varint(view, at)
    end = start + length
    if length < TAIL or length > MAX_RECORD or end > len(view):
        return None
    crc = end - 4
    if bytes(view[crc - len(_CRC) : crc]) != _CRC:
        return None
    (expected,) = _crc_bytes.unpack(view[crc:end])
    return (start, end) if zlib.crc32(view[start : crc - len(_CRC)]) == expected else None


def _resync(view: memoryview, at: int) -> int:
    """Return the next offset at which a whole record starts, or the end.

    Every offset is tried: the flipped byte may be the very mark that a quicker search would look for.
    """
    last_mark = bytes(view).rfind(_CRC)  # no record starts behind it; a torn tail is over at once
    while at < last_mark and _record_at(view, at) is None:
        at += 1
    return at if at < last_mark else len(view)


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(view) and shift < 35:
        byte = view[at]
        number |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return number, at
        shift += 7
    return 0, at
