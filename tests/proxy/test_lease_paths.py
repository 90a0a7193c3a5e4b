"""proxy/lease.py under every way out of a call: in the end nothing is held and nothing leased."""
from __future__ import annotations

import json
from typing import Any

from farthing import semconv
from tests.proxy.rig import DELTAS, Rig, answer_of, answers, asked, ends_stream, post, send_only, until, waits
from tests.proxy.test_exchange import CASES


def test_every_way_out_of_a_call_leaves_no_hold_and_no_lease(rig: Rig) -> None:
    team = rig.budget()
    rig.cache(team, ttl_s=60)
    plain = json.dumps(asked()).encode()
    made: list[int] = []

    def has_lease() -> bool:
        """Ask once more, as a lease is for those who ask often."""
        made.append(post(rig, team, plain).status)
        return rig.status()["leased_nusd"].get(team, 0) > 100 * 1000

    until(has_lease, "a lease is in hand")
    for behave, more, (status, _, _) in CASES.values():
        rig.upstream.next(behave)
        assert post(rig, team, json.dumps(asked(**more)).encode()).status == status
    fallen_back(rig, team)
    gone(rig, team, "gpt-plain")
    gone(rig, team, "own")
    rig.upstream.next(answers(answer_of()))
    until(has_lease, "a lease is in hand")
    cached = [post(rig, team, json.dumps(asked(temperature=0)).encode()) for _ in range(2)]
    assert cached[1].headers[semconv.HEADER_CACHE] == "hit"
    balance = quiet_balance(rig, team, len(made) + len(CASES) + 5)
    settled = sum(span.get(semconv.SETTLED_NUSD, 0) for span in rig.spans(team))
    assert (balance["spent_nusd"], balance["overrun_nusd"], balance["refused"]) == (settled, 0, 0)
    assert sum(row["charged_nusd"] for row in rig.settlements(team)) == settled


def fallen_back(rig: Rig, team: str) -> None:
    rig.upstream.next(answers(answer_of()))
    assert post(rig, team, json.dumps(asked("pair")).encode()).status == 200


def gone(rig: Rig, team: str, model: str) -> None:
    """A client leaves in the middle of a stream; a third party's is read to its end all the same."""
    rig.upstream.next(waits(rig.upstream, ends_stream, DELTAS))
    before = len(rig.spans(team))
    sock = send_only(rig, team, json.dumps(asked(model, stream=True)).encode())
    until(lambda: b"llo" in sock.recv(4096), "the stream has begun")
    sock.close()
    if model == "own":
        assert rig.upstream.hung_up.wait(120)
    rig.upstream.release.set()
    until(lambda: len(rig.spans(team)) > before, "the call ends")


def quiet_balance(rig: Rig, team: str, calls: int) -> dict[str, Any]:
    until(lambda: not rig.status()["leased_nusd"], "leases that nobody uses go back")
    rig.quiet()
    until(lambda: len(rig.spans(team)) >= calls, "every call is recorded")
    balance = rig.balance(team)
    assert (balance["held_nusd"], balance["leased_nusd"]) == (0, 0)
    return balance
