"""Takes out of a text what says nothing, and leaves alone what a blank may mean something in.

Left as they are: fenced and indented code, whatever parses as JSON, and every line with a backtick, a bracket, a
table's bar or a quote beside a colon or a comma. Every step is linear in the text: it comes from outside.
"""
from __future__ import annotations

import json
import re
from collections.abc import Sequence

_BLANKS = re.compile(r"[ \t]{2,}")
_MEANT = re.compile(r'[`{}\[\]|<>]|":|",')
_FENCES = ("```", "~~~")
_INDENTED = ("    ", "\t")
_MAX_PARSED = 32  # places of one text where JSON is looked for; what follows them is left alone
_decode = json.JSONDecoder().raw_decode


def squeezed(text: str) -> str:
    """Return a text without blanks that say nothing; the indentation of a line stays."""
    if not any(run in text for run in ("  ", "\t", " \n", "\n\n\n")):
        return text
    return "".join([_squeezed(part) if is_free else part for is_free, part in _parts(text)])


def without(text: str, phrases: Sequence[str]) -> str:
    """Return a text without any of `phrases`, which are taken literally."""
    if not any(phrase in text for phrase in phrases):
        return text
    return "".join([_without(part, phrases) if is_free else part for is_free, part in _parts(text)])


def _without(part: str, phrases: Sequence[str]) -> str:
    for phrase in phrases:
        part = part.replace(phrase, "")
    return part


def _squeezed(part: str) -> str:
    lines: list[str] = []
    is_empty = False
    for line in part.splitlines(keepends=True):
        body = line.rstrip()
        if not body and is_empty:
            continue
        is_empty = not body and line.endswith("\n")
        lead = len(body) - len(body.lstrip())
        end = line[len(line.rstrip("\r\n")) :]
        lines.append(body[:lead] + _BLANKS.sub(" ", body[lead:]) + (end or line[len(body) :]))
    return "".join(lines)


def _parts(text: str) -> list[tuple[bool, str]]:
    """Return the text in parts, each with whether it may be changed."""
    parts: list[tuple[bool, list[str]]] = []
    at = parsed = until = 0
    fence = ""
    for line in text.splitlines(keepends=True):
        bare = line.lstrip(" ")
        if fence:
            is_free, fence = False, "" if bare.startswith(fence) else fence
        elif at < until or parsed > _MAX_PARSED:
            is_free = False
        elif bare.startswith(_FENCES):
            is_free, fence = False, bare[:3]
        elif bare.startswith(("{", "[")):
            is_free, parsed = False, parsed + 1
            until = _end_of_json(text, at + len(line) - len(bare))
        else:
            is_free = not line.startswith(_INDENTED) and _MEANT.search(line) is None
        if not parts or parts[-1][0] != is_free:
            parts.append((is_free, []))
        parts[-1][1].append(line)
        at += len(line)
    return [(is_free, "".join(lines)) for is_free, lines in parts]


def _end_of_json(text: str, start: int) -> int:
    """Return where the JSON that begins at `start` ends; 0 where it is none."""
    try:
        return _decode(text, start)[1]
    except ValueError:
        return 0
    except RecursionError:
        return len(text)
