"""farthing/clients*.py: one span per call, headers to the proxy alone, and the usage of streams."""
from __future__ import annotations

import textwrap
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from farthing import semconv
from farthing.clients import CLIENTS
from farthing.clients_headers import origin_of

if TYPE_CHECKING:
    from tests.farthing.conftest import App, Capture, Provider

STREAM_MODULES = """
    import asyncio, json, openai, farthing, farthing.auto
    client, aclient = openai.OpenAI(max_retries=0), openai.AsyncOpenAI(max_retries=0)
    asked = dict(model="gpt", messages=[dict(role="user", content="Hi")], stream=True)
    def seen(chunks): return [[len(c.choices), c.usage is not None] for c in chunks]
"""
HIDDEN = [[1, False], [1, False], [1, False]]


def billed(span: object) -> tuple[object, object]:
    found: dict[str, object] = getattr(span, "attributes", {})
    return found.get(semconv.BILLED), found.get(semconv.UNBILLED_REASON)


# which instrumentor


def family(folder: Path, module: str, distribution: str) -> Path:
    """Lay out a stand-in for another family's instrumentor, registered under the entry point name `openai`."""
    package = folder.joinpath(*module.split("."))
    package.mkdir(parents=True)
    package.joinpath("__init__.py").write_text(
        textwrap.dedent(
            """
            import openai  # as the real ones do
            import wrapt
            from opentelemetry import trace
            from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

            class OpenAIInstrumentor(BaseInstrumentor):
                def instrumentation_dependencies(self):
                    return []

                def _instrument(self, **kwargs):
                    tracer = trace.get_tracer(__name__, tracer_provider=kwargs.get("tracer_provider"))
                    def traced(wrapped, instance, args, kwargs):
                        attributes = {"openinference.span.kind": "LLM", "llm.model_name": "gpt"}
                        with tracer.start_as_current_span("ChatCompletion", attributes=attributes):
                            return wrapped(*args, **kwargs)
                    wrapt.wrap_function_wrapper("openai.resources.chat.completions", "Completions.create", traced)

                def _uninstrument(self, **kwargs):
                    pass
            """
        )
    )
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    info.joinpath("entry_points.txt").write_text(
        f"[opentelemetry_instrumentor]\nopenai = {module}:OpenAIInstrumentor\n"
    )
    return folder


CALL = """
    import json, openai, farthing
    openai.OpenAI(max_retries=0).chat.completions.create(model="gpt", messages=[dict(role="user", content="Hi")])
    print(json.dumps(dict(farthing.status().instrumented)))
"""


def test_of_several_registered_families_the_official_one_is_switched_on_alone(
    app: App, collector: Capture, tmp_path: Path
) -> None:
    family(tmp_path, "openinference.instrumentation.openai", "openinference_instrumentation_openai")
    (instrumented,) = app.run(f"    import farthing.auto{CALL}", tmp_path)
    assert [span.scope for span in collector.spans] == ["opentelemetry.instrumentation.genai.openai"]
    assert instrumented["openai"] == "opentelemetry.instrumentation.genai.openai"


def test_a_family_that_the_application_switched_on_is_left_alone(
    app: App, collector: Capture, tmp_path: Path
) -> None:
    family(tmp_path, "openinference.instrumentation.openai", "openinference_instrumentation_openai")
    (instrumented,) = app.run(
        """
    import openai, openinference.instrumentation.openai as theirs
    theirs.OpenAIInstrumentor().instrument()
    import farthing.auto"""
        + CALL,
        tmp_path,
    )
    assert [span.name for span in collector.spans] == ["ChatCompletion"]
    assert instrumented["openai"] == "openinference.instrumentation.openai"


def test_a_family_that_the_application_switches_on_later_bills_nothing_twice(
    app: App, collector: Capture, tmp_path: Path
) -> None:
    family(tmp_path, "openinference.instrumentation.openai", "openinference_instrumentation_openai")
    app.run(
        """
    import farthing.auto, openinference.instrumentation.openai as theirs, openai
    theirs.OpenAIInstrumentor().instrument()"""
        + CALL,
        tmp_path,
    )
    inner, outer = collector.spans
    assert outer.name == "ChatCompletion"
    assert billed(outer) == (False, "nested")
    assert billed(inner) == (None, None)


