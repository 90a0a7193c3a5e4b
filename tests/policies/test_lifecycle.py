"""policies/lifecycle.py over HTTP: what is in force, what changed, and the way back."""
from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from farthing import cli_policy
from farthing.policy import KINDS
from farthing.settings import Settings

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
        {"name": "cache-repeats", "owner": "platform", "mode": "enforce", "priority": 0, "expires": "2020-01-01",
         "is_over": True}
    ]
    assert told["warnings"] == ["Policy cache-repeats never acts: expired on 2020-01-01; remove it"]
    assert [(one["name"], one["state"]) for one in told["proxies"]] == [("host/7", "behind")]


def test_the_status_says_on_how_many_a_trial_acts_and_how_that_goes_on(client: Any) -> None:
    today = datetime.now(timezone.utc).date()
    start = today - timedelta(days=2)
    ramp = f"mode: canary\ncanary: {{share: 0.1, ramp: {{start: {start}, days: 300, to: 1.0}}}}\n"
    client.apply(POLICY + ramp + "verify: {holdout: 0.2}\n")
    (one,) = client.get("/v1/status").json["policies"]
    assert 0.1 < one["share"] < 0.12 and not one["is_over"]
    end = start + timedelta(days=300)
    assert one["grows"] == {"from": start.isoformat(), "until": end.isoformat(), "to": 0.8}
    client.call("POST", "/v1/policies/cache-repeats/mode?mode=canary&share=0.3")
    (one,) = client.get("/v1/status").json["policies"]
    assert one["share"] == 0.3 and "grows" not in one
    client.call("POST", "/v1/policies/cache-repeats/mode?mode=shadow")
    assert "share" not in client.get("/v1/status").json["policies"][0]


def test_the_command_line_shows_shares_ends_and_the_lines_of_a_small_change(
    client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = "mode: canary\ncanary: {share: 0.25}\n"
    client.apply(POLICY + trial)
    client.apply(POLICY.replace("cache-repeats", "over") + "match: {team: ads}\nexpires: 2020-01-01\n")
    client.call("POST", "/v1/policies/cache-repeats/mode?mode=shadow&author=ann&reason=later")
    context: Any = SimpleNamespace(obj=lambda: Settings(policies_url=f"http://127.0.0.1:{client.port}"))
    cli_policy.history(context, limit=1)
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith("mode by ann: later")
    assert told[1:] == ["  changed    Policy cache-repeats", "    -mode: canary", "    +mode: shadow"]
    client.call("POST", "/v1/policies/cache-repeats/mode?mode=canary")
    cli_policy.status(context)
    lines = {line.split()[1]: line.split("priority 0  ")[-1] for line in capsys.readouterr().out.splitlines()}
    assert (lines["cache-repeats"], lines["over"]) == ("acts on 25.0%", "ended with 2020-01-01")


def test_the_schema_is_served_to_editors(shared_client: Any) -> None:
    assert shared_client.get("/v1/schema").json["properties"]["kind"]["enum"] == sorted(KINDS)
