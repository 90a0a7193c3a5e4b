"""proxy/identity.py: who asks, and nobody else."""
from __future__ import annotations

import pytest

from farthing.settings import ProxyKey, Settings
from proxy.api_error import ApiError
from proxy.identity import Keys, parse_tags, trace_context

KEYED = Settings(proxy_keys=(ProxyKey("fth_one", tenant="acme", name="ci", team="build"), ProxyKey("fth_two")))


@pytest.mark.parametrize("header", ["", "Bearer ", "Bearer fth_on", "Bearer fth_one2", "fth"])
def test_an_unknown_key_is_refused_and_not_let_in_as_somebody(header: str) -> None:
    with pytest.raises(ApiError) as refused:
        Keys(KEYED).facts({b"authorization": header.encode()}, "m", "")
    assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")


def test_a_key_s_own_team_and_tenant_win_over_what_the_client_says() -> None:
    headers = {b"authorization": b"Bearer fth_one", b"x-farthing-tags": b"team=finance,tenant=other,user=ann"}
    facts = Keys(KEYED).facts(headers, "m", "")
    assert (facts.tenant, facts.team, facts.user, facts.key) == ("acme", "build", "ann", "ci")


def test_without_configured_keys_every_caller_is_the_default_tenant() -> None:
    facts = Keys(Settings()).facts({b"authorization": b"Bearer whatever"}, "m", "body-user")
    assert (facts.tenant, facts.user) == ("default", "body-user")


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