def test_the_next_family_stands_in_for_one_that_is_broken(app: App, collector: Capture, tmp_path: Path) -> None:
    family(tmp_path, "openinference.instrumentation.openai", "openinference_instrumentation_openai")
    broken = """
    import sys, types
    class Broken:
        def __init__(self): raise ImportError("mismatched versions")
    sys.modules["opentelemetry.instrumentation.genai.openai"] = stub = types.ModuleType("stub")
    stub.OpenAIInstrumentor, stub.__spec__ = Broken, types.SimpleNamespace()
    import farthing.auto"""
    (instrumented,) = app.run(broken + CALL, tmp_path)
    assert [span.name for span in collector.spans] == ["ChatCompletion"]
    assert instrumented["openai"] == "openinference.instrumentation.openai"


def test_an_installed_library_without_an_instrumentor_is_reported_and_not_imported(app: App, tmp_path: Path) -> None:
    info = tmp_path / "langchain_core-1.0.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: langchain-core\nVersion: 1.0\n")
    (found,) = app.run(
        "import json, farthing.auto, farthing; print(json.dumps(dict(farthing.status().uninstrumented)))", tmp_path
    )
    assert found["langchain"] == "no instrumentor is installed"
    assert found["anthropic"] == "waits for the application to import it"
    assert "llama-index" not in found


def test_every_client_prefers_the_official_family_and_names_each_once() -> None:
    for client in CLIENTS:
        first, *_ = client.instrumentors
        assert first.startswith("opentelemetry.instrumentation.")
        assert "genai" in first
        assert len({*client.instrumentors, *client.others}) == len(client.instrumentors) + len(client.others)


def test_the_table_names_classes_that_exist_where_they_are_installed() -> None:
    registered = {point.value for point in metadata.entry_points(group="opentelemetry_instrumentor")}
    named = {path for client in CLIENTS for path in client.instrumentors}
    assert {"opentelemetry.instrumentation.genai.openai:OpenAIInstrumentor"} <= registered & named
    assert {"opentelemetry.instrumentation.genai.anthropic:AnthropicInstrumentor"} <= registered & named


# headers


HEADERS = ("traceparent", semconv.HEADER_TAGS)
TWO_CALLS = """
    import asyncio, openai, farthing, farthing.auto
    asked = dict(model="gpt", messages=[dict(role="user", content="Hi")])
    with farthing.tags(team="search", user="ann lee"):
        openai.OpenAI(max_retries=0).chat.completions.create(**asked)
        asyncio.run(openai.AsyncOpenAI(max_retries=0).chat.completions.create(**asked))
"""


def test_the_proxy_gets_the_spans_context_and_the_tags_and_the_span_is_not_billed(
    app: App, collector: Capture, provider: Provider
) -> None:
    app.run(TWO_CALLS, FARTHING_PROXY_URL=provider.url)
    for call, span in zip(provider.calls, collector.spans, strict=True):
        assert call.headers["traceparent"].split("-")[1:3] == [span.trace_id, span.span_id]
        assert call.headers[semconv.HEADER_TAGS] == "team=search,user=ann%20lee"
        assert billed(span) == (False, "proxy")
        assert span.attributes[semconv.USER] == "ann lee"


def test_nobody_else_gets_them_not_even_on_another_port_of_the_same_host(
    app: App, collector: Capture, provider: Provider, other: Provider
) -> None:
    app.run(TWO_CALLS, FARTHING_PROXY_URL=other.url)
    assert len(provider.calls) == 2
    assert not any(name in call.headers for call in provider.calls for name in HEADERS)
    assert [billed(span) for span in collector.spans] == [(None, None)] * 2


def test_a_redirect_away_from_the_proxy_takes_none_along(
    app: App, provider: Provider, other: Provider
) -> None:
    provider.redirects_to = other.url
    app.run(TWO_CALLS, FARTHING_PROXY_URL=provider.url)
    assert all(name in call.headers for call in provider.calls for name in HEADERS)
    assert len(other.calls) == 2
    assert not any(name in call.headers for call in other.calls for name in HEADERS)


