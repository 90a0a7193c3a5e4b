"""Which requests are meant, by who asks for what."""
from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from farthing.policy.record import Pattern, Patterns, Record, SomePatterns, as_lists

GLOB_CHARACTERS = "*?"  # the only ones with a meaning, so that a model called `opus[1m]` is an exact name


def is_glob(pattern: str) -> bool:
    """Tell whether `pattern` stands for more than one name."""
    return any(character in pattern for character in GLOB_CHARACTERS)


class Match(Record):
    """Which requests are meant: all fields must fit; a field fits if one of its names or patterns does.

    An empty field fits everything. A fact that a request lacks fits no pattern, not even `*`.
    """

    tenant: Patterns = ()
    team: Patterns = ()
    user: Patterns = ()
    model: Patterns = ()  # the model asked for, before any routing
    feature: Patterns = ()
    key: Patterns = ()
    tags: Annotated[dict[Pattern, SomePatterns], BeforeValidator(as_lists)] = Field(default_factory=dict)
