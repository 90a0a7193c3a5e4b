"""proxy/count_tokens.py: Anthropic's count reaches Anthropic and nobody's budget."""
from __future__ import annotations

from typing import Any

import anthropic
import pytest

from farthing import semconv
from tests.proxy.rig import SECRET, Behaviour, Rig, answers, hangs, resets, streams
from tests.until import until

ASKED: Any = {"messages": [{"role": "user", "content": "hi"}]}


def test_a_count_is_passed_through_and_costs_no_budget_anything(rig: Rig) -> None:
    team = rig.budget("0 USD")
    rig.upstream.next(answers(b'{"input_tokens": 8}'))
    with rig.claude(team) as client:
        assert client.messages.count_tokens(model="claude", **ASKED).input_tokens == 8
    (received,) = rig.upstream.received
    assert received.path == "/anthropic/v1/messages/count_tokens"
    assert received.headers["x-api-key"] == SECRET and "of-the-client" not in str(received.headers)
    assert rig.settlements(team) == [] and rig.spans(team) == []


@pytest.mark.parametrize(
    ("model", "behave", "status", "says"),
    [
        ("own", answers(b""), 400, "not served over Anthropic's API"),
        ("nobody", answers(b""), 404, "is not served here"),
        ("claude", answers(b'{"type":"error","error":{"type":"x","message":"too many"}}', status=429), 429, "too many"),
        ("claude", answers(SECRET.encode(), status=401), 502, "refused this proxy's key"),
        ("claude", answers(b"", "location: http://elsewhere/", status=307), 502, "answered 307"),
        ("claude", resets, 502, "the model's server failed"),
    ],
    ids=["of another API", "unknown", "their own error", "our key refused", "a redirect", "no answer"],
)
def test_a_count_that_cannot_be_had_says_why(rig: Rig, model: str, behave: Behaviour, status: int, says: str) -> None:
    rig.upstream.next(behave)
    with rig.claude("x") as client, pytest.raises(anthropic.APIStatusError, match=says) as refused:
        client.messages.count_tokens(model=model, **ASKED)
    assert refused.value.status_code == status and SECRET not in str(refused.value)


@pytest.mark.parametrize("behave", [hangs, streams(b"{", ends=False)], ids=["no head", "half an answer"])
def test_a_count_takes_no_longer_than_its_caller_waits(rig: Rig, behave: Behaviour) -> None:
    rig.upstream.next(behave)
    late = {semconv.HEADER_DEADLINE: "300"}
    with rig.claude("x") as client, pytest.raises(anthropic.APIStatusError, match=r"no count within 0\.3 s") as refused:
        client.messages.count_tokens(model="claude", **ASKED, extra_headers=late)
    assert refused.value.status_code == 504
    until(lambda: rig.upstream.busy == 0, "no connection is left waiting")