def test_an_app_without_a_proxy_or_after_shutdown_sends_none(app: App, provider: Provider) -> None:
    app.run(f"    import farthing\n    farthing.configure(proxy_url=''){TWO_CALLS}", FARTHING_PROXY_URL=provider.url)
    stop = "    import openai, farthing, farthing.auto\n    farthing.shutdown()"
    app.run(stop + TWO_CALLS, FARTHING_PROXY_URL=provider.url)
    assert len(provider.calls) == 4
    assert not any(name in call.headers for call in provider.calls for name in HEADERS)


@pytest.mark.parametrize(
    ("one", "another", "same"),
    [
        ("http://localhost:7302", "http://127.0.0.1:7302/v1", True),
        ("https://proxy", "https://PROXY:443/v1", True),
        ("http://proxy", "https://proxy", False),
        ("http://proxy:1", "http://proxy:2", False),
        ("http://proxy", "http://proxy.evil", False),
    ],
)
def test_an_address_is_scheme_host_and_port(one: str, another: str, same: bool) -> None:
    assert (origin_of(one) == origin_of(another)) is same


# anthropic


ANTHROPIC = """
    import asyncio, anthropic, farthing, farthing.auto
    asked = dict(model="claude", max_tokens=9, messages=[dict(role="user", content="Hi")])
    with farthing.tags(team="search"):
        anthropic.Anthropic(max_retries=0).messages.create(**asked)
        asyncio.run(anthropic.AsyncAnthropic(max_retries=0).messages.create(**asked))
"""


def test_anthropics_own_spans_do_not_double_the_instrumentors(app: App, collector: Capture) -> None:
    app.run(ANTHROPIC)
    assert [span.scope for span in collector.spans] == ["opentelemetry.instrumentation.genai.anthropic"] * 2
    assert [span.attributes["gen_ai.usage.output_tokens"] for span in collector.spans] == [7, 7]
    assert {span.attributes[semconv.TEAM] for span in collector.spans} == {"search"}


def test_an_anthropic_answer_tells_what_its_price_depends_on_whole_and_streamed(app: App, collector: Capture) -> None:
    app.run("""
        import anthropic, farthing, farthing.auto
        asked = dict(model="claude", max_tokens=9, messages=[dict(role="user", content="Hi")])
        client = anthropic.Anthropic(max_retries=0)
        client.messages.create(**asked)
        for _ in client.messages.create(**asked, stream=True): pass
        with client.messages.stream(**asked) as stream: stream.get_final_message()
    """)
    told = (semconv.CACHE_WRITE_1H_TOKENS, semconv.SERVICE_TIER, "gen_ai.usage.cache_write.input_tokens")
    assert [[span.attributes.get(name) for name in told] for span in collector.spans] == [[200, "priority", 300]] * 3


def test_anthropic_gets_no_trace_context_from_us_and_the_proxy_does(app: App, provider: Provider) -> None:
    app.run(ANTHROPIC)
    assert not any(name in call.headers for call in provider.calls for name in HEADERS)
    app.run(ANTHROPIC, FARTHING_PROXY_URL=provider.url)
    assert all(name in call.headers for call in provider.calls[2:] for name in HEADERS)


def test_under_the_applications_own_provider_only_the_double_is_silenced(app: App, collector: Capture) -> None:
    app.run(
        """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    trace.set_tracer_provider(TracerProvider())"""
        + ANTHROPIC
        + "    anthropic.Anthropic(max_retries=0).messages.count_tokens(model='c', messages=[])\n"
    )
    scopes = [span.scope for span in collector.spans]
    assert scopes == ["opentelemetry.instrumentation.genai.anthropic"] * 2 + ["com.anthropic.sdk.python"]


# streams


