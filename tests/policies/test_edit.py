"""policies/edit.py: what is not meant stays as it was written, to the character."""
from __future__ import annotations

import pytest
import yaml

from farthing.errors import DocumentError
from policies.edit import with_field
from policies.load import load

POLICY = """\
---
# the reason
apiVersion: farthing/v1
kind: Policy
metadata: {name: a}  # its name
action:
  route:
    to: small   # cheap

mode: shadow # until seen
# the end
"""


def test_a_value_is_set_and_all_comments_stay() -> None:
    edited = with_field(POLICY, "mode", "enforce")
    assert edited == POLICY.replace("mode: shadow", "mode: enforce")


def test_a_block_gives_way_to_the_new_value_and_what_follows_it_stays() -> None:
    block = "canary:\n  share: 0.1 # few\n# about the mode\nmode: canary\n"
    text = POLICY.replace("mode: shadow # until seen\n", block)
    edited = with_field(text, "canary", {"share": 0.5})
    assert 'canary:\n  {"share": 0.5} # few\n# about the mode\nmode: canary\n' in edited
    assert load(edited).policies[0].canary.share == 0.5


def test_a_field_that_was_not_there_comes_after_the_last() -> None:
    edited = with_field(POLICY, "priority", 3)
    assert "mode: shadow # until seen\npriority: 3\n# the end\n" in edited
    assert load(edited).policies[0].priority == 3
    assert with_field("a: 1", "b", "x") == "a: 1\nb: x"


@pytest.mark.parametrize("text", ["{a: 1, mode: canary} # so", "{a: 1} # so", "{a: 1, } # so"])
def test_an_object_in_braces_is_edited_too(text: str) -> None:
    edited = with_field(text, "mode", "shadow")
    assert yaml.safe_load(edited) == {"a": 1, "mode": "shadow"} and edited.endswith("} # so")


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(DocumentError, match="not written as"):
        with_field("- a", "mode", "shadow")
