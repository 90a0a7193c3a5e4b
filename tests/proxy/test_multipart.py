"""proxy/multipart.py: a form's fields are found where they lie, however the blocks fall that it is read in."""
from __future__ import annotations

from io import BytesIO

import pytest

from proxy import multipart
from proxy.api_error import ApiError
from proxy.multipart import parts_of

CONTENT_TYPE = b'multipart/form-data; boundary="the-boundary"'
FILE = b"\r\n--the-boundar\r\n--the-\r\n" * 3  # nearly its end, again and again
FORM = (
    b'--the-boundary\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--the-boundary\r\ncontent-type: text/plain\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"'
    b"\r\n\r\n" + FILE + b"\r\n--the-boundary--\r\n"
)


@pytest.mark.parametrize("block", [1, 2, 3, 7, 16, 17, 64, 1_000_000])
def test_every_block_size_finds_the_same_fields(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "_BLOCK", block)
    form = BytesIO(FORM)
    found = parts_of(CONTENT_TYPE, form)
    assert list(found) == ["purpose", "file"] and found["file"].filename == "a.jsonl"
    assert found["purpose"].beginning(form, 100) == b"batch" and found["purpose"].beginning(form, 2) == b"ba"
    assert found["file"].size == len(FILE) and found["file"].beginning(form, 1000) == FILE


@pytest.mark.parametrize(
    ("content_type", "form", "why"),
    [
        (b"application/json", b"{}", "send multipart/form-data"),
        (CONTENT_TYPE, b"", "not whole"),
        (CONTENT_TYPE, FORM[:-10], "not whole"),
        (CONTENT_TYPE, FORM.replace(b'name="file"', b"nameless"), "has no name"),
        (CONTENT_TYPE, b"--the-boundary\r\n\r\nx\r\n" * 40 + b"--the-boundary--", "more than 32 fields"),
    ],
    ids=["other type", "empty", "cut", "nameless", "many"],
)
def test_what_is_no_whole_form_is_refused(content_type: bytes, form: bytes, why: str) -> None:
    with pytest.raises(ApiError, match=why):
        parts_of(content_type, BytesIO(form))
