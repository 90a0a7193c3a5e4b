"""Values of attributes that the store's columns hold as they are, and the JSON that stands for all others.

The columns hold texts, numbers, flags and lists of texts; of a list of numbers or of pairs they would keep nothing.
"""
from __future__ import annotations

import json
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue


def is_flat(value: AnyValue) -> bool:
    """Tell whether the columns hold a value as it is; bytes are held by none."""
    if value.HasField("array_value"):
        return all(item.WhichOneof("value") in ("string_value", None) for item in value.array_value.values)
    return not value.HasField("kvlist_value")


def is_all_flat(merged: Any) -> bool:
    """Tell the same of values that were merged into one (see lens.py)."""
    items = merged.array_value.values
    inner = ("bool_value", "int_value", "double_value", "array_value", "kvlist_value")
    return not (merged.HasField("kvlist_value") or items.bytes_value or any(map(items.HasField, inner)))


def plain(value: AnyValue) -> Any:
    """Return a value as Python's; bytes as nothing."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: plain(pair.value) for pair in value.kvlist_value.values}
    return None if kind in (None, "bytes_value") else getattr(value, kind)


def as_text(value: AnyValue) -> str:
    """Return a value of any kind as a text; JSON where it is none."""
    found = plain(value)
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
