"""proxy/keys.py: a good key is somebody, and a bad one is nobody, with the reason and the way out."""
from __future__ import annotations

import dataclasses
import re
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from farthing.policy import Document, Key
from farthing.settings import ProxyKey, Settings
from farthing.virtual_key import digest, new_key
from proxy.api_error import ApiError
from proxy.keys import Keys

NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
SECRETS = {name: new_key() for name in ("ci", "expired", "revoked", "rotated", "old", "small", "ops", "open")}


def kept(name: str) -> str:
    return digest(SECRETS[name].encode()).hex()


def key(name: str, **more: Any) -> Key:
    return Key.model_validate({"name": name, "digest": kept(name)} | more)


DOCUMENT = Document(
    version=1,
    keys=(
        key("ci", tenant="acme", team="build", user="robot"),
        key("expired", expires=NOW - HOUR),
        key("revoked", revoked=NOW - HOUR, expires=NOW + HOUR),
        key("rotated", old_digest=kept("old"), old_until=NOW + HOUR),
        key("small", models=["gpt-*-mini", "own"], routes=["chat"], expires=NOW + HOUR),
        key("ops", routes=["metrics"]),
        key("open"),
    ),
)
OPEN, EXPOSED = Settings(), Settings(host="0.0.0.0")
WRITTEN = Settings(proxy_keys=(ProxyKey("by-hand", tenant="acme", name="hand", team="build"),))


def keys(settings: Settings = EXPOSED, document: Document = DOCUMENT, now: datetime = NOW) -> Keys:
    return Keys(settings, lambda: document, now.timestamp)


def sent(name: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {SECRETS[name]}".encode()}


def refusal(found: Keys, headers: dict[bytes, bytes], route: str = "chat") -> tuple[int, str]:
    with pytest.raises(ApiError) as refused:
        found.caller(headers, route)
    return refused.value.status, refused.value.message


def test_a_key_fixes_who_asks() -> None:
    caller = keys().caller(sent("ci"), "chat")
    assert (caller.tenant, caller.team, caller.user, caller.key) == ("acme", "build", "robot", "ci")
    assert keys().caller(sent("open"), "chat").tenant == "default"


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "api-key"])
def test_each_api_s_header_carries_a_key(name: str) -> None:
    scheme = "bearer " if name == "authorization" else ""
    assert keys().caller({name.encode(): f"{scheme}{SECRETS['ci']}".encode()}, "chat").key == "ci"


def test_a_client_that_sends_a_key_of_another_kind_too_is_known_by_ours() -> None:
    headers = {b"authorization": b"Bearer sk-else", b"x-api-key": SECRETS["ci"].encode()}
    assert keys().caller(headers, "chat").key == "ci"


MISTYPED = SECRETS["ci"][:-1] + ("a" if SECRETS["ci"][-1] != "a" else "b")


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("", "is missing; send one"),
        ("Bearer ", "is missing; send one"),
        (f"Bearer {MISTYPED}", "mistyped or cut short.* copy it again"),
        (f"Bearer {SECRETS['ci'][:20]}", "mistyped or cut short"),
        (f"Bearer {new_key()}", "is unknown; send one"),
        ("Bearer sk-of-another-proxy", "is unknown; send one"),
        (f"Bearer {SECRETS['expired']}", "'expired' expired on 2026-02-28 23:00 UTC; ask for another"),
        (f"Bearer {SECRETS['revoked']}", "'revoked' was revoked on 2026-02-28; ask for another"),
    ],
    ids=["none", "empty", "mistyped", "cut", "unknown", "foreign", "expired", "revoked"],
)
def test_a_key_that_is_not_good_is_refused_with_what_to_do(header: str, why: str) -> None:
    status, message = refusal(keys(), {b"authorization": header.encode()})
    assert status == 401 and re.search(why, message), message
    assert SECRETS["ci"] not in message and MISTYPED not in message


