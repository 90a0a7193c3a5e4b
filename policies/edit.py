"""One field of a written object set anew, with every other character of its text, comments too, left as it was."""
from __future__ import annotations

import json
from typing import Any

import yaml

from farthing.errors import DocumentError
from policies.parse import LOADER


def with_field(text: str, name: str, value: object) -> str:
    """Return a YAML document whose top-level field `name` holds `value`, JSON-ready; a new field comes last.

    Raises:
        DocumentError: the text is not one mapping.
    """
    root: Any = yaml.compose(text, Loader=LOADER)
    if not isinstance(root, yaml.MappingNode):
        raise DocumentError(f"{name}: the object is not written as `key: value`; apply it anew")
    written = value if isinstance(value, str) and value.isidentifier() else json.dumps(value)
    for key, node in root.value:
        if key.value == name:
            return text[: node.start_mark.index] + _gap(key, node) + written + text[_end(node) :]
    if root.flow_style:
        inside = text[: root.end_mark.index - 1].rstrip().removesuffix(",")
        return f"{inside}, {name}: {written}{text[root.end_mark.index - 1 :]}"
    end = max(_end(node) for _, node in root.value)
    rest_of_line = text[end:].partition("\n")[0]
    place = end + len(rest_of_line)
    return f"{text[:place]}\n{name}: {written}{text[place:]}"


def _gap(key: Any, node: Any) -> str:
    """Return what parts a value from its key where the old one began on a line of its own or was empty."""
    return " " if node.start_mark.index == key.end_mark.index + 1 else ""


def _end(node: Any) -> int:
    """Return where a node's text ends; the mark of a block lies behind the comments that follow it."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
        return _end(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value:
        return _end(node.value[-1])
    return node.end_mark.index
