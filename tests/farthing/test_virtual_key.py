"""farthing/virtual_key.py: a typo shows in the key itself."""
from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.virtual_key import digest, is_well_formed, new_key, shown

KEY = new_key()
CHARACTERS = st.characters(codec="ascii", categories=("L", "N"))


def test_a_new_key_is_well_formed_and_nobody_else_s() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100 and all(is_well_formed(key) and len(key) == 42 for key in made)


@settings(max_examples=60)
@given(st.integers(0, len(KEY) - 1), CHARACTERS)
def test_a_key_with_one_wrong_character_is_not(at: int, character: str) -> None:
    wrong = KEY[:at] + character + KEY[at + 1 :]
    assert is_well_formed(wrong) == (wrong == KEY)


def test_a_key_that_is_cut_short_doubled_or_swapped_is_not() -> None:
    swapped = next(KEY[:n] + KEY[n + 1] + KEY[n] + KEY[n + 2 :] for n in range(4, 36) if KEY[n] != KEY[n + 1])
    assert not any(is_well_formed(wrong) for wrong in (KEY[:-1], KEY + KEY, swapped, "", "fth_", KEY + "é", f"{KEY} "))


def test_what_is_kept_and_shown_of_a_key_is_not_the_key() -> None:
    assert len(digest(KEY.encode())) == 20 and digest(KEY.encode()) != digest(new_key().encode())
    assert shown(KEY) == f"fth_…{KEY[-4:]}"