def test_a_stream_reports_its_tokens_and_the_application_does_not_see_them(
    app: App, collector: Capture, provider: Provider
) -> None:
    lines = app.run(
        STREAM_MODULES
        + """
    print(json.dumps(seen(client.chat.completions.create(**asked))))
    with client.chat.completions.create(**asked) as stream:
        assert isinstance(stream, openai.Stream) and stream.response.status_code == 200
        print(json.dumps(seen(stream)))
    raw = client.chat.completions.with_raw_response.create(**asked)
    assert raw.headers["content-type"] == "text/event-stream"
    print(json.dumps(seen(raw.parse())))
    async def main():
        print(json.dumps(seen([c async for c in await aclient.chat.completions.create(**asked)])))
        async with await aclient.chat.completions.create(**asked) as stream:
            print(json.dumps(seen([c async for c in stream])))
        raw = await aclient.chat.completions.with_raw_response.create(**asked)
        print(json.dumps(seen([c async for c in raw.parse()])))
    asyncio.run(main())
    """
    )
    assert lines == [HIDDEN] * 6
    assert [call.body["stream_options"] for call in provider.calls] == [{"include_usage": True}] * 6
    assert [span.attributes.get("gen_ai.usage.output_tokens") for span in collector.spans] == [40] * 6


def test_the_stream_helper_works_and_reports_its_tokens(app: App, collector: Capture) -> None:
    assert app.run(
        STREAM_MODULES
        + """
    del asked["stream"]
    with client.chat.completions.stream(**asked) as stream:
        events = [event.type for event in stream]
        done = stream.get_final_completion()
    print(json.dumps([events[0], events[-1], done.choices[0].message.content, done.usage]))
    async def main():
        async with aclient.chat.completions.stream(**asked) as stream:
            done = await stream.get_final_completion()
        print(json.dumps([done.choices[0].message.content, done.usage]))
    asyncio.run(main())
    """
    ) == [["chunk", "content.done", "Hello", None], ["Hello", None]]
    assert [span.attributes.get("gen_ai.usage.output_tokens") for span in collector.spans] == [40] * 2


def test_an_application_that_asks_sees_the_usage_and_one_that_declines_is_obeyed(
    app: App, provider: Provider
) -> None:
    shown, declined, other_option = app.run(
        STREAM_MODULES
        + """
    for options in [dict(include_usage=True), dict(include_usage=False), dict(include_obfuscation=False)]:
        print(json.dumps(seen(client.chat.completions.create(**asked, stream_options=options))))
    """
    )
    assert shown == [*HIDDEN, [0, True]]
    assert declined == other_option == HIDDEN
    assert [call.body["stream_options"] for call in provider.calls] == [
        {"include_usage": True},
        {"include_usage": False},
        {"include_obfuscation": False, "include_usage": True},
    ]


def test_a_server_that_refuses_stream_options_is_asked_once_and_then_left_in_peace(
    app: App, provider: Provider
) -> None:
    provider.refuses_stream_options = True
    lines = app.run(
        STREAM_MODULES
        + """
    for _ in range(2):
        print(json.dumps(seen(client.chat.completions.create(**asked))))
    async def main():
        print(json.dumps(seen([c async for c in await aclient.chat.completions.create(**asked)])))
    asyncio.run(main())
    """
    )
    assert lines == [HIDDEN] * 3
    assert ["stream_options" in call.body for call in provider.calls] == [True, False, False, False]


def test_other_errors_reach_the_application_as_they_are(app: App, dead_url: str) -> None:
    (name,) = app.run(
        STREAM_MODULES
        + """
    try:
        client.chat.completions.create(**asked)
    except openai.APIConnectionError as error:
        print(json.dumps(type(error).__name__))
    """,
        OPENAI_BASE_URL=dead_url,
    )
    assert name == "APIConnectionError"


def test_asking_can_be_switched_off(app: App, provider: Provider) -> None:
    stream = STREAM_MODULES + "    print(json.dumps(seen(client.chat.completions.create(**asked))))"
    assert app.run(stream, FARTHING_ASK_USAGE="0") == [HIDDEN]
    assert "stream_options" not in provider.calls[0].body


def test_a_stream_that_is_closed_early_ends_its_span(app: App, collector: Capture) -> None:
    app.run(
        STREAM_MODULES
        + """
    stream = client.chat.completions.create(**asked)
    next(stream)
    stream.close()
    """
    )
    assert [span.name for span in collector.spans] == ["chat gpt"]
