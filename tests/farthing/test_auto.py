"""farthing/auto.py: what one import does to an application, and what it must never do to it."""
from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import farthing
from farthing.tracing_queue import GIVE_UP_S

if TYPE_CHECKING:
    from tests.farthing.conftest import App, Capture, Provider

CALL = """
messages = [{"role": "user", "content": "Hi"}]
answer = openai.OpenAI(max_retries=0).chat.completions.create(model="gpt", messages=messages)
assert answer.choices[0].message.content == "Hello"
"""


@pytest.mark.parametrize("imports", ["import farthing.auto, openai", "import openai, farthing.auto"])
def test_one_import_exports_one_span_per_call_with_its_tokens(app: App, collector: Capture, imports: str) -> None:
    app.run(f"{imports}{CALL}", FARTHING_SERVICE="shop")
    (span,) = collector.spans
    assert (span.name, span.scope) == ("chat gpt", "opentelemetry.instrumentation.genai.openai")
    assert span.service == "shop"
    assert span.attributes["gen_ai.usage.input_tokens"] == 120
    assert span.attributes["gen_ai.usage.output_tokens"] == 40
    assert span.attributes["gen_ai.usage.cache_read.input_tokens"] == 64


def test_importing_farthing_loads_nothing_heavy_and_auto_no_client_library(app: App) -> None:
    light, auto = app.run(
        """
        import json, sys
        def loaded(names): return sorted(set(names) & set(sys.modules))
        heavy = ["torch", "dash", "clickhouse_connect", "chdb", "apscheduler", "sqlalchemy", "openai", "anthropic"]
        import farthing
        print(json.dumps(loaded([*heavy, "opentelemetry.sdk", "pydantic", "wrapt"])))
        import farthing.auto
        print(json.dumps(loaded(heavy)))
        """
    )
    assert light == []
    assert auto == []


def test_the_public_names_are_these() -> None:
    assert farthing.__all__ == [
        "__version__", "cached_component", "cached_tool", "configure", "flush", "grade", "shutdown", "status", "tags",
    ]  # fmt: skip
    assert all(getattr(farthing, name) for name in farthing.__all__)
    with pytest.raises(AttributeError, match="no attribute 'spans'"):
        _ = farthing.spans  # pyright: ignore[reportAttributeAccessIssue] - not there on purpose


def test_a_broken_environment_costs_a_warning_and_not_the_application(app: App) -> None:
    done = app.run_raw(f"import farthing.auto, openai{CALL}", OTEL_PYTHON_TRACER_PROVIDER="no_such_provider")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("farthing: this process is not instrumented") == 1


def test_a_disabled_sdk_touches_nothing(app: App, collector: Capture) -> None:
    app.run(f"import farthing.auto, openai{CALL}", FARTHING_DISABLED="1")
    assert collector.headers == []


def test_a_dead_collector_costs_the_spans_and_not_the_application(app: App, dead_url: str) -> None:
    (counts,) = app.run(
        """
        import json, farthing.auto, openai, farthing
        client = openai.OpenAI(max_retries=0)
        for _ in range(3):
            client.chat.completions.create(model="gpt", messages=[dict(role="user", content="Hi")])
        assert not farthing.flush(0.1)
        farthing.shutdown(0.5)
        status = farthing.status()
        print(json.dumps([status.exported, status.dropped_gave_up, status.waiting, status.last_error]))
        """,
        FARTHING_COLLECTOR_URL=dead_url,
    )
    assert counts[:3] == [0, 3, 0]
    assert "refused" in counts[3]


def test_the_end_of_the_process_does_not_wait_for_a_collector_that_hangs(app: App, collector: Capture) -> None:
    collector.hangs.set()
    (ended,) = app.run(f"import time, farthing.auto, openai{CALL}print(time.time())")
    assert time.time() - ended < GIVE_UP_S / 2  # as long as that a batch is tried for while the process lives


def test_memory_stays_bounded_while_the_collector_hangs(app: App, collector: Capture) -> None:
    collector.hangs.set()
    ((waiting, dropped, grown),) = app.run(
        """
        import json, os, resource, farthing.auto, farthing
        from opentelemetry import trace
        farthing.configure(queue_spans=1000)
        tracer = trace.get_tracer("test")
        def spans(number):
            for _ in range(number):
                tracer.start_span("work", attributes={"text": "x" * 1000}).end()
        spans(5000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        spans(50000)
        status = farthing.status()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(json.dumps([status.waiting, status.dropped_queue_full, grown]))
        """
    )
    assert waiting <= 1000 + 512
    assert waiting + dropped == 55000
    assert grown < 10_000  # KiB; the 50,000 dropped spans held over 50,000 KiB of text


