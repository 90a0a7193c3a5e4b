"""SQL as text: the files that the package ships, literals, settings, and a file cut into its statements."""
from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

_COMMENT = re.compile(r"('(?:\\.|[^'\\])*')|--[^\n]*")
_FRAGMENT = re.compile(r"\{\{([a-z]\w*)(?:\((\w+)\))?\}\}")
_END = re.compile(r";\s*\Z")


@cache
def text(folder: str, name: str) -> str:
    """Return a file that the package ships."""
    return resources.files("farthing.warehouse").joinpath(folder, name).read_text("utf-8")


@cache
def asked(folder: str, name: str) -> str:
    """Return a file with each `{{name}}` in it replaced by the fragment that several questions share.

    A fragment may use others, and may take a word, `{{name(word)}}`, which stands in it as `{{1}}`.
    """
    return _whole(text(folder, name))


def _whole(content: str) -> str:
    def fragment(match: re.Match[str]) -> str:
        content = bare(text("fragments", f"{match.group(1)}.sql"))
        return _whole(content.replace("{{1}}", match.group(2) or ""))

    return _FRAGMENT.sub(fragment, content)


@cache
def names(folder: str) -> tuple[str, ...]:
    """Return the names of the .sql files of a folder, in order."""
    entries = resources.files("farthing.warehouse").joinpath(folder).iterdir()
    return tuple(sorted(entry.name for entry in entries if entry.name.endswith(".sql")))


def literal(value: object) -> str:
    """Return a value as SQL."""
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value)


def pairs(settings: Mapping[str, object]) -> str:
    """Return settings as a SETTINGS clause lists them."""
    return ", ".join(f"{key} = {literal(value)}" for key, value in settings.items())


def bare(statement: str) -> str:
    """Return a statement without its comments; what looks like one inside a string stays."""
    return _COMMENT.sub(lambda match: match.group(1) or "", statement).strip()


def statements(content: str) -> list[str]:
    """Cut the text of a file into its statements: each but the last ends with a semicolon at the end of a line."""
    found, lines = list[str](), list[str]()
    for line in content.splitlines():
        lines.append(line)
        if _END.search(_COMMENT.sub(lambda match: match.group(1) or "", line)):
            found.append(_END.sub("", bare("\n".join(lines))))
            lines = []
    found.append(bare("\n".join(lines)))
    return [statement for statement in found if statement]
