from __future__ import annotations

import numpy
import pytest

from proxy.semantic_agree import agree, exact_mark, normalised_mark, vector_mark

KEY = b"key"
NORTH = numpy.array([1, 0], numpy.float32)
NEARLY = numpy.array([0.98, 0.199], numpy.float32)
EAST = numpy.array([0, 1], numpy.float32)


def test_exact_marks_agree_for_the_same_text_alone() -> None:
    assert agree(exact_mark("Paris.", KEY), exact_mark("Paris.", KEY))
    assert not agree(exact_mark("Paris.", KEY), exact_mark("Paris", KEY))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("It is **Paris**.", "it is paris", True),
        ("- one\n- two", "One, two!", True),
        ("3.5 kg", "35 kg", False),
        ("5 %", "5", False),
        ("It is Paris", "It is Rome", False),
    ],
)
def test_normalised_marks_agree_for_the_same_words(one: str, other: str, same: bool) -> None:
    assert agree(normalised_mark(one, KEY), normalised_mark(other, KEY)) is same


def test_vector_marks_agree_where_meaning_numbers_and_names_do() -> None:
    mark = vector_mark("It is open until 5 in Oslo", NORTH, KEY)
    assert agree(mark, vector_mark("until 5 it is open, in Oslo", NEARLY, KEY))
    assert not agree(mark, vector_mark("until 5 it is open, in Oslo", EAST, KEY))
    assert not agree(mark, vector_mark("It is open until 6 in Oslo", NEARLY, KEY))
    assert not agree(mark, vector_mark("until 5 it is open, in Oslo", NEARLY, KEY, at_least=0.99))


def test_marks_of_an_embedder_that_was_another_model_before_do_not_agree() -> None:
    mark = vector_mark("It is open until 5 in Oslo", NORTH, KEY)
    assert not agree(mark, vector_mark("until 5 it is open, in Oslo", NORTH[:1], KEY))


@pytest.mark.parametrize("text", ["42", "Der Laden hat heute leider schon geschlossen", "開いています"])
def test_an_answer_that_the_guards_cannot_read_agrees_with_itself_and_no_other(text: str) -> None:
    mark = vector_mark(text, NORTH, KEY)
    assert agree(mark, vector_mark(text, NORTH, KEY))
    assert not agree(mark, vector_mark(f"-{text}", NORTH, KEY))


def test_marks_of_different_kinds_never_agree() -> None:
    assert not agree(vector_mark("it is so", NORTH, KEY), exact_mark("it is so", KEY))
