"""A body that an upstream compressed although it was asked not to, as the bytes that it stands for.

Some gateways compress whatever is asked. Passed on as it is it would be noise to the client and its usage unknown.
"""
from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping

from farthing.errors import UpstreamError

MAX_PART = 16 * 1024 * 1024  # bytes that one part of a body may become
_BLOCK = 256 * 1024
_ANY_HEADER = 47  # of zlib or gzip


class Inflate:
    """Turns the parts of one compressed body into those of the body, as they come."""

    def __init__(self, encoding: str) -> None:
        """Be ready for `encoding`, as the header names it.

        Raises:
            UpstreamError: it is none that is known here.
        """
        if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
            raise UpstreamError(f"it answered in content-encoding {encoding!r}, and was asked for none")
        self._engine = zlib.decompressobj(_ANY_HEADER)
        self._is_within = False  # more has to come

    def parts(self, data: bytes, most: int = MAX_PART) -> Iterator[bytes]:
        """Yield what a part of the compressed body stands for.

        Raises:
            UpstreamError: it is damaged, or becomes more than `most` bytes.
        """
        size = 0
        try:
            while data:
                part = self._engine.decompress(data, _BLOCK)
                size += len(part)
                if size > most:
                    raise UpstreamError(f"its compressed answer becomes more than {most} bytes")
                if part:
                    yield part
                data, self._is_within = self._engine.unconsumed_tail, not self._engine.eof
                if self._engine.eof:  # another member may follow
                    data, self._engine = self._engine.unused_data, zlib.decompressobj(_ANY_HEADER)
        except zlib.error as error:
            raise UpstreamError(f"its compressed answer is damaged: {error}") from None

    def end(self) -> None:
        """Check that the body is whole.

        Raises:
            UpstreamError: it was cut.
        """
        if self._is_within:
            raise UpstreamError("its compressed answer is damaged: its end is missing")

    def into(self, sink: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
        """Return what takes the parts of the compressed body and hands those of the body to `sink`."""

        def take(data: bytes) -> bool:
            goes_on = True
            for part in self.parts(data):
                goes_on = sink(part)
            return goes_on

        return take


def inflate_of(headers: Mapping[bytes, bytes]) -> Inflate | None:
    """Return what the body of an answer with these headers is read by; None where it is as it comes.

    Raises:
        UpstreamError: it is in an encoding that is not known here.
    """
    encoding = headers.get(b"content-encoding")
    if encoding is None or encoding.lower() == b"identity":
        return None
    return Inflate(encoding.decode("latin-1"))
