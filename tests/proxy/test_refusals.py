"""Every refusal of ours, on every priced route, has the shape of the API that was asked."""
from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest

from farthing import http_json, semconv
from proxy.formats import FORMATS, Format
from tests.proxy.rig import Rig, hangs, until

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": MESSAGES, "max_tokens": 20},
    "completions": {"prompt": "hi", "max_tokens": 20},
    "responses": {"input": "hi", "max_output_tokens": 20},
    "embeddings": {"input": "hi"},
    "messages": {"messages": MESSAGES, "max_tokens": 20},
}
Asking = Callable[[Rig, Format, str], tuple[int, dict[str, Any]]]


def ask(rig: Rig, form: Format, team: str, model: str = "", **headers: str) -> tuple[int, dict[str, Any]]:
    name = model or ("claude" if form.api == "anthropic" else "gpt-plain")
    connection = http.client.HTTPConnection(rig.proxy.removeprefix("http://"), timeout=20)
    tags = {semconv.HEADER_TAGS: f"team={team}"}
    connection.request("POST", f"/v1/{form.path}", json.dumps({"model": name} | BODIES[form.path]), tags | headers)
    answer = connection.getresponse()
    read = json.loads(answer.read())
    connection.close()
    return answer.status, read


def over_budget(rig: Rig, form: Format, team: str) -> tuple[int, dict[str, Any]]:
    return ask(rig, form, rig.budget("0.000000001 USD"))


def over_limit(rig: Rig, form: Format, team: str) -> tuple[int, dict[str, Any]]:
    name = form.path.replace("/", "-")
    head = f"apiVersion: farthing/v1\nkind: Limit\nmetadata: {{name: {name}}}\n"
    rig.apply(f"{head}scope: {{team: {team}}}\ntokens_per_minute: 1\n")
    for _ in range(4):  # a call larger than its limit is let in alone; a minute may begin between two of them
        answered = ask(rig, form, team)
        if answered[0] == 429:
            break
    http_json.call("DELETE", f"{rig.policies}/v1/objects/Limit/{name}")
    return answered


def too_late(rig: Rig, form: Format, team: str) -> tuple[int, dict[str, Any]]:
    rig.upstream.next(hangs)
    return ask(rig, form, team, **{semconv.HEADER_DEADLINE: "50"})


def unknown_model(rig: Rig, form: Format, team: str) -> tuple[int, dict[str, Any]]:
    return ask(rig, form, team, model="nowhere")


def odd_header(rig: Rig, form: Format, team: str) -> tuple[int, dict[str, Any]]:
    return ask(rig, form, team, **{semconv.HEADER_DEADLINE: "soon"})


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.path)
@pytest.mark.parametrize(
    ("refused", "status", "words"),
    [(over_budget, 429, "are free"), (over_limit, 429, "allows 1 tokens a minute"), (too_late, 504, "within 0.05 s"),
     (unknown_model, 404, "is not served here"), (odd_header, 400, "whole number of milliseconds")],
    ids=["budget", "limit", "deadline", "model", "header"],
)  # fmt: skip
def test_a_refusal_has_the_shape_of_the_api_that_was_asked(
    rig: Rig, form: Format, refused: Asking, status: int, words: str
) -> None:
    got, body = refused(rig, form, rig.budget())
    assert (got, words in body["error"]["message"]) == (status, True), body
    if form.api == "anthropic":
        assert (body["type"], set(body["error"])) == ("error", {"type", "message"})
    else:
        assert (set(body), set(body["error"])) == ({"error"}, {"message", "type", "param", "code"})
    until(lambda: rig.upstream.busy == 0, "the upstream is left alone")
