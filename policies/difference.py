"""Two states of the written objects as one unified diff, object by object, comments included."""
from __future__ import annotations

import difflib
from collections.abc import Mapping

from policies.load import Key


def difference(old: Mapping[Key, str], new: Mapping[Key, str]) -> str:
    """Return the diff from `old` to `new` texts; empty where they are the same."""
    keys = sorted(key for key in old.keys() | new.keys() if _lines(old.get(key)) != _lines(new.get(key)))
    return "".join(one_difference(key, old.get(key), new.get(key)) for key in keys)


def one_difference(key: Key, old: str | None, new: str | None) -> str:
    """Return the diff of one object; None means that it is not there."""
    title = "/".join(key)
    names = ("/dev/null" if old is None else title, "/dev/null" if new is None else title)
    return "\n".join([*difflib.unified_diff(_lines(old), _lines(new), *names, lineterm=""), ""])


def _lines(text: str | None) -> list[str]:
    """Return the lines without the marker that stood between two documents."""
    return (text or "").removeprefix("---").strip("\n").splitlines()
