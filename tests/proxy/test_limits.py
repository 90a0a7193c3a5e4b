"""proxy/limits.py and limit_table.py: a limit lets in what it allows and no call more, however many workers ask."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from farthing import http_json, semconv
from farthing.policy import CompiledDocument, Document, Facts
from farthing.policy.kinds.limit import Limit
from farthing.prices import Usage
from proxy.api_error import ApiError
from proxy.call import Call
from proxy.limit_table import SLOTS, Ask, LimitTable
from proxy.limits import Limiter
from proxy.request import Asked
from tests.conftest import REPOSITORY
from tests.proxy.processes import workers
from tests.proxy.rig import Rig, answer_of, answers, asked, post, send_only, until, waits

NOW = 1_772_366_400.0  # a whole minute


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def limiter(folder: Path, *limits: dict[str, Any]) -> tuple[Limiter, Clock]:
    clock = Clock()
    made = Limiter(folder, 100, clock)
    named = tuple(Limit.model_validate({"name": f"l{number}"} | limit) for number, limit in enumerate(limits))
    made.follow(CompiledDocument(Document(version=1, limits=named)))
    return made, clock


def call(**facts: Any) -> Call:
    return Call("req_1", b"t" * 16, b"s" * 8, b"", Facts("default", **facts))


REQUEST = Asked(b"x" * 40, {}, {}, "gpt", max_output=20)  # 30 tokens at most


def enter(made: Limiter, one: Call | None = None) -> Call | ApiError:
    one = one or call()
    try:
        made.enter(one, REQUEST)
    except ApiError as error:
        return error
    return one


def test_requests_a_minute_are_those_of_the_clock_s_minute(tmp_path: Path) -> None:
    made, clock = limiter(tmp_path, {"requests_per_minute": 3})
    clock.now += 20
    assert [isinstance(enter(made), Call) for _ in range(5)] == [True, True, True, False, False]
    refused = enter(made)
    assert isinstance(refused, ApiError) and (refused.status, refused.retry_after_s) == (429, 40)
    assert "the limit 'l0' allows 3 requests a minute, and they are used up; try again in 40 s" in refused.message
    clock.now += 40
    assert isinstance(enter(made), Call)
    made.close()


def test_tokens_count_with_the_most_they_may_be_and_then_with_what_they_were(tmp_path: Path) -> None:
    made, _ = limiter(tmp_path, {"tokens_per_minute": 100})
    calls = [enter(made) for _ in range(4)]
    assert [isinstance(one, Call) for one in calls] == [True, True, True, False]  # 3 * 30 <= 100
    for one in calls[:2]:
        assert isinstance(one, Call)
        one.usage = Usage(5, output=5)
        made.leave(one)
        made.leave(one)  # once is all
    assert [isinstance(enter(made), Call) for _ in range(3)] == [True, False, False]  # 2 * 10 + 30 + 30 <= 100
    made.close()


def test_a_cached_answer_and_a_refused_call_use_no_tokens(tmp_path: Path) -> None:
    made, _ = limiter(tmp_path, {"tokens_per_minute": 30})
    for change in ({"cache_hit": "exact", "usage": Usage(5, output=5)}, {"outcome": "refused"}):
        one = enter(made)
        assert isinstance(one, Call)
        for name, value in change.items():
            setattr(one, name, value)
        made.leave(one)
    assert isinstance(enter(made), Call)
    made.close()


def test_a_call_larger_than_its_limit_is_let_in_alone(tmp_path: Path) -> None:
    made, _ = limiter(tmp_path, {"tokens_per_minute": 10})
    assert isinstance(enter(made), Call) and isinstance(enter(made), ApiError)
    made.close()


def test_calls_at_once_come_free_when_they_end(tmp_path: Path) -> None:
    made, _ = limiter(tmp_path, {"in_flight": 2})
    first, second, third = (enter(made) for _ in range(3))
    assert isinstance(first, Call) and isinstance(second, Call) and isinstance(third, ApiError)
    assert third.retry_after_s == 1 and "allows 2 calls at once" in third.message
    made.leave(first)
    assert isinstance(enter(made), Call)
    made.close()


def test_one_limit_without_room_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    made, _ = limiter(tmp_path, {"in_flight": 5}, {"requests_per_minute": 1, "scope": {"team": "small"}})
    assert isinstance(enter(made, call(team="small")), Call)
    for _ in range(10):
        assert isinstance(enter(made, call(team="small")), ApiError)
    assert [isinstance(enter(made, call()), Call) for _ in range(5)] == [True] * 4 + [False]
    made.close()


@pytest.mark.parametrize("each", ["tenant", "team", "user", "key"])
def test_each_has_the_limit_for_itself(tmp_path: Path, each: str) -> None:
    made, _ = limiter(tmp_path, {"requests_per_minute": 1, "each": each})
    both: list[dict[str, Any]] = [{"tenant": "t"} | {each: name} for name in ("ann", "bob")]
    ann, bob = (Call("r", b"", b"", b"", Facts(**facts)) for facts in both)
    assert [isinstance(enter(made, one), Call) for one in (ann, bob, ann, bob)] == [True, True, False, False]
    made.close()


def test_a_document_without_limits_opens_no_table(tmp_path: Path) -> None:
    made, _ = limiter(tmp_path / "none")
    assert isinstance(enter(made), Call) and not (tmp_path / "none").exists()
    made.close()


def test_a_full_table_forgets_the_oldest_and_never_who_is_under_way(tmp_path: Path) -> None:
    table = LimitTable(tmp_path)
    busy = Ask(b"b" * 16, in_flight=1)
    assert table.take([busy], 1, 0) is None
    for number in range(2 * SLOTS):
        table.take([Ask((number + 1).to_bytes(16, "little"), requests=1)], 2, 0)
    assert table.take([busy], 2, 0) == (busy, "in_flight")
    table.close()


def test_the_whole_table_is_on_the_disk_from_the_start_since_a_full_one_would_kill_the_worker(tmp_path: Path) -> None:
    (tmp_path / "counts-1").touch()
    os.truncate(tmp_path / "counts-1", 2**20)  # as an earlier version left it
    LimitTable(tmp_path).close()
    found = (tmp_path / "counts-1").stat()
    assert found.st_blocks * 512 >= SLOTS * 104


TAKE = """
import sys
from pathlib import Path
from proxy.limit_table import Ask, LimitTable
table = LimitTable(Path(sys.argv[1]))
ask = Ask(b"k" * 16, requests=1000)
print(sum(table.take([ask], 7, 0) is None for _ in range(800)), flush=True)
counted = Ask(b"t" * 16, tokens=1000)
let_in = 0
for _ in range(400):
    if table.take([counted], 7, 3) is None:
        let_in += 1
        table.give([counted], 7, -1)  # it used two of the three
