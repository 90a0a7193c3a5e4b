"""policies/approval*.py: what is above one person's bound waits for a second one, and nobody is both."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from farthing.serving import Asgi
from farthing.settings import Settings
from policies.approval import too_much
from policies.main import app
from tests.policies.conftest import Client

POLICY = "apiVersion: farthing/v1\nkind: Policy\nmetadata: {name: a}\naction: {cache: {}}\nmode: shadow\n"


def plan(usd: float | None, hit: int = 50, share: float = 1.0, change: str = "added") -> dict[str, Any]:
    hits = [{"policy": "a", "change": change, "mode": "enforce", "share": share, "requests": hit}]
    return {"requests": 100, "policies": hits, "effects": [{"hit": hit, "usd_per_day": {"value": usd}}]}


@pytest.mark.parametrize(
    ("planned", "needs"),
    [
        (plan(-30.0, hit=5), "it moves 30.00 USD a day; one person may move 20.00 USD"),
        (plan(-30.0, hit=5, share=0.5), ""),
        (plan(-1.0, hit=50), "it treats 50% of the calls otherwise; one person may do 40%"),
        (plan(-1.0, hit=50, share=0.5), ""),
        (plan(-99.0, share=0.0), ""),
        (plan(30.0, hit=5, share=0.0, change="removed"), "it moves 30.00 USD a day; one person may move 20.00 USD"),
        (plan(None, hit=5), "it moves an unknown amount a day; one person may move 20.00 USD"),
        (plan(0.0, hit=0), ""),
    ],
)
def test_a_change_is_weighed_by_what_it_does_at_once(planned: dict[str, Any], needs: str) -> None:
    assert too_much(Settings(approval_usd_per_day=20.0, approval_share=0.4), planned) == needs


@pytest.fixture
def people(serve: Callable[[Asgi], AbstractContextManager[int]], tmp_path: Path) -> Iterator[Any]:
    """A control plane whose analyzer is away, so that no effect can be predicted; tokens of ann and bob."""
    settings = Settings(data_dir=tmp_path, analyzer_port=9, approval_usd_per_day=20.0)
    with serve(app(settings)) as port:
        client = Client(port)
        tokens = {
            name: client.call("POST", f"/v1/tokens?name={name}&role=operator").json["token"] for name in ("ann", "bob")
        }

        def as_(name: str, method: str, path: str, body: str | None = None) -> Any:
            headers = {"authorization": f"Bearer {tokens[name]}"} if name else {}
            return client.call(method, path, body, **headers)

        yield as_


def test_a_second_person_puts_a_waiting_change_in_force_and_the_first_cannot(people: Any) -> None:
    kept = people("ann", "POST", "/v1/apply?reason=new", POLICY)
    assert (kept.status, kept.json["pending"], kept.json["version"]) == (202, 1, 0)
    assert "cannot be predicted" in kept.json["why"]
    assert people("ann", "POST", "/v1/pending/1/approve").error["code"] == "second_person"
    assert people("", "POST", "/v1/pending/1/approve").error["code"] == "second_person"
    assert [one["number"] for one in people("bob", "GET", "/v1/status").json["pending"]] == [1]
    done = people("bob", "POST", "/v1/pending/1/approve")
    assert (done.status, done.json["version"]) == (200, 1)
    (entry,) = people("bob", "GET", "/v1/audit").json["audit"]
    assert (entry["author"], entry["reason"]) == ("ann", "new (approved by bob)")
    (line,) = people("bob", "GET", "/v1/pending").json["pending"]
    assert (line["state"], line["decided_by"]) == ("approved", "bob")
    assert people("bob", "POST", "/v1/pending/1/approve").error["code"] == "nothing_waits"


def test_what_waits_for_a_second_person_is_made_with_a_token(people: Any) -> None:
    assert people("", "POST", "/v1/apply?author=ann", POLICY).error["code"] == "token_needed"


def test_a_change_that_was_weighed_on_another_version_is_outdated_and_can_be_refused(people: Any) -> None:
    people("ann", "POST", "/v1/apply", POLICY)
    people("ann", "POST", "/v1/apply", POLICY.replace("name: a", "name: b"))
    assert people("bob", "POST", "/v1/pending/1/approve").status == 200
    assert people("bob", "POST", "/v1/pending/2/approve").error["code"] == "outdated"
    assert people("ann", "POST", "/v1/pending/2/refuse").json == {"pending": 2, "state": "refused"}
    assert people("bob", "GET", "/v1/status").json["pending"] == []
    assert people("bob", "POST", "/v1/revert?version=0").json["version"] == 2  # going back waits for nobody