def test_a_rotated_key_and_its_successor_are_both_good_until_the_given_time() -> None:
    for now, good in ((NOW, ["old", "rotated"]), (NOW + HOUR, ["rotated"])):
        assert [keys(now=now).caller(sent(name), "chat").key for name in good] == ["rotated"] * len(good)
    why = refusal(keys(now=NOW + HOUR), sent("old"))[1]
    assert "was rotated; the old one was good until 2026-03-01 01:00 UTC" in why


def test_a_key_is_limited_to_its_routes_and_models() -> None:
    caller = keys().caller(sent("small"), "chat")
    assert [caller.may_ask(model) for model in ("gpt-4o-mini", "own", "gpt-4o", "")] == [True, True, False, False]
    with pytest.raises(ApiError, match="'small' may not use the model 'gpt-4o'; GET /v1/models") as refused:
        caller.check_model("gpt-4o")
    assert refused.value.status == 403
    why = "the key 'small' may not use embeddings; it may use chat"
    assert refusal(keys(), sent("small"), "embeddings") == (403, why)


def test_what_tells_of_everybody_needs_a_key_that_names_it() -> None:
    assert keys().caller(sent("ops"), "metrics").key == "ops"
    assert refusal(keys(), sent("open"), "metrics")[0] == 403
    assert refusal(keys(), {}, "status")[0] == 401
    assert keys(WRITTEN).caller({}, "status").key == ""  # a loopback address


def test_on_a_loopback_address_a_key_is_optional_but_one_of_ours_must_be_good() -> None:
    found = keys(OPEN)
    assert found.caller({}, "chat").tenant == found.caller({b"x-api-key": b"sk-any"}, "chat").tenant == "default"
    assert found.caller(sent("ci"), "chat").team == "build"
    assert refusal(found, sent("revoked"))[0] == refusal(found, {b"api-key": MISTYPED.encode()})[0] == 401


@pytest.mark.parametrize(
    ("settings", "is_required"),
    [(OPEN, False), (EXPOSED, True), (WRITTEN, True), (dataclasses.replace(EXPOSED, require_proxy_key=False), False),
     (dataclasses.replace(OPEN, require_proxy_key=True), True)],
    ids=["loopback", "exposed", "written by hand", "trusted network", "strict"],
)  # fmt: skip
def test_a_key_is_required_where_others_reach_the_proxy_or_the_setting_says_so(
    settings: Settings, is_required: bool
) -> None:
    assert keys(settings).is_trusted({}, "chat") is not is_required


def test_keys_written_by_hand_stay_good_beside_the_others() -> None:
    caller = keys(WRITTEN).caller({b"authorization": b"Bearer by-hand"}, "chat")
    assert (caller.tenant, caller.team, caller.key) == ("acme", "build", "hand")
    assert keys(WRITTEN).caller(sent("ci"), "chat").key == "ci"


def test_a_new_document_is_followed_at_once() -> None:
    documents = [DOCUMENT]
    found = Keys(EXPOSED, lambda: documents[-1], NOW.timestamp)
    assert found.caller(sent("ci"), "chat").key == "ci"
    documents.append(Document(version=2, keys=(key("ci", revoked=NOW),)))
    assert "was revoked" in refusal(found, sent("ci"))[1]
    documents.append(Document(version=3))
    assert "is unknown" in refusal(found, sent("ci"))[1]


def test_a_key_that_was_good_a_moment_ago_ends_on_time_and_opens_no_other_route() -> None:
    times = [NOW]
    found = Keys(EXPOSED, lambda: DOCUMENT, lambda: times[-1].timestamp())
    assert found.caller(sent("small"), "chat").key == "small"
    assert refusal(found, sent("small"), "embeddings")[0] == 403
    times.append(NOW + HOUR)
    assert refusal(found, sent("small"))[0] == 401


def test_a_key_written_by_hand_is_nobody_where_none_is_needed_whatever_it_opened_before() -> None:
    settings = dataclasses.replace(WRITTEN, require_proxy_key=False, control_auth="tokens")
    found, by_hand = keys(settings), {b"authorization": b"Bearer by-hand"}
    assert refusal(found, by_hand, "status")[0] == 403
    assert found.caller(by_hand, "chat").key == ""
