"""proxy/identity.py: who asks, and nobody else."""
from __future__ import annotations

import pytest

from proxy.identity import facts_of, parse_tags, trace_context
from proxy.keys import Caller


def test_what_the_key_fixes_wins_over_what_the_client_says() -> None:
    headers = {b"x-farthing-tags": b"team=finance,tenant=other,user=ann,key=admin"}
    facts = facts_of(Caller("acme", "build", key="ci"), headers, "m", "body-user")
    assert (facts.tenant, facts.team, facts.user, facts.key) == ("acme", "build", "ann", "ci")
    assert facts_of(Caller("acme", user="bob"), headers, "m", "body-user").user == "bob"


def test_what_the_key_leaves_open_is_as_the_client_says() -> None:
    facts = facts_of(Caller("default"), {}, "m", "body-user")
    assert (facts.tenant, facts.team, facts.user) == ("default", "", "body-user")


def test_tags_are_decoded_and_bounded() -> None:
    header = "team=a%20b,user=%C3%A4,broken,=x, tier = gold ," + ",".join(f"k{n}=v" for n in range(99))
    tags = parse_tags(header)
    assert (tags["team"], tags["user"], tags["tier"], len(tags)) == ("a b", "ä", "gold", 32)


@pytest.mark.parametrize("header", ["", "00-zz-1-01", f"00-{'0' * 32}-{'1' * 16}-01", f"00-{'g' * 32}-{'1' * 16}-01"])
def test_a_bad_trace_context_starts_a_new_trace(header: str) -> None:
    trace_id, parent = trace_context(header)
    assert len(trace_id) == 16 and any(trace_id) and parent == b""


def test_a_good_trace_context_is_continued() -> None:
    assert trace_context(f"00-{'ab' * 16}-{'cd' * 8}-01") == (b"\xab" * 16, b"\xcd" * 8)
