"""policies/keys.py and key_api.py: a key is shown once, kept as a digest, and followed by every proxy."""
from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from farthing.policy import Document
from farthing.virtual_key import digest, is_well_formed
from tests.until import until


def make(client: Any, name: str = "search-prod", **spec: Any) -> Any:
    return client.call("POST", "/v1/keys?author=ann&reason=launch", json.dumps({"name": name} | spec))


def followed(client: Any) -> Document:
    return Document.from_json(client.get("/v1/document").body)


def test_a_key_is_shown_once_and_kept_as_a_digest(client: Any, tmp_path: Path) -> None:
    answer = make(client, team="search", models=["gpt-*"], routes=["chat"])
    secret = answer.json["key"]
    assert answer.status == 201 and is_well_formed(secret)
    (key,) = followed(client).keys
    assert (key.name, key.team, key.models, key.routes) == ("search-prod", "search", ("gpt-*",), ("chat",))
    assert key.digest == digest(secret.encode()).hex()
    everywhere = [client.get(path).body for path in ("/v1/keys", "/v1/document", "/v1/keys/events", "/v1/audit")]
    everywhere += [file.read_bytes() for file in tmp_path.glob("control.db*")]
    assert not any(secret.encode() in text for text in everywhere)
    assert client.get("/v1/keys").json["keys"][0]["shown"] == f"fth_…{secret[-4:]}"


def test_a_proxy_that_waits_hears_of_a_new_key_at_once_and_the_version_stays(client: Any) -> None:
    etag = client.get("/v1/document").headers["etag"]
    heard: list[Document] = []

    def follow() -> None:
        body = client.get("/v1/document?wait=55", if_none_match=etag, x_farthing_follower="host/1").body
        heard.append(Document.from_json(body))  # one that waits to the end gets no body

    waiting = threading.Thread(target=follow)
    waiting.start()
    until(lambda: client.get("/v1/status").json["proxies"], "it waits")
    make(client)
    waiting.join()
    (document,) = heard
    assert [key.name for key in document.keys] == ["search-prod"] and document.version == 0


def test_keys_outlive_an_apply_that_replaces_everything_and_a_restart(
    opened: Callable[[], AbstractContextManager[Any]],
) -> None:
    with opened() as client:
        make(client)
        policy = "apiVersion: farthing/v1\nkind: Policy\nmetadata: {name: c}\naction: {cache: {}}\n"
        client.apply(policy, "replace=true")
        assert (len(followed(client).keys), followed(client).version) == (1, 1)
    with opened() as client:
        assert [key.name for key in followed(client).keys] == ["search-prod"]


def test_a_rotated_key_has_a_predecessor_until_the_given_time(client: Any) -> None:
    old = make(client).json["key"]
    answer = client.call("POST", "/v1/keys/search-prod/rotate?overlap_s=3600")
    (key,) = followed(client).keys
    assert key.digest == digest(answer.json["key"].encode()).hex() != key.old_digest == digest(old.encode()).hex()
    assert key.old_until is not None and 3500 < key.old_until.timestamp() - time.time() <= 3600


def test_a_revoked_key_stays_known_as_such_and_its_name_taken(client: Any) -> None:
    make(client)
    assert client.call("DELETE", "/v1/keys/search-prod?author=bob&reason=leaked").status == 200
    assert followed(client).keys[0].revoked is not None
    assert client.get("/v1/keys").json["keys"][0]["state"] == "revoked"
    for again in (make(client), client.call("DELETE", "/v1/keys/search-prod"),
                  client.call("POST", "/v1/keys/search-prod/rotate")):  # fmt: skip
        assert again.status == 400 and again.error["code"] == "key_refused"
    acts = [(event["act"], event["author"], event["reason"]) for event in client.get("/v1/keys/events").json["events"]]
    assert acts == [("revoke", "bob", "leaked"), ("create", "ann", "launch")]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"name": "Search Prod"}, "name = 'Search Prod': allowed: a-z, 0-9 and -"),
        ({"routes": ["chats"]}, "routes.0 = 'chats': allowed: chat, completions"),
        ({"expires": "soon"}, "expires = 'soon': allowed: ISO 8601"),
        ({"expires": "2020-01-01T00:00:00Z"}, "has passed; name a later time"),
        ({"digest": "0" * 40}, "digest: unknown; allowed: name, tenant"),
        ({"models": 3}, "models = 3: "),
    ],
)
def test_a_key_that_cannot_be_is_refused_with_what_is_allowed(shared_client: Any, spec: Any, says: str) -> None:
    answer = make(shared_client, **spec)
    assert answer.status == 400 and says in answer.error["message"]


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/v1/keys/nobody"), ("POST", "/v1/keys/nobody/rotate")])
def test_a_key_that_is_not_there_is_404(shared_client: Any, method: str, path: str) -> None:
    assert shared_client.call(method, path).status == 404
    assert shared_client.call("POST", "/v1/keys", "[]").status == 400
    assert shared_client.call("POST", "/v1/keys/nobody/rotate?overlap_s=1e99").status == 400


DECLARED = """\
apiVersion: farthing/v1
kind: Key
metadata: {name: search-prod, owner: search-team}
team: search
models: [gpt-4o]  # and no other
limits: {requests_per_minute: 5}
"""


def test_a_declared_key_is_made_as_its_document_says_and_follows_it(client: Any) -> None:
    assert client.apply(DECLARED).status == 200
    assert [(one["name"], one["state"]) for one in client.get("/v1/keys").json["keys"]] == [("search-prod", "declared")]
    refused = make(client, team="ads")
    assert (refused.status, refused.error["code"]) == (400, "key_declared") and "team" in refused.error["message"]
    secret = make(client, team="", models=[]).json["key"]
    (key,) = followed(client).keys
    assert (key.team, key.models, key.digest) == ("search", ("gpt-4o",), digest(secret.encode()).hex())
    assert [limit.scope.key for limit in followed(client).all_limits] == [("search-prod",)]
    assert client.apply(DECLARED.replace("[gpt-4o]", "[gpt-4o, gpt-5]")).status == 200
    assert followed(client).keys[0].models == ("gpt-4o", "gpt-5")
    assert client.call("DELETE", "/v1/objects/Key/search-prod").status == 200
    assert followed(client).keys[0].models == ("gpt-4o", "gpt-5") and followed(client).all_limits == ()


def test_a_key_that_was_there_first_is_what_its_document_says_from_then_on(client: Any) -> None:
    make(client, team="ads", models=["*"])
    client.apply(DECLARED.replace("team: search", "team: search\nexpires: 2020-01-01"))
    (key,) = followed(client).keys
    assert (key.team, key.models, key.expires and key.expires.year) == ("search", ("gpt-4o",), 2020)
    assert client.get("/v1/keys").json["keys"][0]["state"] == "expired"
    assert "fth_" not in client.get("/v1/objects").body.decode()
