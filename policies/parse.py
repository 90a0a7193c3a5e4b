"""YAML text into plain values, with the line of each; what YAML allows and a policy file never needs is refused.

Each YAML document is parsed by itself, so that its text can be kept verbatim and one broken document does not hide the
problems of the next. Depth and the number of nodes are bounded after aliases are followed: an alias bomb is refused in
the time that the bound takes to reach.
"""
from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import yaml

MAX_TEXT_BYTES = 1024 * 1024
MAX_DEPTH = 16  # mappings and lists within one another; a policy needs 5
MAX_NODES = 250_000  # keys and values of one text, aliases followed; a policy has about 20
TEXT_TAG = "tag:yaml.org,2002:str"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Path = tuple[str | int, ...]
MARKER = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)  # YAML forbids it inside every kind of scalar


@dataclass(frozen=True)
class Chunk:
    """One YAML document as it was written, comments included."""

    number: int  # 1 for the first
    first_line: int  # line of the whole text, from 1
    text: str


@dataclass
class Tree:
    """The values of one YAML document."""

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)  # path -> line of the whole text
    problems: list[tuple[Path, int, str]] = field(default_factory=list)  # path, line, what is wrong
    nodes: int = 0  # keys and values read so far
    room: int = MAX_NODES  # how many may be read

    def line(self, path: Path) -> int:
        """Return the line of `path`, or of the nearest parent that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)


class _Refused(Exception):
    """The document is given up: what follows cannot be trusted."""

    def __init__(self, path: Path, line: int, text: str) -> None:
        super().__init__(text)
        self.problem = (path, line, text)


def chunks(text: str) -> list[Chunk]:
    """Split `text` at its `---` markers; a chunk without any content is left out."""
    text = text.removeprefix("\ufeff")
    starts = [0, *(found.start() for found in MARKER.finditer(text))]
    pieces = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    lines = [1 + text.count("\n", 0, start) for start in starts]
    kept = [(line, piece) for line, piece in zip(lines, pieces, strict=True) if _has_content(piece)]
    return [Chunk(number, line, piece) for number, (line, piece) in enumerate(kept, start=1)]


def _has_content(piece: str) -> bool:
    lines = piece.removeprefix("---").splitlines()
    return any(line.strip() not in ("", "...") and not line.lstrip().startswith("#") for line in lines)


def parse(chunk: Chunk, room: int = MAX_NODES) -> Tree:
    """Parse one document of at most `room` values; whatever is wrong with it stands in `problems`."""
    tree = Tree(room=room)
    try:
        _check_shape(chunk)
        node = yaml.compose(chunk.text, Loader=LOADER)
        if node is not None:
            tree.value = _value(node, (), tree, chunk)
    except _Refused as refused:
        tree.problems.append(refused.problem)
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        tree.problems.append(((), chunk.first_line + _line_of(error), f"not valid YAML: {_reason(error)}"))
    return tree


def _check_shape(chunk: Chunk) -> None:
    """Refuse deep nesting before anything recursive sees it."""
    depth = 0
    events: Any = yaml.parse(chunk.text, Loader=LOADER)
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            line = chunk.first_line + event.start_mark.line
            raise _Refused((), line, f"is nested deeper than {MAX_DEPTH} levels; a policy needs 5")


def _line_of(error: Exception) -> int:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return mark.line if mark else 0


def _reason(error: Exception) -> str:
    text = getattr(error, "problem", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def _value(node: yaml.Node, path: Path, tree: Tree, chunk: Chunk) -> Any:
    line = chunk.first_line + node.start_mark.line
    tree.nodes += 1
    if tree.nodes > tree.room:
        raise _Refused(path, line, f"the text holds more than {MAX_NODES} values once its aliases are followed")
    if len(path) > MAX_DEPTH:
        raise _Refused(path, line, f"is nested deeper than {MAX_DEPTH} levels once its aliases are followed")
    tree.lines[path] = line
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, tree, chunk)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, number), tree, chunk) for number, item in enumerate(node.value)]
    return _scalar(node, path, line, tree)


def _mapping(node: yaml.MappingNode, path: Path, tree: Tree, chunk: Chunk) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = chunk.first_line + key_node.start_mark.line
        key = _scalar(key_node, path, line, tree) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            tree.problems.append((path, line, f"the key {_written(key_node)} is not text; put it in quotes"))
        elif key in values:
            first = tree.line((*path, key))
            tree.problems.append(((*path, key), line, f"the key is there twice, first in line {first}; keep one"))
        else:
            values[key] = _value(value_node, (*path, key), tree, chunk)
            tree.lines[(*path, key)] = line
    return values


def _written(node: yaml.Node) -> str:
    return repr(node.value) if isinstance(node, yaml.ScalarNode) else "in brackets"


def _scalar(node: Any, path: Path, line: int, tree: Tree) -> Hashable:
    """Return text, a number, true/false, null or a date; a quoted value is always text."""
    if node.tag == TEXT_TAG:
        return node.value
    try:
        value = yaml.constructor.SafeConstructor().construct_object(node)
    except (yaml.YAMLError, ValueError, OverflowError):
        value = None
        tree.problems.append((path, line, f"{node.value!r} cannot be read; put it in quotes if it is meant as text"))
    if value is None or isinstance(value, (str, int, float, date)):
        return value
    tree.problems.append((path, line, f"{node.value!r} is of a kind that no policy holds; put it in quotes"))
    return None
