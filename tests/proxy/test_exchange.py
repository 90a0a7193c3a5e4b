"""proxy/exchange.py: every way out of a call settles once, records once and agrees with the real ledger."""
from __future__ import annotations

import asyncio
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from farthing import semconv
from farthing.settings import Settings
from tests.ports import free_port
from tests.proxy.processes import is_up, process, workers
from tests.proxy.rig import (
    COST,
    DELTAS,
    DONE,
    ERROR_EVENT,
    EVENTS,
    HASTY_S,
    HOST_SECRET,
    LAST,
    PRICES,
    SECRET,
    USAGE,
    Behaviour,
    Received,
    Rig,
    Upstream,
    answer_of,
    answers,
    asked,
    chunk,
    deployments,
    ends_stream,
    error_cut,
    hangs,
    post,
    proxied,
    reply,
    resets,
    rig_in,
    running,
    send_only,
    streams,
    until,
    waits,
)  # fmt: skip


@pytest.mark.parametrize("model", ["gpt-plain", "own"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_good_answer_is_charged_what_it_used(rig: Rig, model: str, stream: bool) -> None:
    team = rig.budget()
    rig.upstream.next(streams(EVENTS) if stream else answers(answer_of()))
    made: Any = rig.client(team).chat.completions.create(**asked(model), stream=stream)
    text = "".join(part.choices[0].delta.content or "" for part in made) if stream else made.choices[0].message.content
    assert text == "hello"
    span = rig.span(team)
    assert (span[semconv.OUTCOME], span[semconv.SETTLED_NUSD], span[semconv.USAGE_SOURCE]) == ("ok", COST, "proxy")


ZERO, HOLD = "nothing", "the hold"
CASES: dict[str, tuple[Behaviour, dict[str, Any], tuple[int, str, str]]] = {
    "the upstream's 400": (answers(b'{"error": {}}', status=400), {}, (400, "upstream_400", ZERO)),
    "the upstream's 429": (answers(b"{}", "retry-after: 7", status=429), {}, (429, "upstream_429", ZERO)),
    "the upstream's 500": (answers(b"{}", status=500), {}, (500, "upstream_500", ZERO)),
    "its error, cut": (error_cut, {}, (502, "upstream_error", ZERO)),
    "a head, then cut": (streams(b"", cut_at=0), {"stream": True}, (200, "upstream_error", HOLD)),
    "our key refused": (answers(SECRET.encode(), status=401), {}, (502, "upstream_error", ZERO)),
    "a redirect": (answers(b"", "location: http://elsewhere/", status=307), {}, (502, "upstream_error", ZERO)),
    "a 202": (answers(b"{}", status=202), {}, (502, "upstream_error", HOLD)),
    "refused": (resets, {"model": "away"}, (502, "upstream_error", ZERO)),
    "reset before the head": (resets, {}, (502, "upstream_error", HOLD)),
    "no usage": (answers(answer_of(usage=None)), {}, (200, "", HOLD)),
    "null usage": (answers(answer_of(usage={"prompt_tokens": None})), {}, (200, "", HOLD)),
    "negative usage": (answers(answer_of(usage={"prompt_tokens": -9})), {}, (200, "upstream_error", HOLD)),
    "absurd usage": (answers(answer_of(usage={"prompt_tokens": 10**30})), {}, (200, "upstream_error", HOLD)),
    "not JSON": (answers(b"<html>"), {}, (200, "upstream_error", HOLD)),
    "an error as an answer": (answers(b'{"error": {"message": "no"}}'), {}, (200, "upstream_error", HOLD)),
    "a model unknown": (answers(b""), {"model": "nobody"}, (404, "model_not_found", ZERO)),
    "a price unknown": (answers(b""), {"model": "unpriced"}, (400, "price_unknown", ZERO)),
    "no bound": (answers(b""), {"service_tier": "priority"}, (400, "cost_unbounded", ZERO)),
    "no usage in a stream": (streams(DELTAS + DONE), {"stream": True}, (200, "", HOLD)),
    "an error in a stream": (streams(chunk({}) + ERROR_EVENT), {"stream": True}, (200, "upstream_error", HOLD)),
    "an error first": (streams(ERROR_EVENT), {"stream": True}, (200, "upstream_error", HOLD)),
    "cut before an event": (streams(EVENTS, cut_at=10), {"stream": True}, (200, "upstream_error", HOLD)),
    "cut in the middle": (streams(EVENTS, cut_at=len(DELTAS) // 2), {"stream": True}, (200, "upstream_error", HOLD)),
    "cut with a count so far": (streams(chunk({}, USAGE) + b"x", 999), {"stream": True}, (200, "upstream_error", HOLD)),
    "ended in the middle": (streams(DELTAS[: len(DELTAS) // 2]), {"stream": True}, (200, "upstream_error", HOLD)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_answer_that_is_not_good_settles_and_is_recorded_once(rig: Rig, name: str) -> None:
    behave, more, (status, error_type, charge) = CASES[name]
    team = rig.budget()
    rig.upstream.next(behave)
    response = post(rig, team, json.dumps(asked(**more)).encode())
    assert response.status == status
    assert SECRET not in str(response.headers) + response.whole.decode()  # type: ignore[attr-defined]
    span = rig.span(team)
    assert span.get(semconv.ERROR_TYPE, "") == error_type
    assert response.headers[semconv.HEADER_REQUEST_ID] == span[semconv.REQUEST_ID]
    assert span.get(semconv.SETTLED_NUSD, 0) == {ZERO: 0, HOLD: span.get(semconv.HELD_NUSD)}[charge]
    if name == "the upstream's 429":
        assert response.headers["retry-after"] == "7"


def test_a_stream_cut_after_its_usage_is_charged_the_usage(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(streams(EVENTS, cut_at=len(DELTAS + LAST)))
    post(rig, team, json.dumps(asked(stream=True)).encode())
    assert rig.span(team)[semconv.SETTLED_NUSD] == COST


def test_a_cut_stream_ends_for_the_client_with_an_error_and_not_as_if_it_were_whole(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(streams(EVENTS, cut_at=len(DELTAS) - 5))
    pieces: list[Any] = []
    with pytest.raises(openai.APIError, match="model's server failed"):
        pieces += iter(rig.client(team).chat.completions.create(**asked(), stream=True))
    rig.span(team)


BETIMES = f"no whole answer within {HASTY_S} s".encode()


@pytest.mark.parametrize("name", ["no head", "half a stream", "half a JSON answer", "a client that does not read"])
def test_a_call_that_takes_too_long_is_ended_and_charged_its_hold(rig: Rig, name: str) -> None:
    team = rig.budget()
    half = reply(answer_of()[:20], length=1000)

    async def writes_half(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(half)
        await hangs(request, reader, writer)

    flood = streams(chunk({"content": "x" * 1000}) * 30_000)
    behaviours = {"no head": hangs, "half a stream": waits(rig.upstream, hangs, DELTAS[:200]),
                  "half a JSON answer": writes_half, "a client that does not read": flood}  # fmt: skip
    rig.upstream.next(behaviours[name])
    body = json.dumps(asked(stream=name != "no head")).encode()
    if name == "a client that does not read":
        with send_only(rig, team, body, rig.hasty):
            until(lambda: rig.spans(team), "the call ends")
        rig.wrong = [line for line in rig.wrong if "without completing response" not in line]
    else:
        response = post(rig, team, body, rig.hasty)
        whole = response.whole  # type: ignore[attr-defined]
        assert response.status == (200 if name == "half a stream" else 504) and BETIMES in whole
    span = rig.span(team)
    assert (span[semconv.ERROR_TYPE], span[semconv.USAGE_SOURCE]) == ("upstream_timeout", "missing")


@pytest.mark.parametrize("stream", [False, True])
def test_a_metered_upstream_is_read_to_its_end_after_the_client_has_gone(rig: Rig, stream: bool) -> None:
    team = rig.budget()
    rig.upstream.next(waits(rig.upstream, ends_stream, DELTAS) if stream else waits(rig.upstream, answers(answer_of())))
    sock = send_only(rig, team, json.dumps(asked(stream=stream)).encode())
    assert rig.upstream.arrived.wait(120)
    if stream:
        until(lambda: b"llo" in sock.recv(4096), "the stream has begun")
    leave(rig, sock)
    until(lambda: rig.balance(team)["held_nusd"] > 0, "the hold is still there")
    assert not rig.upstream.hung_up.is_set() and rig.status()["in_flight"] == 1
    rig.upstream.release.set()
    span = rig.span(team)
    assert (span[semconv.OUTCOME], span[semconv.USAGE_SOURCE], span[semconv.SETTLED_NUSD]) == ("aborted", "proxy", COST)


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_of_our_own_is_left_when_the_client_goes(rig: Rig, stream: bool) -> None:
    team = rig.budget()
    rig.upstream.next(waits(rig.upstream, ends_stream, DELTAS if stream else b""))
    sock = send_only(rig, team, json.dumps(asked("own", stream=stream)).encode())
    assert rig.upstream.arrived.wait(120)
    if stream:
        until(lambda: b"llo" in sock.recv(4096), "the stream has begun")
    sock.close()
    assert rig.upstream.hung_up.wait(120)
    span = rig.span(team)
    assert (span[semconv.OUTCOME], span[semconv.USAGE_SOURCE]) == ("aborted", "estimate" if stream else "missing")
    assert 0 < span[semconv.SETTLED_NUSD] <= span[semconv.HELD_NUSD]


def test_a_client_that_closes_right_after_the_last_event_has_not_aborted(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(waits(rig.upstream, resets, EVENTS))
    sock = send_only(rig, team, json.dumps(asked("own", stream=True)).encode())
    until(lambda: b"[DONE]" in sock.recv(4096), "the last event is here")
    leave(rig, sock)
    rig.upstream.release.set()
    span = rig.span(team)
    assert span[semconv.SETTLED_NUSD] == COST and span[semconv.OUTCOME] != "aborted"


def leave(rig: Rig, sock: socket.socket) -> None:
    """Close a client's connection; return once the proxy has heard of it and closed its end."""
    ports = [f":{port:04X}" for port in (int(rig.proxy.rpartition(":")[2]), sock.getsockname()[1])]
    sock.close()

    def is_closed() -> bool:
        rows = [line.split()[1:3] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return not any(local.endswith(ports[0]) and remote.endswith(ports[1]) for local, remote in rows)

    until(is_closed, "the proxy has heard of it")


def test_a_client_that_leaves_while_the_ledger_decides_costs_nothing(rig: Rig) -> None:
    team = rig.budget()
    for _ in range(20):
        send_only(rig, team, json.dumps(asked("own")).encode()).close()
    until(lambda: len(rig.spans(team)) == 20, "every call is recorded")
    rig.quiet()
    assert rig.balance(team)["held_nusd"] == 0
    for span in rig.spans(team):
        rig.agrees(span, team)


def test_an_answer_larger_than_any_model_gives_is_refused_and_charged_its_hold(rig: Rig) -> None:
    async def flood(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"", "content-type: application/json", length=10**9))
        with suppress(ConnectionError):
            for _ in range(1000):
                writer.write(b" " * 1_000_000)
                await writer.drain()

    team = rig.budget()
    rig.upstream.next(flood)
    assert post(rig, team, json.dumps(asked()).encode()).status == 502
    assert rig.span(team)[semconv.USAGE_SOURCE] == "missing"


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (b"\xff", 400), (b'{"model":1}', 400), (b" " * 5_000_000, 413)]
)
def test_a_body_that_is_no_request_is_refused_and_costs_nothing(rig: Rig, body: bytes, status: int) -> None:
    assert post(rig, rig.budget(), body).status == status
    assert rig.upstream.received == []


def test_a_budget_refuses_the_call_that_does_not_fit_and_the_client_is_told_not_to_repeat_it(rig: Rig) -> None:
    team = rig.budget(limit="0.000001 USD")
    with pytest.raises(openai.RateLimitError, match="may cost up to") as refused:
        rig.client(team, max_retries=3).chat.completions.create(**asked())
    assert refused.value.type == "insufficient_quota" and refused.value.code == "budget_exceeded"
    assert rig.upstream.received == []
    assert rig.span(team)[semconv.OUTCOME] == "refused"


def test_a_fallback_gets_a_body_of_its_own_and_one_hold_covers_the_call(rig: Rig) -> None:
    team = rig.budget()
    rig.client(team).chat.completions.create(**asked("pair"))
    (received,) = rig.upstream.received
    assert received.json["model"] == "second"
    assert rig.span(team)[semconv.SETTLED_NUSD] == COST


def test_a_request_that_an_upstream_may_have_begun_is_not_sent_again(rig: Rig) -> None:
    async def resets_the_second(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(rig.upstream.received) == 1:
            writer.write(reply(answer_of(), "content-type: application/json"))
        else:
            writer.transport.abort()

    team = rig.budget()
    rig.upstream.next(resets_the_second)
    statuses = [post(rig, team, json.dumps(asked()).encode()).status for _ in range(2)]
    assert statuses == [200, 502] and len(rig.upstream.received) == 2


@pytest.mark.parametrize("body", [
    b'{"model":"gpt-plain","messages":[{"role":"user","content":"h\\u00e9 \xc3\xa9"}],"max_tokens":20,"x":[1.50,1e2]}',
    b' {"max_tokens" : 20, "messages": [ {"content":"hi","role":"user"} ],\n"model":"gpt-plain" } ',
    b'{"model":"gpt-plain","messages":[{"role":"user","content":"hi"}],"stream":true,'
    b'"stream_options":{"include_usage":true},"max_completion_tokens":7}',
])  # fmt: skip
def test_what_need_not_change_reaches_the_upstream_byte_for_byte(rig: Rig, body: bytes) -> None:
    team = rig.budget()
    rig.upstream.next(streams(EVENTS) if b"stream" in body else answers(answer_of()))
    assert post(rig, team, body).status == 200
    assert rig.upstream.received[0].body == body
    rig.span(team)


def test_a_missing_limit_is_capped_and_the_cap_is_sent_along(rig: Rig) -> None:
    team = rig.budget()
    body: Any = {key: value for key, value in asked("gpt").items() if key != "max_tokens"}
    rig.client(team).chat.completions.create(**body)
    assert rig.upstream.received[0].json == body | {"model": "gpt-real", "max_completion_tokens": 1024}
    rig.client(team).chat.completions.create(**body | {"model": "own", "max_completion_tokens": 9})
    assert rig.upstream.received[1].json["max_tokens"] == 9


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_stream_passes_byte_for_byte_to_a_client_that_asked_for_usage(rig: Rig, newline: bytes) -> None:
    team, events = rig.budget(), EVENTS.replace(b"\n", newline)
    rig.upstream.next(streams(events))
    body = asked(stream=True, stream_options={"include_usage": True})
    response = post(rig, team, json.dumps(body).encode())
    assert response.whole == events  # type: ignore[attr-defined]
    assert rig.span(team)[semconv.SETTLED_NUSD] == COST


@pytest.mark.parametrize("options", [{}, {"stream_options": None}, {"stream_options": {"include_usage": False}}])
def test_usage_is_asked_for_and_hidden_from_a_client_that_had_not_asked(rig: Rig, options: dict[str, Any]) -> None:
    team = rig.budget()
    rig.upstream.next(streams(EVENTS))
    response = post(rig, team, json.dumps(asked(stream=True, **options)).encode())
    assert response.whole == DELTAS + DONE  # type: ignore[attr-defined]
    assert rig.upstream.received[0].json["stream_options"] == {"include_usage": True}
    assert rig.span(team)[semconv.SETTLED_NUSD] == COST


def test_a_third_party_sees_its_own_key_and_nothing_of_the_caller(rig: Rig) -> None:
    team = rig.budget()
    private = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "cookie": "c=1", "authorization": "Bearer of-the-client"}
    for model in ("gpt", "secretive", "gpt-plain", "own"):
        post(rig, team, json.dumps(asked(model)).encode(), **private)
    sent = [request.headers for request in rig.upstream.received]
    expected = [f"Bearer {SECRET}", f"Bearer {HOST_SECRET}", None, None]
    assert [headers.get("authorization") for headers in sent] == expected
    allowed = {"host", "content-type", "content-length", "accept-encoding", "authorization"}
    assert all(allowed.issuperset(headers) for headers in sent)


def test_an_answer_carries_our_headers_and_none_of_the_upstream_s(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(answers(answer_of(), f"x-echo: {SECRET}", "set-cookie: a=b", "openai-organization: ours"))
    made = rig.client(team).chat.completions.with_raw_response.create(**asked("gpt"))
    assert made.headers[semconv.HEADER_CACHE] == "miss" and made.headers[semconv.HEADER_POLICY].startswith("v")
    assert made.headers[semconv.HEADER_REQUEST_ID] == rig.span(team)[semconv.REQUEST_ID]
    assert not {"x-echo", "set-cookie", "openai-organization"} & set(made.headers)


@pytest.mark.parametrize("stream", [False, True])
def test_a_repeat_is_answered_from_the_cache_and_costs_nothing(rig: Rig, stream: bool) -> None:
    team = rig.budget()
    rig.cache(team)
    rig.upstream.next(streams(EVENTS) if stream else answers(answer_of()))
    body = json.dumps(asked(temperature=0, stream=stream)).encode()
    first, second = (post(rig, team, body) for _ in range(2))
    assert first.whole == second.whole and len(rig.upstream.received) == 1  # type: ignore[attr-defined]
    assert [made.headers[semconv.HEADER_CACHE] for made in (first, second)] == ["miss", "hit"]
    until(lambda: len(rig.spans(team)) == 2, "both are recorded")
    (hit,) = [span for span in rig.spans(team) if semconv.CACHE_HIT in span]
    assert semconv.SETTLED_NUSD not in hit and hit[semconv.USAGE_INPUT_TOKENS] == 10
    rig.quiet()
    assert rig.balance(team)["spent_nusd"] == COST and rig.balance(team)["held_nusd"] == 0


@pytest.mark.parametrize(("behave", "stream"), [
    (answers(answer_of(usage=None)), False),
    (answers(answer_of(error={"message": "half"})), False),
    (answers(b"{}", status=500), False),
    (streams(DELTAS + LAST, cut_at=len(DELTAS + LAST)), True),
    (streams(DELTAS + LAST + ERROR_EVENT + DONE), True),
    (streams(DELTAS + DONE), True),
    (streams(DELTAS + LAST), True),
])  # fmt: skip
def test_the_cache_keeps_whole_good_answers_only(rig: Rig, behave: Behaviour, stream: bool) -> None:
    team = rig.budget()
    rig.cache(team)
    rig.upstream.next(behave)
    body = json.dumps(asked(temperature=0, stream=stream, stop=team)).encode()
    assert [post(rig, team, body).headers[semconv.HEADER_CACHE] for _ in range(2)] == ["miss", "miss"]


def test_the_cache_takes_sampled_requests_only_where_the_policy_says_so_and_forgets_after_its_ttl(rig: Rig) -> None:
    def hits(team: str, count: int, **more: Any) -> list[str]:
        body = json.dumps(asked(**more)).encode()
        return [post(rig, team, body).headers[semconv.HEADER_CACHE] for _ in range(count)]

    strict, loose, brief = (rig.budget() for _ in range(3))
    rig.cache(strict)
    rig.cache(loose, allow_sampled=True)
    rig.cache(brief, ttl_s=1e-9)
    assert hits(strict, 2) == hits(strict, 2, temperature=0.7) == ["miss", "miss"]
    assert hits(loose, 2, temperature=0.7, user="loose") == ["miss", "hit"]
    assert hits(brief, 2, temperature=0, seed=5) == ["miss", "miss"]


def test_two_workers_on_one_port_share_a_budget_to_the_last_request(rig: Rig, tmp_path: Path) -> None:
    limit = 10
    body = json.dumps(asked()).encode()
    hold = (len(body) + 128) * 1000 + 20 * 2000
    # The charge equals the hold, so exactly `limit` calls fit, however they fall together.
    used = {"prompt_tokens": len(body) + 128, "completion_tokens": 20}
    team = rig.budget(limit=f"{hold * limit / 1e9:.9f} USD")
    rig.upstream.next(answers(answer_of(usage=used)))
    with workers(rig, tmp_path) as running:
        with ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(lambda _: post(rig, team, body, running.url).status, range(40)))
        until(lambda: rig.balance(team)["held_nusd"] == 0, "every hold is settled")
    assert (statuses.count(200), statuses.count(429)) == (limit, 40 - limit)
    assert rig.balance(team)["spent_nusd"] == hold * limit
    until(lambda: len(rig.spans(team)) == 40, "every call is recorded")
    assert sum(span.get(semconv.SETTLED_NUSD, 0) for span in rig.spans(team)) == hold * limit


def test_a_proxy_that_is_told_to_stop_cuts_no_stream_off_and_pays_for_what_nobody_reads(
    rig: Rig, tmp_path: Path
) -> None:
    team, port = rig.budget(), free_port()
    url, body = f"http://127.0.0.1:{port}", json.dumps(asked(stream=True)).encode()
    rig.upstream.next(waits(rig.upstream, ends_stream, first=DELTAS))
    with process(rig, tmp_path, port) as started:
        with closing(send_only(rig, team, body, url)):  # its client goes
            until(lambda: len(rig.upstream.received) == 1, "one is under way")
        with closing(send_only(rig, team, body, url)) as stays:
            read = b""
            until(lambda: len(rig.upstream.received) == 2, "another is under way")
            started.terminate()
            until(lambda: not is_up(port), "it takes no new one")
            assert started.poll() is None
            rig.upstream.release.set()
            while part := stays.recv(65_536):
                read += part
        assert read.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") and started.wait(120) == 0
    until(lambda: len(rig.settlements(team)) == 2, "all are settled")
    assert [row["charged_nusd"] for row in rig.settlements(team)] == [COST] * 2
    assert rig.balance(team)["held_nusd"] == 0


def test_one_tenant_never_gets_another_s_answer(tmp_path: Path) -> None:
    from farthing.settings import ProxyKey

    keys = (ProxyKey("key-a", "tenant-a", "a", "team-a"), ProxyKey("key-b", "tenant-b", "b", "team-b"))
    os.environ |= {"UPSTREAM_KEY": SECRET, "OTHER_KEY": HOST_SECRET}
    with rig_in(tmp_path, proxy_keys=keys) as rig:
        rig.apply("apiVersion: farthing/v1\nkind: Policy\nmetadata: {name: cache}\naction: {cache: {}}\n")
        body = json.dumps(asked(temperature=0)).encode()
        made = [post(rig, "x", body, authorization=f"Bearer {key}") for key in ("key-a", "key-b", "key-b", "wrong", "")]
        assert [one.status for one in made] == [200, 200, 200, 401, 401]
        assert [one.headers[semconv.HEADER_CACHE] for one in made[:3]] == ["miss", "miss", "hit"]
        until(lambda: len(rig.spans("team-b")) == 2, "the team of the key wins over a tag")


def test_a_ledger_that_goes_away_refuses_hard_budgets_and_lets_soft_ones_through(tmp_path: Path) -> None:
    os.environ |= {"UPSTREAM_KEY": SECRET, "OTHER_KEY": HOST_SECRET}
    upstream = Upstream(answers(answer_of()))
    with running(upstream):
        settings = Settings(
            data_dir=tmp_path / "proxy", policies_port=free_port(), prices=PRICES,
            deployments=deployments(upstream.port, free_port()), collector_url=f"http://127.0.0.1:{upstream.port}",
        )  # fmt: skip
        keep_documents(settings, hard="hard", soft="soft")
        with proxied(settings) as port:
            rig = Rig(upstream, settings, settings.policies_port, port, port)
            assert [post(rig, team, json.dumps(asked()).encode()).status for team in ("hard", "soft")] == [503, 200]
            until(lambda: len(upstream.spans) == 2, "both are recorded")
            assert rig.status()["policy_version"] == 7 and rig.status()["settlements_waiting"] == 1
            assert [semconv.SETTLED_NUSD in span for span in upstream.spans] == [False, True]


def test_a_proxy_that_never_had_a_document_serves_nothing_until_it_has_one(tmp_path: Path) -> None:
    os.environ |= {"UPSTREAM_KEY": SECRET, "OTHER_KEY": HOST_SECRET}
    upstream = Upstream(answers(answer_of()))
    with running(upstream):
        settings = Settings(
            data_dir=tmp_path / "proxy", policies_port=free_port(), prices=PRICES,
            deployments=deployments(upstream.port, free_port()), collector_url=f"http://127.0.0.1:{upstream.port}",
        )  # fmt: skip
        open_handed = replace(settings, serve_without_policies=True)
        with proxied(settings) as port, proxied(open_handed) as open_port:
            rig = Rig(upstream, settings, settings.policies_port, port, port)
            refused = post(rig, "any", json.dumps(asked()).encode())
            error = json.loads(refused.whole)["error"]  # type: ignore[attr-defined]
            assert (refused.status, error["code"]) == (503, "no_policies") and "cannot connect" in error["message"]
            assert post(rig, "any", json.dumps(asked()).encode(), f"http://127.0.0.1:{open_port}").status == 200
            until(lambda: len(upstream.spans) == 2, "both are recorded")


def keep_documents(settings: Settings, hard: str, soft: str) -> None:
    """Leave a document on the disk, as a proxy does that has followed a control plane."""
    from hashlib import sha256

    from farthing.policy import Budget, Document

    budgets = tuple(
        Budget.model_validate({"name": name, "scope": {"team": name}, "limit_nusd": 10**9, "hard": name == hard})
        for name in (hard, soft)
    )
    body = Document(version=7, budgets=budgets).to_json()
    kept = settings.data_dir / "proxy" / "policies.json"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(sha256(body).hexdigest().encode() + b"\n" + body)
