"""Which names are patterns."""
from __future__ import annotations

GLOB_CHARACTERS = "*?"  # the only ones with a meaning, so that a model called `opus[1m]` is an exact name


def is_glob(pattern: str) -> bool:
    """Tell whether `pattern` stands for more than one name."""
    return any(character in pattern for character in GLOB_CHARACTERS)
