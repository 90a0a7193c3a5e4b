"""Virtual keys through the real control plane and the real clients: in force at once, and never passed on."""
from __future__ import annotations

import json
import logging
import uuid
from typing import Any

import anthropic
import openai
import pytest

from farthing import http_json, semconv
from tests.proxy.rig import Rig, answer_of, answers, asked, until
from tests.proxy.test_formats import MESSAGE


def make(rig: Rig, **spec: Any) -> tuple[str, str]:
    """Make a key and wait until the proxy knows it; return its name and the key."""
    name = f"key-{uuid.uuid4().hex[:8]}"
    secret = http_json.call("POST", f"{rig.policies}/v1/keys", {"name": name} | spec)["key"]
    until(lambda: models(rig, secret) is not None, "the proxy knows the key")
    return name, secret


def models(rig: Rig, secret: str) -> list[str] | None:
    try:
        with client(rig, secret) as made:
            return [model.id for model in made.models.list()]
    except openai.AuthenticationError:
        return None


def client(rig: Rig, secret: str, **headers: str) -> openai.OpenAI:
    return rig.client("", api_key=secret, default_headers=headers)


def test_a_key_says_whose_call_it_is_and_its_upstream_never_sees_it(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    team = f"team-{uuid.uuid4().hex[:8]}"
    name, secret = make(rig, team=team, user="robot", routes=["chat", "models"])
    caplog.set_level(logging.DEBUG)
    with client(rig, secret, **{semconv.HEADER_TAGS: "team=other,user=else,tier=gold"}) as made:
        made.chat.completions.create(**asked())
    until(lambda: rig.spans(team), "a span arrives")
    (span,) = rig.spans(team)
    assert (span[semconv.USER], span[semconv.KEY], span["farthing.tag.tier"]) == ("robot", name, "gold")
    (request,) = rig.upstream.received
    assert secret not in str(request.headers) + request.body.decode() + caplog.text


def test_a_revoked_key_is_refused_in_each_api_s_words(rig: Rig) -> None:
    name, secret = make(rig)
    with client(rig, secret) as made:
        made.chat.completions.create(**asked())
    http_json.call("DELETE", f"{rig.policies}/v1/keys/{name}")
    until(lambda: models(rig, secret) is None, "the proxy knows better")
    with client(rig, secret) as made, pytest.raises(openai.AuthenticationError, match=r"was revoked on .* key create"):
        made.chat.completions.create(**asked())
    with anthropic.Anthropic(base_url=rig.proxy, api_key=secret, max_retries=0) as claude:
        with pytest.raises(anthropic.AuthenticationError) as refused:
            claude.messages.create(model="claude", max_tokens=20, messages=[{"role": "user", "content": "hi"}])
        assert refused.value.body["type"] == "error"  # type: ignore[index]


def test_a_rotated_key_and_the_old_one_are_both_good_and_one_principal(rig: Rig) -> None:
    name, old = make(rig)
    new = http_json.call("POST", f"{rig.policies}/v1/keys/{name}/rotate?overlap_s=3600")["key"]
    until(lambda: models(rig, new), "the proxy knows the new one")
    assert models(rig, old) == models(rig, new)


def test_a_key_s_models_and_routes_bound_it(rig: Rig) -> None:
    _, secret = make(rig, models=["gpt*"], routes=["chat", "models"])
    assert models(rig, secret) == ["gpt", "gpt-plain"]
    with client(rig, secret) as made:
        made.chat.completions.create(**asked("gpt-plain"))
        for model in ("own", "nobody"):
            with pytest.raises(openai.PermissionDeniedError, match=f"may not use the model '{model}'; GET /v1/models"):
                made.chat.completions.create(**asked(model))
        with pytest.raises(openai.PermissionDeniedError, match="may not use embeddings; it may use chat, models"):
            made.embeddings.create(model="gpt-plain", input="hi")


def test_the_anthropic_client_s_header_carries_a_key_too(rig: Rig) -> None:
    _, secret = make(rig)
    rig.upstream.next(answers(json.dumps(MESSAGE).encode()))
    with anthropic.Anthropic(base_url=rig.proxy, api_key=secret, max_retries=0) as claude:
        claude.messages.create(model="claude", max_tokens=20, messages=[{"role": "user", "content": "hi"}])
    assert secret not in str(rig.upstream.received[0].headers)


@pytest.mark.parametrize("scope", ["key", "user", "tag"])
def test_a_budget_of_a_key_a_user_or_a_tag_refuses_only_its_own(rig: Rig, scope: str) -> None:
    mine, other = f"mine-{uuid.uuid4().hex[:6]}", f"other-{uuid.uuid4().hex[:6]}"
    name, secret = make(rig, user=mine if scope == "user" else "")
    scopes = {"key": f"{{key: {name}}}", "user": f"{{user: {mine}}}", "tag": f"{{tags: {{project: {mine}}}}}"}
    rig.apply(
        f"apiVersion: farthing/v1\nkind: Budget\nmetadata: {{name: b-{mine}}}\nscope: {scopes[scope]}\nlimit: 0 USD\n"
    )
    mine_sent, over = {semconv.HEADER_TAGS: f"project={mine}"}, pytest.raises(openai.RateLimitError, match=f"b-{mine}")
    with client(rig, secret, **mine_sent) as made, over:
        made.chat.completions.create(**asked())
    _, secret = make(rig, user=other)
    rig.upstream.next(answers(answer_of()))
    with client(rig, secret, **{semconv.HEADER_TAGS: f"project={other}"}) as made:
        made.chat.completions.create(**asked())
