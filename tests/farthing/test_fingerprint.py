"""farthing/fingerprint.py: the same question has the same hash, and only for its own tenant."""
from __future__ import annotations

from pathlib import Path

from farthing.fingerprint import load_key, prefix_hashes, request_hash

KEY = b"k" * 32
ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}


def test_the_order_of_keys_and_who_asks_do_not_matter() -> None:
    turned = {
        "temperature": 0,
        "messages": [{"content": "hi", "role": "user"}],
        "model": "m",
        "user": "ann",
        "stream": True,
    }
    assert request_hash(KEY, "acme", ASKED) == request_hash(KEY, "acme", turned)


def test_what_is_asked_of_what_and_for_whom_matters() -> None:
    others = [
        request_hash(KEY, "acme", ASKED | {"model": "n"}),
        request_hash(KEY, "acme", ASKED | {"temperature": 1}),
        request_hash(KEY, "acme", ASKED | {"tools": [{"type": "function"}]}),
        request_hash(KEY, "other", ASKED),
        request_hash(b"x" * 32, "acme", ASKED),
    ]
    assert len({request_hash(KEY, "acme", ASKED), *others}) == 6


def test_conversations_share_the_hashes_of_their_common_beginning() -> None:
    a = [{"role": "system", "content": "s"}, {"role": "user", "content": "1"}, {"role": "user", "content": "2"}]
    b = [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}, {"role": "user", "content": "2"}]
    first, second = prefix_hashes(KEY, "acme", a), prefix_hashes(KEY, "acme", b)
    assert len(first) == 2 and first[0] == second[0] and first[1] != second[1]


def test_the_key_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    made = load_key("", tmp_path)
    assert made == load_key("", tmp_path) and len(made) == 32
    assert (tmp_path / "hash.key").stat().st_mode & 0o077 == 0
