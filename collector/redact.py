"""Takes secrets out of texts: keys by their prefix, tokens, e-mail addresses and card numbers.

Two speeds: `is_suspect` looks over the raw bytes of a whole body at the price of a few substring searches, so that a
body without any secret costs no more; `text` rewrites one text. The first finds at least all that the second would
change (the own patterns excepted, which make every body suspect).
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from farthing.errors import SettingsError

SECRET, EMAIL, CARD, OWN = "[secret]", "[email]", "[card]", "[redacted]"

# what each kind of secret begins with, and the pattern of the whole; every quantifier is bounded or possessive
_SECRETS = (
    ("sk-", r"sk-[A-Za-z0-9_-]{16,}+"),  # OpenAI, Anthropic and many who copied them
    ("AKIA", r"AKIA[A-Z0-9]{12,}+"),  # AWS
    ("ghp_", r"ghp_[A-Za-z0-9]{16,}+"),  # GitHub
    ("github_pat_", r"github_pat_[A-Za-z0-9_]{16,}+"),
    ("xox", r"xox[a-z]-[A-Za-z0-9-]{10,}+"),  # Slack
    ("AIza", r"AIza[A-Za-z0-9_-]{30,}+"),  # Google
    ("hf_", r"hf_[A-Za-z0-9]{16,}+"),
    ("fth_", r"fth_[A-Za-z0-9_]{12,}+"),  # Farthing
    ("eyJ", r"eyJ[A-Za-z0-9_-]{12,}+(?:\.[A-Za-z0-9_-]*+){0,2}"),  # JWT, also one that was cut short
)
_PREFIXES = tuple(prefix for prefix, _ in _SECRETS)
_ANY_SECRET = "(?:" + "|".join(pattern for _, pattern in _SECRETS) + ")"
_secret = re.compile("(?<![A-Za-z0-9])" + _ANY_SECRET + "++")
_secret_in_bytes = re.compile(_ANY_SECRET.encode())  # a length byte may stand before it, so no boundary is asked for

# Every prefix holds one of three short pieces when some letters are read as one; a search for each prefix takes twice.
_PIECES = (b"sk-", b"\1\1_", b"\2\3")
_LETTERS_TO_PIECES = bytes.maketrans(b"htafp" b"yAx" b"JKIo", b"\1" * 5 + b"\2" * 3 + b"\3" * 4)

# Letters of any script, in both parts (RFC 6531, RFC 5890)
_LOCAL = r"(?<![\w.%+-])[\w.%+-]++"  # tried once a run, so a long run costs no more than its length
_DOMAIN = r"@[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}\.[^\W\d_]{2,24}"
_email = re.compile(rf"{_LOCAL}{_DOMAIN}(?:[\w.%+-]*+{_DOMAIN})*+")  # with those that follow without a gap
_email_in_bytes = re.compile(rb"@[\w\x80-\xff-]{1,252}+\.[\w\x80-\xff-]")

# 13 to 19 digits, plain or in the groups that are printed on cards; ISO/IEC 7812: no bank's number begins with 0 or 1
_NUMBER = r"(?:[2-6]\d{12,18}+|[2-6]\d{3}([ -])\d{4}\1\d{4}\1\d{1,7}|3\d{3}([ -])\d{6}\2\d{5})"
_card = re.compile(r"(?<![\w.-])" + _NUMBER + r"(?![\w-])", re.ASCII)
# In the wire format a text begins behind a tag and its length, 1 to 3 bytes, and ends before the next field's tag.
_TAGS = b'\n\x12\x1a"*:'
_TAG = b"[" + _TAGS + b"]"
_START = rb"(?:(?<![\w.-])|(?<=%b.)|(?<=%b[\x80-\xff].)|(?<=%b[\x80-\xff]{2}.))" % (_TAG, _TAG, _TAG)
_card_in_bytes = re.compile(_START + _NUMBER.encode() + rb"(?![13-46-8B-IK-OQ-Y_a-ik-oq-y-])", re.DOTALL)
_SHORTEST = 13  # characters of the shortest secret or card number
_DIGIT_TAGS = "0259"  # what a field's tag behind a text reads as, where it reads as a digit
_RUN = b"0" * 13
_run = re.compile(b"0++")
_DIGITS_TO_0 = bytes(48 if chr(byte) in "0123456789 -" else 46 for byte in range(256))


class Redactor:
    """The built-in patterns and the user's own."""

    def __init__(self, own: Iterable[str] = ()) -> None:
        """Compile the user's own patterns.

        Raises:
            SettingsError: one of them is not a regular expression.
        """
        self._own = [_compiled(pattern) for pattern in own]

    def is_suspect(self, body: bytes) -> bool:
        """Tell whether a text somewhere in `body` may hold something that `text` would change."""
        return bool(self._own) or _is_suspect(body)

    def changes_none(self, texts: set[bytes]) -> bool:
        """Tell whether `text` leaves all of these texts as they are; False also where that is not sure.

        Raises:
            UnicodeDecodeError: one of them is not UTF-8.
        """
        joined = b"\0".join(texts)
        if _is_suspect(joined):
            return False
        return not any(own.search(text) for own in self._own for text in joined.decode().split("\0"))

    def text(self, text: str, is_identity: bool = False) -> str:
        """Return `text` without secrets; an identity keeps an e-mail address and a number that looks like a card's."""
        is_long = len(text) >= _SHORTEST
        if is_long and any(prefix in text for prefix in _PREFIXES):
            text = _secret.sub(SECRET, text)
        if not is_identity:
            if "@" in text:
                text = _email.sub(EMAIL, text)
            if is_long:
                text = _card.sub(_card_or_number, text)
        for own in self._own:
            text = own.sub(OWN, text)
        return text


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise SettingsError(f"redactions: {pattern!r} is not a regular expression: {error}") from None
    if compiled.search(""):
        raise SettingsError(f"redactions: {pattern!r} matches the empty text, so it would change everything")
    return compiled


def _is_suspect(body: bytes) -> bool:
    return _has_secret(body) or _email_in_bytes.search(body) is not None or _has_card(body)


def _has_secret(body: bytes) -> bool:
    pieces = body.translate(_LETTERS_TO_PIECES)
    return any(piece in pieces for piece in _PIECES) and _secret_in_bytes.search(body) is not None


def _has_card(body: bytes) -> bool:
    digits = body.translate(_DIGITS_TO_0)
    at = digits.find(_RUN)
    while at >= 0:
        end = _run.match(digits, at).end()  # type: ignore[union-attr]
        for found in _card_in_bytes.finditer(body, at, min(end + 1, len(body))):
            if any(is_card_number(number) for number in _readings(body, found)):
                return True
        at = digits.find(_RUN, end)
    return False


def _readings(body: bytes, found: re.Match[bytes]) -> Iterator[str]:
    """Yield a run of digits as it may have stood in a text: a length before it or a tag behind it may read as one."""
    number = found.group().decode()
    starts = (0, 1) if (before := body[found.start() - 1]) > 127 or before in _TAGS else (0,)
    ends = (len(number), len(number) - 1) if number[-1] in _DIGIT_TAGS else (len(number),)
    for start in starts:
        for end in ends:
            yield number[start:end]


def _card_or_number(found: re.Match[str]) -> str:
    return CARD if is_card_number(found.group()) else found.group()


def is_card_number(text: str) -> bool:
    """Tell whether the digits of `text` pass Luhn's check (ISO/IEC 7812-1, annex B)."""
    digits = [int(char) for char in reversed(text) if char.isdigit()]
    return sum(digits[::2]) % 10 == -sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2]) % 10
