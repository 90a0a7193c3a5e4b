"""The receive path under mutated bodies, the short form: `make fuzz` goes on for as long as it is let."""
from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing import otlp
from tests.conftest import SHARED
from tests.fuzz.mutate import broken, rearranged
from tests.fuzz.oracle import Oracle, seeds

SPAN = otlp.field(0x12, otlp.span(b"t" * 16, b"s" * 8, b"", "chat", (1, 2), b""))
NAMED = otlp.field(0x0A, otlp.field(0x0A, b"4111111111111111") + b"1" + bytes(8))
KEYLESS = otlp.span(b"t" * 16, b"s" * 8, b"", "chat", (1, 2), b"\x4a\x06\x12\x02\x18\x07\x20\x01")
PAIR = otlp.attribute("shop.note", "x")
STRAY = otlp.span(b"t" * 16, b"s" * 8, b"", "chat", (1, 2), otlp.field(0x4A, PAIR + b"\x18\1"))
FOUND = {  # inputs that once broke the oracle
    "the tag of an unknown field reads as the 17th digit of a card number": otlp.field(0x12, NAMED + SPAN),
    "a schema's URL is longer than a value may be": otlp.field(0x12, SPAN) + otlp.field(0x1A, b"x" * 400),
    "an attribute has no key, and a field that no map entry has": otlp.field(0x12, otlp.field(0x12, KEYLESS)),
    "an attribute has a key, and a field that no map entry has": otlp.field(0x12, otlp.field(0x12, STRAY)),
}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    made = Oracle(tmp_path_factory.mktemp("fuzz"))
    yield made
    made.close()


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once_stays_repaired(oracle: Oracle, name: str) -> None:
    assert oracle.check(b"\0" + otlp.field(0x0A, FOUND[name])) == "stored"


def test_every_seed_is_stored(oracle: Oracle) -> None:
    assert {oracle.check(one) for one in seeds(SHARED / "fixtures" / "otlp")} == {"stored"}


def test_changed_bodies_are_stored_clean_or_refused(oracle: Oracle) -> None:
    chance, became, known = random.Random(20), Counter[str](), seeds(Path("none"))
    for number in range(2000):
        one = chance.choice(known)
        change = rearranged if one[0] < 2 and number % 4 else broken
        became[oracle.check(one[:1] + change(chance, one[1:]))] += 1
    assert became["stored"] > 800 and became["refused"] > 300, became


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 3), st.binary(max_size=300))
def test_any_bytes_in_any_form_are_stored_clean_or_refused(oracle: Oracle, form: int, body: bytes) -> None:
    oracle.check(bytes((form,)) + body)
