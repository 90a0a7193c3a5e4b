"""policies/lifecycle.py over HTTP: what is in force, what changed, and the way back."""
from __future__ import annotations

from typing import Any

from farthing.policy import KINDS

POLICY = """\
# why
apiVersion: farthing/v1
kind: Policy
metadata: {name: cache-repeats, owner: platform}
action: {cache: {}}
"""


def test_a_change_can_be_read_and_undone(client: Any) -> None:
    client.apply(POLICY, "author=ann&reason=repeats")
    client.apply(POLICY.replace("{cache: {}}", "{cache: {ttl_s: 60}}"), "author=bob")
    told = client.get("/v1/diff").json
    assert (told["from"], told["to"], told["changes"][0]["change"]) == (1, 2, "changed")
    assert "-action: {cache: {}}\n+action: {cache: {ttl_s: 60}}" in told["diff"]
    done = client.call("POST", "/v1/revert?version=1&author=ann&reason=slow").json
    assert (done["version"], [c["change"] for c in done["changes"]]) == (3, ["changed"])
    assert client.get("/v1/diff?from=1&to=3").json["diff"] == ""
    assert client.get("/v1/audit").json["audit"][0]["reason"] == "slow"


def test_a_version_that_is_not_there_is_named(client: Any) -> None:
    answer = client.get("/v1/diff?from=1&to=7")
    assert answer.status == 400 and "there is no version 1; allowed: 0 to 0" in answer.error["details"][0]
    assert client.call("POST", "/v1/revert?version=x").error["message"].startswith("version='x': allowed")


def test_the_status_names_who_put_what_in_force_and_who_runs_it(client: Any) -> None:
    client.apply(POLICY + "expires: 2020-01-01\n", "author=ann&reason=repeats")
    client.get("/v1/document", x_farthing_follower="host/7", if_none_match='"v0-x"')
    told = client.get("/v1/status").json
    assert (told["version"], told["author"], told["reason"]) == (1, "ann", "repeats")
    assert told["policies"] == [
        {"name": "cache-repeats", "owner": "platform", "mode": "enforce", "priority": 0, "expires": "2020-01-01"}
    ]
    assert told["warnings"] == ["Policy cache-repeats never acts: expired on 2020-01-01; remove it"]
    assert [(one["name"], one["state"]) for one in told["proxies"]] == [("host/7", "behind")]


def test_the_schema_is_served_to_editors(shared_client: Any) -> None:
    assert shared_client.get("/v1/schema").json["properties"]["kind"]["enum"] == sorted(KINDS)
