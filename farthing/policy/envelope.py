"""How people write an object: the envelope around each kind's fields, and its JSON Schema for editors."""
from __future__ import annotations

from typing import Any

from farthing.policy.kinds import KINDS
from farthing.policy.record import NAME_PATTERN, Named

API_VERSION = "farthing/v1"
ENVELOPE = ("apiVersion", "kind", "metadata")
METADATA = ("name", "owner")


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of one YAML document of a policy file, whatever its kind."""
    kinds = sorted(KINDS)
    definitions: dict[str, Any] = {}
    choices: list[dict[str, Any]] = []
    for name in kinds:
        schema = _written(KINDS[name])
        definitions |= schema.pop("$defs", {})
        definitions[f"{name}Document"] = schema
        condition = {"properties": {"kind": {"const": name}}, "required": ["kind"]}
        choices.append({"if": condition, "then": {"$ref": f"#/$defs/{name}Document"}})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Farthing policy documents, {API_VERSION}",
        "type": "object",
        "required": list(ENVELOPE),
        "properties": {"kind": {"enum": kinds}},
        "allOf": choices,
        "$defs": definitions,
    }


def _written(kind: type[Named]) -> dict[str, Any]:
    """Return the schema of one kind as people write it: name and owner lie in the envelope's metadata."""
    schema = kind.model_json_schema(by_alias=True)
    inner = {name: value for name, value in schema["properties"].items() if name not in METADATA}
    envelope = {
        "apiVersion": {"const": API_VERSION},
        "kind": {"const": kind.KIND},
        "metadata": {
            "type": "object",
            "properties": {"name": {"type": "string", "pattern": NAME_PATTERN}, "owner": {"type": "string"}},
            "required": ["name"],
            "additionalProperties": False,
        },
    }
    required = [name for name in schema.get("required", []) if name not in METADATA]
    return schema | {"properties": envelope | inner, "required": [*ENVELOPE, *required]}
