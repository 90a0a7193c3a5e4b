"""Policy files (YAML) into objects of any kind; the whole text is refused when one thing in it is wrong.

A refusal lists every problem, one a line: where it stands, the value, and what is allowed there.
"""
from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from farthing.errors import DocumentError
from farthing.policy import KINDS, Budget, Named, Policy
from farthing.policy.defaults import rules
from farthing.policy.envelope import API_VERSION, ENVELOPE, METADATA
from policies.conflicts import conflicts
from policies.parse import MAX_NODES, MAX_TEXT_BYTES, Chunk, Path, Tree, chunks, parse

MAX_PROBLEMS = 50  # listed; the rest is counted
MAX_SHOWN = 80  # characters of a value that a message quotes

Key = tuple[str, str]  # kind and name


@dataclass(frozen=True)
class Objects:
    """What one text holds."""

    items: tuple[Named, ...]
    sources: Mapping[Key, str]  # (kind, name) -> its YAML document, verbatim
    text: str  # the whole text, verbatim

    @property
    def policies(self) -> tuple[Policy, ...]:
        return tuple(item for item in self.items if isinstance(item, Policy))

    @property
    def budgets(self) -> tuple[Budget, ...]:
        return tuple(item for item in self.items if isinstance(item, Budget))


def load(text: str, origin: str = "policies") -> Objects:
    """Read YAML text; `origin` names it in messages, such as the file's name.

    Raises:
        DocumentError: something is wrong; the message has one line for each problem.
    """
    if len(text.encode("utf-8", "replace")) > MAX_TEXT_BYTES:
        raise DocumentError(f"{origin}: longer than {MAX_TEXT_BYTES} bytes; split it into several files")
    entries = _entries(text, origin)
    problems = [problem for entry in entries for problem in entry.problems] or _joint_problems(entries)
    if not entries:
        problems = [f"{origin}: holds no document; write apiVersion: {API_VERSION}, kind, metadata and so on"]
    if problems:
        more = [f"{origin}: and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
        raise DocumentError("\n".join(problems[:MAX_PROBLEMS] + more))
    return _objects(entries, text)


def _entries(text: str, origin: str) -> list[_Entry]:
    entries: list[_Entry] = []
    room = MAX_NODES
    for chunk in chunks(text):
        entries.append(_Entry(chunk, origin, room))
        room -= entries[-1].tree.nodes
        if room < 0:
            break
    return entries


def _objects(entries: list[_Entry], text: str) -> Objects:
    return Objects(
        items=tuple(entry.made for entry in entries if entry.made is not None),
        sources={(entry.kind, entry.name): entry.chunk.text for entry in entries},
        text=text,
    )


def _joint_problems(entries: list[_Entry]) -> list[str]:
    problems: list[str] = []
    first: dict[Key, _Entry] = {}
    for entry in entries:
        other = first.setdefault((entry.kind, entry.name), entry)
        if other is not entry:
            line = other.tree.line(("metadata", "name"))
            why = f"already used in line {line}; names are unique"
            problems.append(entry.problem(("metadata", "name"), entry.name, why))
    origin = entries[0].origin if entries else ""
    return problems + [f"{origin}: {text}" for text in conflicts(rules(e.made for e in entries if e.made))]


class _Entry:
    """One YAML document on its way to a policy or budget; collects all that is wrong with it."""

    def __init__(self, chunk: Chunk, origin: str, room: int) -> None:
        self.chunk = chunk
        self.origin = origin
        self.kind = self.name = ""
        self.made: Named | None = None
        self.problems: list[str] = []
        self.tree: Tree = parse(chunk, room)
        self._read(self.tree.value)

    def problem(self, path: Path, value: object, why: str, line: int | None = None) -> str:
        """Write one problem as one line."""
        title = " ".join(part for part in (self.kind, self.name) if part)
        where = f"{self.origin}: document {self.chunk.number}{f' ({title})' if title else ''}"
        at = ".".join(str(part) for part in path) or "the document"
        shown = "" if value is _NOTHING else f" = {_shown(value)}"
        return f"{where}, line {line or self.tree.line(path)}: {at}{shown}: {why}"

    def _add(self, path: Path, value: object, why: str) -> None:
        self.problems.append(self.problem(path, value, why))

    def _read(self, body: Any) -> None:
        if isinstance(body, dict):
            self._read_envelope(body)
            self._read_spec(body)
        elif not self.tree.problems:
            self._add((), body, "must be a mapping with apiVersion, kind and metadata")
        self.problems += [self.problem(path, _NOTHING, why, line) for path, line, why in self.tree.problems]

    def _read_envelope(self, body: dict[str, Any]) -> None:
        kind = body.get("kind", _NOTHING)
        if isinstance(kind, str) and kind in KINDS:
            self.kind = kind
        else:
            self._add(("kind",), kind, _choice(kind, tuple(KINDS)))
        if body.get("apiVersion") != API_VERSION:
            self._add(("apiVersion",), body.get("apiVersion", _NOTHING), f"allowed: {API_VERSION}")
        self._read_metadata(body.get("metadata", _NOTHING))

    def _read_metadata(self, metadata: object) -> None:
        if not isinstance(metadata, dict):
            self._add(("metadata",), metadata, "must be a mapping with a name, such as {name: cache-repeats}")
            return
        if isinstance(metadata.get("name"), str):
            self.name = metadata["name"]
        for key in metadata:
            if key not in METADATA:
                self._add(("metadata", key), metadata[key], _unknown(key, METADATA))

    def _read_spec(self, body: dict[str, Any]) -> None:
        if not self.kind:
            return
        spec = {key: value for key, value in body.items() if key not in ENVELOPE}
        for key in METADATA:
            if key in spec:
                self._add((key,), spec.pop(key), _unknown(key, _allowed(KINDS[self.kind])))
        metadata = body.get("metadata")
        if isinstance(metadata, dict):
            spec |= {key: metadata[key] for key in METADATA if key in metadata}
        self._make(spec)

    def _make(self, spec: dict[str, Any]) -> None:
        try:
            self.made = KINDS[self.kind].from_written(spec)
        except ValidationError as error:
            for found in error.errors()[: MAX_PROBLEMS + 1]:
                self._explain(found["loc"], found["type"], found["input"], found["msg"])

    def _explain(self, loc: Path, kind: str, value: object, message: str) -> None:
        path = ("metadata", *loc) if loc and loc[0] in METADATA else loc
        if kind == "extra_forbidden":
            self._add(path, value, _unknown(str(loc[-1]), _allowed(_model_at(KINDS[self.kind], loc[:-1]))))
        elif kind == "tuple_type" or (kind == "string_type" and not isinstance(value, (dict, list))):
            self._add(path, value, "allowed: text, or a list of texts; put it in quotes if it is meant as text")
        elif kind == "missing":
            self._add(path, _NOTHING, "is missing")
        elif kind == "string_pattern_mismatch":
            self._add(path, value, "allowed: a-z, 0-9 and -, not starting with -, up to 63 characters")
        else:
            self._add(path, value, message.removeprefix("Value error, ").replace("Input should be", "allowed:"))


_NOTHING = object()  # the key is not there


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def _choice(value: object, allowed: tuple[str, ...]) -> str:
    return f"allowed: {', '.join(allowed)}" + _suggestion(value, allowed)


def _unknown(key: str, allowed: tuple[str, ...]) -> str:
    return f"unknown key; allowed: {', '.join(allowed)}" + _suggestion(key, allowed)


def _suggestion(value: object, allowed: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def _allowed(model: type[BaseModel]) -> tuple[str, ...]:
    names = [field.alias or name for name, field in model.model_fields.items()]
    if not issubclass(model, Named):
        return tuple(names)
    return (*ENVELOPE, *(name for name in names if name not in METADATA))


def _model_at(model: type[BaseModel], loc: Path) -> type[BaseModel]:
    """Return the record that a path of written names leads to; numbers of lists lead nowhere else."""
    for part in loc:
        field = next((one for name, one in model.model_fields.items() if part in (name, one.alias)), None)
        if field is not None:
            model = next(_records(field.annotation))
    return model


def _records(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _records(part)