def test_a_provider_that_the_application_has_set_is_kept(app: App, collector: Capture) -> None:
    ((same, own),) = app.run(OWN_PROVIDER.format(before="", after="import farthing.auto"))
    assert same
    assert own == ["chat gpt", "work"]
    assert sorted(span.name for span in collector.spans) == ["chat gpt", "work"]
    assert {span.service for span in collector.spans} == {"own"}


def test_a_provider_that_the_application_sets_later_takes_over_with_the_model_spans(
    app: App, collector: Capture
) -> None:
    ((same, own),) = app.run(OWN_PROVIDER.format(before="import farthing.auto, openai", after=""))
    assert same
    assert own == ["chat gpt", "work"]
    assert sorted(span.name for span in collector.spans) == ["chat gpt", "work"]
    assert len({span.trace_id for span in collector.spans}) == 1


OWN_PROVIDER = """
    import json
    {before}
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    theirs, kept = TracerProvider(resource=Resource.create({{"service.name": "own"}})), InMemorySpanExporter()
    trace.set_tracer_provider(theirs)
    theirs.add_span_processor(SimpleSpanProcessor(kept))
    {after}
    import openai
    with trace.get_tracer("app").start_as_current_span("work"):
        messages = [dict(role="user", content="Hi")]
        openai.OpenAI(max_retries=0).chat.completions.create(model="gpt", messages=messages)
    print(json.dumps([trace.get_tracer_provider() is theirs, [span.name for span in kept.get_finished_spans()]]))
"""


def test_configuring_again_moves_the_export_and_instruments_nothing_twice(
    app: App, collector: Capture, other: Provider
) -> None:
    app.run(
        f"""
        import farthing, openai
        farthing.configure(collector_url={other.url!r}, service="old")
        farthing.configure(collector_url={collector.url!r}, service="new", ingest_key="key-1")
        messages = [dict(role="user", content="Hi")]
        openai.OpenAI(max_retries=0).chat.completions.create(model="gpt", messages=messages)
        """
    )
    (span,) = collector.spans
    assert span.service == "new"
    assert collector.headers[0]["x-farthing-key"] == "key-1"
    assert other.calls == []


def test_shutdown_ends_it_and_configure_starts_it_again(app: App, collector: Capture) -> None:
    ((stopped, started),) = app.run(
        """
        import json, farthing, farthing.auto, openai
        def call():
            messages = [dict(role="user", content="Hi")]
            openai.OpenAI(max_retries=0).chat.completions.create(model="gpt", messages=messages)
        call()
        assert farthing.shutdown()
        stopped = farthing.status().is_active
        call()
        farthing.configure()
        call()
        print(json.dumps([stopped, farthing.status().is_active]))
        """
    )
    assert (stopped, started) == (False, True)
    assert len(collector.spans) == 2


def test_a_forked_child_exports_its_own_spans_and_not_its_parents(app: App, collector: Capture) -> None:
    app.run(
        """
        import os, farthing.auto, farthing
        from opentelemetry import trace
        tracer = trace.get_tracer("test")
        tracer.start_span("first of the parent").end()
        assert farthing.flush()
        tracer.start_span("parent").end()
        child = os.fork()
        if child == 0:
            tracer.start_span("child").end()
            os._exit(0 if farthing.flush() and farthing.status().exported == 1 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert farthing.flush() and farthing.status().exported == 2
        """
    )
    assert sorted(span.name for span in collector.spans) == ["child", "first of the parent", "parent"]


def test_an_abandoned_stream_that_the_garbage_collector_ends_does_not_block(app: App, collector: Capture) -> None:
    app.run(
        """
        import gc, openai, farthing.auto
        client = openai.OpenAI(max_retries=0)
        gc.set_threshold(5)
        for _ in range(5):
            messages = [dict(role="user", content="Hi")]
            stream = client.chat.completions.create(model="gpt", messages=messages, stream=True)
            ring = [stream]
            ring.append(ring)
            next(stream)
            del stream, ring
        gc.collect()
        """
    )
    assert len(collector.spans) == 5


def test_the_example_differs_from_a_plain_application_by_one_import(app: App, collector: Capture) -> None:
    example = Path(farthing.__file__).parents[1] / "examples" / "one_import.py"
    lines = example.read_text("utf-8").splitlines()
    assert [line for line in lines if "farthing" in line and line.startswith(("import", "from"))] == [
        "import farthing.auto  # noqa: F401 - the only change"
    ]
    app.run_raw(f"import runpy; runpy.run_path({str(example)!r}, run_name='__main__')").check_returncode()
    assert [span.name for span in collector.spans] == ["chat gpt-5-mini"]
