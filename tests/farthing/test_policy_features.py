"""What a router reads of a prompt, and the form in which rows keep it."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.policy.features import BUCKETS, MARKS, MAX_WORDS, Features, Reader, Text

READER = Reader(b"a key")


@given(st.text(max_size=6_000), st.text(max_size=2_000), st.integers(0, 10**9), st.text(max_size=40))
def test_stored_features_read_back_as_they_were(user: str, system: str, turns: int, tag: str) -> None:
    features = READER.read(Text(user, system, turns, turns), tag)
    stored = features.to_bytes()
    assert Features.from_bytes(stored) == features
    assert len(stored) <= 2 + len(MARKS) + 2 * (MAX_WORDS + 1)


def test_lone_surrogates_and_a_text_without_spaces_are_read() -> None:
    features = READER.read(Text("\ud800" + "x" * 100_000))
    assert Features.from_bytes(features.to_bytes()) == features


def test_a_flood_of_new_words_stays_within_the_bound_of_a_row() -> None:
    for number in range(80):
        words = " ".join(f"{chr(97 + number % 26)}w{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(400))
        assert len(READER.read(Text(words, words)).buckets) <= MAX_WORDS


def test_case_and_punctuation_do_not_matter_and_numbers_have_a_shape() -> None:
    assert READER.read(Text("Sort THIS, please")).buckets == READER.read(Text("sort this please")).buckets
    assert READER.read(Text("pay 123 now")).buckets == READER.read(Text("pay 321 now")).buckets
    assert READER.read(Text("pay 123 now")).buckets != READER.read(Text("pay 124 now")).buckets


def test_the_system_prompt_counts_apart_from_the_same_words_of_the_user() -> None:
    asked = READER.read(Text("summarise")).buckets
    both = READER.read(Text("summarise", system="summarise")).buckets
    assert set(asked) < set(both)


def test_readers_agree_under_one_key_and_differ_under_another() -> None:
    text = Text("which planet is the largest of all")
    assert Reader(b"k").read(text, "quiz") == Reader(b"k").read(text, "quiz")
    assert Reader(b"k").read(text, "quiz").buckets != Reader(b"other").read(text, "quiz").buckets


def test_a_tag_is_no_word_of_the_text() -> None:
    features = READER.read(Text("billing"), "billing")
    assert features.tag not in features.buckets
    assert READER.read(Text("billing")).tag == -1


@pytest.mark.parametrize(
    ("stored", "complaint"),
    [
        (b"", "begin with nothing"),
        (bytes((9, len(MARKS))), "this version writes"),
        (bytes((1, len(MARKS))) + bytes(len(MARKS)) + b"\0\0\0", "bytes of words"),
        (bytes((1, len(MARKS))) + bytes(len(MARKS)) + b"\0\0\xff\xff", f"above {BUCKETS - 1}"),
    ],
)
def test_damaged_features_are_refused_with_what_is_wrong(stored: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Features.from_bytes(stored)
