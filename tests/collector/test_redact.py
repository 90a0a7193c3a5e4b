"""collector/redact.py: what is taken out of a text, what stays, and that the quick look misses nothing."""
from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collector.redact import Redactor, is_card_number
from farthing import otlp
from farthing.errors import SettingsError

REDACTOR = Redactor()
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
SECRETS = (
    "sk-proj-Zm9vYmFyYmF6cXV4eHl6enk", "AKIAIOSFODNN7EXAMPLE", "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "fth_ingest_4fzWq81LmPz", JWT, "xoxb-2345678901-abcdefghij", "hf_abcdefghijklmnopqrstuv",
)  # fmt: skip
CARDS = ("4111111111111111", "5500 0000 0000 0004", "3782-822463-10005", "4222222222222", "6011 1111 1111 1117")
PIECES = (*SECRETS, *CARDS, "jane@example.com", "a.b+c@mail.example.org", "@", "-", " ", ".", "4111", "key=", "é", "\n")


def texts() -> st.SearchStrategy[str]:
    """Texts in which secrets stand next to each other and to anything else."""
    return st.lists(st.sampled_from(PIECES) | st.text(max_size=20), max_size=12).map("".join)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("around", ["{}", "key={}, next", '{{"key":"{}"}}', "Bearer {}\n", "_{}"])
def test_keys_and_tokens_are_taken_out(secret: str, around: str) -> None:
    text = REDACTOR.text(around.format(secret))
    assert secret[:12] not in text and "[secret]" in text


@pytest.mark.parametrize("card", CARDS)
def test_a_card_number_is_taken_out(card: str) -> None:
    assert REDACTOR.text(f"pay with {card}, please") == "pay with [card], please"


def test_an_address_is_taken_out_and_the_sentence_around_it_stays() -> None:
    assert REDACTOR.text("mail jane.doe+x@mail.example.com.") == "mail [email]."


@pytest.mark.parametrize("address", ["jürgen@example.com", "jane@münchen.example", "用户@例子.公司", "иван@почта.рф"])
def test_an_address_in_any_script_is_taken_out(address: str) -> None:
    assert REDACTOR.text(f"mail {address}, please — now") == "mail [email], please — now"
    assert REDACTOR.is_suspect(address.encode()) and not REDACTOR.changes_none({address.encode()})


@pytest.mark.parametrize(
    "text",
    [
        "risk-averse planning of task-1234567890123456",
        "1795000000000 and 1795000000000000000",  # a time in ms and in ns
        "4111111111111112",  # Luhn's check fails
        "0.4111111111111111",
        "550e8400-e29b-41d4-a716-446655440000",
        "chatcmpl-4111111111111111",
        "user@localhost and @mention",
        "@张三。你好 and 5€@3.50",
        "[secret] [email] [card] [redacted]",
    ],
)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert REDACTOR.text(text) == text


def test_an_identity_keeps_its_address_but_no_key() -> None:
    assert REDACTOR.text("jane@example.com", is_identity=True) == "jane@example.com"
    assert REDACTOR.text(f"jane {SECRETS[0]}", is_identity=True) == "jane [secret]"


def test_own_patterns_make_every_body_suspect_and_take_out_what_they_match() -> None:
    own = Redactor([r"EMP-\d{4}"])
    assert own.is_suspect(b"") and own.text("by EMP-1234") == "by [redacted]"


@pytest.mark.parametrize("pattern", ["(", "a*"])
def test_an_own_pattern_that_cannot_be_used_stops_the_start(pattern: str) -> None:
    with pytest.raises(SettingsError, match="redactions"):
        Redactor([pattern])


@example(SECRETS[1] + SECRETS[0])
@given(texts())
def test_a_second_pass_changes_nothing_and_no_text_grows_beyond_double(text: str) -> None:
    once = REDACTOR.text(text)
    assert REDACTOR.text(once) == once
    assert len(once) <= 2 * len(text)


@given(texts(), st.sampled_from(["a", "name"]), st.integers(0, 3))
def test_the_quick_look_suspects_every_body_whose_texts_would_change(text: str, key: str, zeros: int) -> None:
    if REDACTOR.text(text) == text:
        return
    attribute = otlp.attribute(key, text)
    spans = [
        otlp.span(b"t" * 16, b"s" * 8, b"", "chat", (1, 2), otlp.field(0x4A, attribute) + bytes(zeros)),
        otlp.span(b"t" * 16, b"s" * 8, b"", text, (1, 2), b""),
        otlp.span(b"t" * 16, b"s" * 8, b"", "chat", (1, 2), b"", error=text),
        otlp.field(0x3A, text.encode()),  # AnyValue.bytes_value
        otlp.field(0x22, text.encode()) + otlp.field(0x32, b""),  # EntityRef.description_keys, then a list of pairs
        otlp.field(0x1A, text.encode()) + b"\x35\1\0\0\0",  # Link.trace_state, then its flags
    ]
    assert all(REDACTOR.is_suspect(span) for span in spans)
    assert REDACTOR.is_suspect(otlp.traces([(key, text)], "test", "1", []))


@given(st.binary(max_size=300))
def test_any_bytes_can_be_looked_at(body: bytes) -> None:
    REDACTOR.is_suspect(body)


@pytest.mark.parametrize("piece", ["a", "a@", "@a.", "4", "4 ", "4111-", "sk-", "eyJ", "a.a-", "AKIA"])
def test_no_text_makes_the_patterns_slow(piece: str) -> None:
    text = piece * (65536 // len(piece)) + "@x"
    started = time.process_time()
    REDACTOR.text(text)
    REDACTOR.is_suspect(text.encode())
    assert time.process_time() - started < 0.5  # seconds for 64 KiB; 0.03 measured


def test_luhn_knows_the_networks_own_examples() -> None:
    assert all(is_card_number(card) for card in CARDS)
    assert not any(is_card_number(card[:-1] + str((int(card[-1]) + 1) % 10)) for card in CARDS)
