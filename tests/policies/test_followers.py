"""policies/followers.py: the version that each proxy runs, as its own questions tell it."""
from __future__ import annotations

from typing import Any

from policies.followers import FORGOTTEN_S, LOST_S, Followers


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_proxy_runs_what_it_says_it_has_and_how_fast_it_took_it_is_told() -> None:
    clock = Clock()
    followers = Followers(clock)
    followers.heard("host/1", '"v3-abc"')
    clock.now_s += 5
    followers.published(4)
    assert states(followers, 4) == {"host/1": ("behind", 3, None)}
    clock.now_s += 0.02
    followers.heard("host/1", '"v4-def"')
    assert states(followers, 4) == {"host/1": ("up", 4, 0.02)}


def test_a_proxy_that_is_silent_is_lost_and_then_forgotten() -> None:
    clock = Clock()
    followers = Followers(clock)
    followers.heard("host/1", "")
    assert states(followers, 0) == {"host/1": ("behind", -1, None)}
    clock.now_s += LOST_S + 1
    assert states(followers, 0)["host/1"][0] == "lost"
    clock.now_s += FORGOTTEN_S
    assert states(followers, 0) == {}


def test_a_proxy_that_refuses_a_document_says_why() -> None:
    followers = Followers(Clock())
    followers.heard("host/1", '"v3-abc"', "budgets.0.scope: unknown")
    (line,) = followers.status(4)
    assert (line["state"], line["version"], line["refused"]) == ("refused", 3, "budgets.0.scope: unknown")


def states(followers: Followers, newest: int) -> dict[str, tuple[Any, ...]]:
    return {line["name"]: (line["state"], line["version"], line["took_s"]) for line in followers.status(newest)}
