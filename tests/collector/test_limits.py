"""collector/screen.py and content.py: what is cut, dropped, hidden or kept of a span, and how it is counted."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from collector.content import Verdict
from collector.receive import measured
from collector.screen import Screen, Screened
from farthing import semconv
from farthing.errors import IngestError, SettingsError
from farthing.settings import Redaction, Settings

KEY = b"k" * 32
TRACE = bytes(range(16))


def pair(key: str, value: str | int | AnyValue) -> KeyValue:
    if isinstance(value, str):
        value = AnyValue(string_value=value)
    return KeyValue(key=key, value=AnyValue(int_value=value) if isinstance(value, int) else value)


def span(attributes: Sequence[KeyValue] = (), **fields: Any) -> Span:
    return Span(**{"trace_id": TRACE, "span_id": b"spanspan", "name": "chat", "attributes": attributes, **fields})


def request_of(*spans: Span) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.extend(spans)
    return request


def screened(request: ExportTraceServiceRequest, **settings: Any) -> tuple[Screened, ExportTraceServiceRequest]:
    body = request.SerializeToString()
    made = of(body, Screen(Settings(**settings), KEY))
    return made, ExportTraceServiceRequest.FromString(made.body)


def of(body: bytes, screen: Screen, tenant: str = "acme") -> Screened:
    """Screen a body; where a glance is enough, the close look must come to the same."""
    extent = measured(body, 1000)
    made = screen(body, extent, tenant)
    if made.body is body:
        closely = screen.closely(body, extent, tenant)
        assert ExportTraceServiceRequest.FromString(closely.body) == ExportTraceServiceRequest.FromString(body)
        assert (closely.spans, closely.rejected, +closely.cuts) == (made.spans, made.rejected, +made.cuts)
    return made


def left(one: Span, **settings: Any) -> Span:
    """Return what is stored of a span."""
    _, request = screened(request_of(one), **settings)
    return request.resource_spans[0].scope_spans[0].spans[0]


def stored(one: Span, **settings: Any) -> dict[str, str | int]:
    attributes = left(one, **settings).attributes
    return {a.key: a.value.string_value if a.value.HasField("string_value") else a.value.int_value for a in attributes}


def test_a_body_without_anything_to_cut_is_the_sender_s_own_bytes() -> None:
    request = request_of(span([pair(semconv.REQUEST_MODEL, "tiny"), pair(semconv.USAGE_INPUT_TOKENS, 7)]))
    body = request.SerializeToString()
    screen = Screen(Settings(), KEY)
    assert [of(body, screen).body is body for _ in range(2)] == [True, True]


def test_the_longest_value_is_cut_at_a_character_and_counted() -> None:
    made, _ = screened(request_of(span([pair("farthing.tag.note", "é" * 40_000)])))
    assert made.cuts["texts cut"] == 1
    assert stored(span([pair("farthing.tag.note", "é" * 40_000)])) == {"farthing.tag.note": "é" * 32_768}
    short = stored(span([pair("farthing.tag.note", "aé" * 5)]), max_attribute_value_bytes=5)
    assert short == {"farthing.tag.note": "aéa"}


def test_attributes_past_the_limit_are_dropped_and_money_is_not_among_them() -> None:
    talk = [pair(f"gen_ai.prompt.{n}.content", "hello") for n in range(500)]
    kept = left(span([*talk, pair(semconv.USAGE_INPUT_TOKENS, 7), pair(semconv.REQUEST_MODEL, "tiny")]))
    assert [one.key for one in kept.attributes][:2] == [semconv.USAGE_INPUT_TOKENS, semconv.REQUEST_MODEL]
    assert len(kept.attributes) == 2 + 126 * 2  # a length and a hash in the place of each content
    assert kept.dropped_attributes_count == 500 - 126


def test_many_plain_attributes_are_cut_to_the_limit() -> None:
    kept = left(span([pair(f"farthing.tag.t{n}", n) for n in range(10_000)], dropped_attributes_count=5))
    assert len(kept.attributes) == 128 and kept.dropped_attributes_count == 5 + 9_872


def test_a_long_key_is_dropped() -> None:
    made, request = screened(request_of(span([pair("farthing.tag." + "k" * 244, 1), pair("farthing.tag.k", 2)])))
    kept = request.resource_spans[0].scope_spans[0].spans[0]
    assert [one.key for one in kept.attributes] == ["farthing.tag.k"] and made.cuts["attributes dropped"] == 1


def test_events_and_links_past_the_limit_are_dropped_with_otlp_s_own_count() -> None:
    link = Span.Link(trace_id=TRACE, span_id=b"otherone")
    made, _ = screened(request_of(span(events=[Span.Event(name="e")] * 130, links=[link] * 131)))
    kept = left(span(events=[Span.Event(name="e")] * 130, links=[link] * 131))
    assert (len(kept.events), kept.dropped_events_count, len(kept.links), kept.dropped_links_count) == (128, 2, 128, 3)
    assert (made.cuts["events over the limit"], made.cuts["links over the limit"]) == (2, 3)


def test_a_link_to_nowhere_is_dropped() -> None:
    links = [Span.Link(trace_id=b"short", span_id=b"x"), Span.Link(trace_id=TRACE, span_id=b"otherone")]
    kept = left(span(links=links))
    assert len(kept.links) == 1 and kept.dropped_links_count == 1


@pytest.mark.parametrize(
    "ids",
    [
        {"trace_id": b"short"}, {"span_id": b""}, {"trace_id": bytes(16)}, {"span_id": bytes(8)},
        {"parent_span_id": b"p"},
    ],
)  # fmt: skip
def test_a_span_with_an_invalid_id_is_taken_out_and_the_rest_is_stored(ids: dict[str, Any]) -> None:
    made, request = screened(request_of(span(name="first"), span(**ids), span(name="last")))
    assert (made.spans, made.rejected) == (2, 1)
    assert [one.name for one in request.resource_spans[0].scope_spans[0].spans] == ["first", "last"]


def test_unknown_attributes_are_dropped_wherever_they_stand() -> None:
    bad, good = pair("shop.note", "private"), pair("service.name", "shop")
    link = Span.Link(trace_id=TRACE, span_id=b"s" * 8, attributes=[bad])
    one = span([bad], events=[Span.Event(attributes=[bad])], links=[link])
    request = request_of(one)
    request.resource_spans[0].resource.attributes.extend([bad, good])
    request.resource_spans[0].scope_spans[0].scope.attributes.append(bad)
    made, kept = screened(request)
    assert b"private" not in made.body and made.cuts["attributes dropped"] == 5
    assert [a.key for a in kept.resource_spans[0].resource.attributes] == ["service.name"]


def test_a_setting_allows_more_keys() -> None:
    attributes = [pair("shop.order", "1"), pair("shop.cart.size", 2), pair("shop.cart.text", "3"), pair("else", "4")]
    allowed = "shop.order, shop.cart.*"
    kept = stored(span(attributes), allowed_attributes=allowed)
    assert kept == {"shop.order": "1", "shop.cart.size": 2, "shop.cart.text": "3"}


def test_content_leaves_its_length_and_a_keyed_hash() -> None:
    got = stored(span([pair("gen_ai.input.messages", "hé!"), pair(semconv.REQUEST_MODEL, "tiny")]))
    assert got[semconv.REQUEST_MODEL] == "tiny" and got["gen_ai.input.messages.length"] == 3
    digest = str(got["gen_ai.input.messages.hash"])
    assert len(digest) == 16 and int(digest, 16)
    again = stored(span([pair("gen_ai.input.messages", "hé!")]))
    assert again["gen_ai.input.messages.hash"] == digest  # repeats can be found
    assert "gen_ai.input.messages" not in again


def test_the_hash_of_one_tenant_says_nothing_about_another_s() -> None:
    screen, body = Screen(Settings(), KEY), request_of(span([pair("input.value", "same")])).SerializeToString()
    assert of(body, screen).body != of(body, screen, "other").body


def test_a_status_and_an_exception_are_content_too() -> None:
    failure = Span.Event(name="exception", attributes=[
        pair("exception.type", "E"), pair("exception.message", "bad key"), pair("exception.stacktrace", "Trace"),
    ])  # fmt: skip
    one = span(events=[failure])
    one.status.MergeFrom(Status(message="bad key", code=Status.STATUS_CODE_ERROR))
    kept = left(one)
    assert (kept.status.message, kept.status.code) == ("", 2)
    assert [a.key for a in kept.attributes] == ["otel.status_message.length", "otel.status_message.hash"]
    assert [a.key for a in kept.events[0].attributes] == [
        "exception.type", "exception.message.length", "exception.message.hash", "exception.stacktrace.length",
        "exception.stacktrace.hash",
    ]  # fmt: skip


def test_kept_content_is_redacted() -> None:
    said = "I am jane@example.com, sk-proj-Zm9vYmFyYmF6cXV4eHl6enk"
    one = span([pair("gen_ai.input.messages", said)])
    one.status.message = said
    kept = left(one, store_content=True)
    assert kept.attributes[0].value.string_value == kept.status.message == "I am [email], [secret]"


def test_a_key_that_holds_a_secret_is_dropped_with_its_value() -> None:
    keys = ("farthing.tag.jane@example.com", "gen_ai.input.messages.jane@example.com")
    assert stored(span([pair(key, "x") for key in keys])) == {}


def test_content_in_nested_values_is_redacted_too() -> None:
    pairs = KeyValueList(values=[pair("text", "to jane@example.com"), pair("n", 1)])
    values = [AnyValue(kvlist_value=pairs), AnyValue(string_value="4111111111111111")]
    value = AnyValue(array_value=ArrayValue(values=values))
    made, _ = screened(request_of(span([pair("gen_ai.input.messages", value)])), store_content=True)
    assert b"[email]" in made.body and b"[card]" in made.body and b"jane" not in made.body


def _list(*items: AnyValue) -> AnyValue:
    return AnyValue(array_value=ArrayValue(values=items))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (_list(AnyValue(int_value=1), AnyValue(int_value=2)), "[1, 2]"),
        (_list(AnyValue(int_value=0)), "[0]"),
        (_list(AnyValue(bool_value=False), AnyValue(string_value="é")), '[false, "é"]'),
        (_list(_list(AnyValue(double_value=0.5))), "[[0.5]]"),
        (AnyValue(kvlist_value=KeyValueList(values=[pair("a", 7), pair("b", "x")])), '{"a": 7, "b": "x"}'),
        (AnyValue(kvlist_value=KeyValueList()), "{}"),
    ],
)
def test_a_value_that_no_column_holds_is_stored_as_json(value: AnyValue, text: str) -> None:
    key = semconv.tag_attribute("shape")
    assert stored(span([pair(key, value)])) == {key: text}
    request = request_of(span())
    request.resource_spans[0].resource.attributes.append(pair("service.shape", value))
    request.resource_spans[0].scope_spans[0].spans[0].events.add(name="e").attributes.append(pair(key, value))
    (one,) = screened(request)[1].resource_spans
    assert one.resource.attributes[0].value.string_value == text
    assert one.scope_spans[0].spans[0].events[0].attributes[0].value.string_value == text


def test_own_patterns_are_taken_out_of_every_text() -> None:
    settings: dict[str, Any] = {"redactions": (Redaction(r"EMP-\d+"),)}
    assert stored(span([pair(semconv.USER, "EMP-1234")]), **settings) == {semconv.USER: "[redacted]"}


def test_no_secret_hides_at_the_place_where_a_value_is_cut() -> None:
    text = "a" * 64 + " sk-proj-Zm9vYmFyYmF6cXV4eHl6enk"
    got = stored(span([pair("gen_ai.input.messages", text)]), store_content=True, max_attribute_value_bytes=80)
    assert got["gen_ai.input.messages"] == "a" * 64 + " [secret]"


def test_content_is_sampled_by_trace_and_money_never() -> None:
    kept = money = 0
    for n in range(1, 401):
        trace = n.to_bytes(2, "big") * 8
        attributes = [pair("gen_ai.input.messages", "hello"), pair(semconv.USAGE_INPUT_TOKENS, 7)]
        got = [stored(span(attributes, trace_id=trace), store_content=True, content_sample=0.25) for _ in range(2)]
        assert got[0] == got[1]
        kept += "gen_ai.input.messages" in got[0]
        money += got[0][semconv.USAGE_INPUT_TOKENS] == 7
    assert money == 400 and kept < 400
    screen = Screen(Settings(store_content=True, content_sample=0.25), KEY)
    assert screen.content.is_kept(bytes(9) + b"\x3f" * 7) and not screen.content.is_kept(bytes(9) + b"\x40" * 7)


def test_a_sample_past_one_stops_the_start() -> None:
    with pytest.raises(SettingsError, match="content_sample"):
        Screen(Settings(content_sample=1.5), KEY)


def test_every_fact_that_a_row_needs_is_allowed() -> None:
    screen = Screen(Settings(), KEY)
    names = {name for aliases in semconv.ALIASES.values() for name in aliases}
    names |= {semconv.tag_attribute(name) for name in (*semconv.CORE_TAGS, "tier", "prompt")}
    assert {name for name in names if screen.content.verdict(name) is not Verdict.PLAIN} == set()


@pytest.mark.parametrize(
    ("key", "verdict"),
    [
        ("gen_ai.tool.args", Verdict.CONTENT),  # what OpenLIT sends with content off
        ("gen_ai.headers", Verdict.CONTENT),  # OpenLLMetry
        ("embedding.embeddings.0.embedding.text", Verdict.CONTENT),  # OpenInference
        ("llm.invocation_parameters", Verdict.CONTENT),
        ("http.request.header.authorization", Verdict.CONTENT),
        ("gen_ai.anything.new.prompt", Verdict.CONTENT),
        ("gen_ai.completion", Verdict.CONTENT),  # of the event gen_ai.content.completion, by older conventions
        ("gen_ai.prompt", Verdict.CONTENT),
        ("gen_ai.response.reasoning", Verdict.CONTENT),
        ("gen_ai.openai.request.response_format", Verdict.CONTENT),
        ("gen_ai.nobody_knows", Verdict.CONTENT),
        ("llm.completion", Verdict.CONTENT),
        ("llm.nobody.knows", Verdict.CONTENT),
        ("otel.status_description", Verdict.CONTENT),
        ("rpc.grpc.request.metadata.authorization", Verdict.CONTENT),
        ("db.operation.parameter.0", Verdict.CONTENT),
        ("llm.token_count.completion", Verdict.PLAIN),
        ("gen_ai.usage.details.thoughts_tokens", Verdict.PLAIN),
        ("gen_ai.tool.name", Verdict.PLAIN),
        ("gen_ai.tool.call.id", Verdict.PLAIN),
        ("gen_ai.output.type", Verdict.PLAIN),
        ("llm.token_count.prompt", Verdict.PLAIN),
        ("process.command_line", Verdict.UNKNOWN),
        ("", Verdict.UNKNOWN),
    ],
)
def test_keys_are_judged_by_the_lists(key: str, verdict: Verdict) -> None:
    assert Screen(Settings(), KEY).content.verdict(key) is verdict


def test_a_setting_allows_what_is_new_in_a_namespace_of_conversations() -> None:
    screen = Screen(Settings(allowed_attributes="gen_ai.shelf.*, llm.nobody.knows"), KEY)
    keys = ("gen_ai.shelf.number", "llm.nobody.knows", "gen_ai.shelves", "gen_ai.prompt.shelf")
    plain, content = Verdict.PLAIN, Verdict.CONTENT
    assert [screen.content.verdict(key) for key in keys] == [plain, plain, content, content]


def test_made_up_keys_do_not_fill_the_memory() -> None:
    screen = Screen(Settings(), KEY)
    for n in range(20_000):
        screen.content.verdict(f"farthing.tag.{n}")
    assert len(screen.content._verdicts) == 10_000 == len(screen.content.plain)


def test_a_body_of_empty_resources_is_refused_before_it_is_parsed() -> None:
    for bomb in (b"\x0a\x00" * 1001, b"\x0a" + b"\xd2\x0f" + b"\x12\x00" * 1001):
        with pytest.raises(IngestError) as caught:
            measured(bomb, 1000)
        assert caught.value.status == 413


def test_real_bodies_keep_every_call_and_lose_every_prompt(shared: Callable[[str], Path]) -> None:
    for path in sorted(shared("fixtures/otlp").glob("*/traces-*.bin")):
        body = path.read_bytes()
        made = of(body, Screen(Settings(), KEY))
        before, after = (ExportTraceServiceRequest.FromString(one) for one in (body, made.body))
        assert made.rejected == 0 and b"jane@example.com" not in made.body and b"Paris" not in made.body
        for name in (semconv.USAGE_INPUT_TOKENS, semconv.USAGE_OUTPUT_TOKENS, semconv.REQUEST_MODEL):
            assert _values(before, name) == _values(after, name)


def _values(request: ExportTraceServiceRequest, name: str) -> list[str]:
    spans = [span for one in request.resource_spans for scope in one.scope_spans for span in scope.spans]
    return [str(a.value) for span in spans for a in span.attributes if a.key == name]


def attributes() -> st.SearchStrategy[list[KeyValue]]:
    known = st.sampled_from(["gen_ai.request.model", "input.value", "shop.x", "user.id", "farthing.tag.a"])
    keys = known | st.text(max_size=6)
    text = st.text(max_size=30) | st.sampled_from(["jane@example.com", "4111111111111111", "é" * 60])
    one = st.one_of(
        st.builds(lambda t: AnyValue(string_value=t), text),
        st.builds(lambda n: AnyValue(int_value=n), st.integers(-9, 9)),
        st.builds(lambda b: AnyValue(bytes_value=b), st.binary(max_size=9)),
    )
    value = st.recursive(
        one,
        lambda inner: st.lists(inner, max_size=3).map(lambda v: AnyValue(array_value=ArrayValue(values=v))),
        max_leaves=5,
    )
    return st.lists(st.builds(lambda k, v: KeyValue(key=k, value=v), keys, value), max_size=6)


@given(attributes(), attributes(), st.text(max_size=12), st.booleans(), st.binary(max_size=17))
def test_any_span_is_stored_within_the_limits_and_a_second_screening_cuts_nothing(
    own: list[KeyValue], of_event: list[KeyValue], message: str, keep: bool, parent: bytes
) -> None:
    one = span(own, events=[Span.Event(name=message, attributes=of_event)], parent_span_id=parent)
    one.status.message = message
    rules: dict[str, Any] = {"store_content": keep, "max_attributes": 4, "max_attribute_value_bytes": 50}
    made, request = screened(request_of(one), **rules)
    assert made.spans + made.rejected == 1 and made.rejected == (len(parent) not in (0, 8))
    if "user.id" not in {attribute.key for attribute in own + of_event}:  # there an address is meant
        assert b"jane@example.com" not in made.body
    for kept in request.resource_spans[0].scope_spans[0].spans:
        assert len(kept.attributes) <= 10 and all(len(a.value.string_value.encode()) <= 50 for a in kept.attributes)
    if keep:
        assert screened(request, **rules)[0].body == made.body