print(let_in, flush=True)
busy = Ask(b"f" * 16, in_flight=3)
print(sum(table.take([busy], 7, 0) is None for _ in range(2)), flush=True)
input()
"""


def test_processes_share_a_limit_exactly_and_one_that_dies_gives_back_what_it_held(tmp_path: Path) -> None:
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", TAKE, str(tmp_path)]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, text=True)
        for _ in range(2)
    ]
    told = [[int(one.stdout.readline()) for _ in range(3)] for one in both if one.stdout is not None]
    # Of 1000 tokens, 3 at a time: 498 calls that used 2 leave room for one more, and 499 for none.
    assert [sum(counts) for counts in zip(*told, strict=True)] == [1000, 499, 3]
    table = LimitTable(tmp_path)
    busy = Ask(b"f" * 16, in_flight=3)
    assert table.take([busy], 7, 0) == (busy, "in_flight")
    for one in both:
        one.kill()
        one.communicate()
    table.shared.looked_at = 0.0
    assert [table.take([busy], 7, 0) is None for _ in range(4)] == [True, True, True, False]
    table.close()


def document(name: str, **spec: Any) -> str:
    head = f"apiVersion: farthing/v1\nkind: Limit\nmetadata: {{name: {name}}}\n"
    return head + "".join(f"{field}: {json.dumps(value)}\n" for field, value in spec.items())


def test_two_workers_on_a_port_share_a_limit_to_the_last_call(rig: Rig, tmp_path: Path) -> None:
    rig.apply(document("shared", scope={"team": "shared"}, in_flight=5))
    rig.upstream.next(waits(rig.upstream, answers(answer_of())))
    body = json.dumps(asked()).encode()
    with workers(rig, tmp_path) as running, ThreadPoolExecutor(24) as pool:
        made = [pool.submit(post, rig, "shared", body, running.url) for _ in range(24)]
        until(lambda: sum(one.done() for one in made) == 19, "all but five are refused")
        rig.upstream.release.set()
        statuses = [one.result().status for one in made]
    http_json.call("DELETE", f"{rig.policies}/v1/objects/Limit/shared")
    assert (statuses.count(200), statuses.count(429)) == (5, 19)


def test_a_refusal_tells_the_client_when_to_come_again(rig: Rig) -> None:
    rig.apply(document("one", scope={"tags": {"project": "slow"}}, in_flight=1))
    rig.upstream.next(waits(rig.upstream, answers(answer_of())))
    with rig.client("x", default_headers={semconv.HEADER_TAGS: "project=slow,team=x"}) as client:
        body = json.dumps(asked()).encode()
        with send_only(rig, "x,project=slow", body):
            assert rig.upstream.arrived.wait(120)
            with pytest.raises(openai.RateLimitError, match="the limit 'one' allows 1 calls at once") as refused:
                client.chat.completions.create(**asked())
            assert refused.value.response.headers["retry-after"] == "1" and refused.value.code == "rate_limit_exceeded"
            rig.upstream.release.set()
        until(lambda: rig.status()["in_flight"] == 0, "the first ends")
        client.chat.completions.create(**asked())
    http_json.call("DELETE", f"{rig.policies}/v1/objects/Limit/one")
