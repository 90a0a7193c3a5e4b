"""farthing/tracing*.py: what reaches the collector, what is dropped and counted, and which span is billed."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, TracerProvider

import farthing
from farthing import semconv
from farthing.errors import SettingsError
from farthing.tracing_post import Answer, Collector
from farthing.tracing_provider import Recorder
from farthing.tracing_queue import Counts, SpanQueue

if TYPE_CHECKING:
    from tests.farthing.conftest import Capture

Until = Callable[[Callable[[], bool]], None]


@pytest.fixture
def queue(collector: Capture) -> Iterator[SpanQueue]:
    """A queue whose spans gather until they are flushed, so that a few of them are one batch."""
    made = SpanQueue(Collector(collector.url), gather_s=3600)
    yield made
    made.close(0)
    made.exporter.close()


def provider_of(queue: SpanQueue, service: str = "shop") -> TracerProvider:
    made = TracerProvider(resource=Resource({"service.name": service}), shutdown_on_exit=False)
    made.add_span_processor(Recorder(queue, exit_s=0.1))
    return made


def end_spans(queue: SpanQueue, number: int) -> None:
    tracer = provider_of(queue).get_tracer("test")
    for i in range(number):
        tracer.start_span(f"work {i}").end()


class Stuck:
    """An exporter whose posts never come back."""

    def encode(self, spans: Sequence[ReadableSpan]) -> bytes:
        return b""

    def post(self, body: bytes, timeout_s: float) -> Answer:
        time.sleep(3600)
        raise AssertionError

    def close(self) -> None:
        pass


def test_ended_spans_arrive_once_and_in_order(queue: SpanQueue, collector: Capture) -> None:
    end_spans(queue, 1300)
    assert queue.flush(60)
    assert [span.name for span in collector.spans] == [f"work {i}" for i in range(1300)]
    assert queue.counts() == Counts(exported=1300)
    assert max(collector.batches) <= 512
    assert collector.headers[0][":path"] == "/v1/traces"


def test_a_batch_holds_512_spans_at_most(queue: SpanQueue, collector: Capture) -> None:
    collector.hangs.set()  # the first batch is on its way while all others come
    end_spans(queue, 1300)
    collector.hangs.clear()
    assert queue.flush(60)
    assert max(collector.batches) == 512


def test_spans_leave_by_themselves_after_the_gathering_time(collector: Capture, until: Until) -> None:
    queue = SpanQueue(Collector(collector.url), gather_s=0.01)
    for number in (1, 2, 3):
        end_spans(queue, 1)
        until(lambda number=number: len(collector.spans) == number)
    queue.close(0)
    queue.exporter.close()


def test_a_full_queue_drops_the_newest_and_counts_them() -> None:
    queue = SpanQueue(Stuck(), max_spans=100)
    end_spans(queue, 1000)
    assert queue.counts().dropped_queue_full >= 1000 - 100 - 512
    assert queue.waiting() <= 100 + 512
    assert queue.waiting() + queue.counts().dropped_queue_full == 1000


def test_a_hanging_collector_holds_up_neither_put_nor_close() -> None:
    queue = SpanQueue(Stuck(), gather_s=0.01)
    started = time.monotonic()
    end_spans(queue, 600)
    assert queue.flush(0.1) is False
    assert queue.close(0.1) is False
    assert time.monotonic() - started < 60  # the post itself sleeps for an hour
    assert queue.counts().dropped_gave_up == 600
    assert queue.waiting() == 0


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_collector_is_asked_again(queue: SpanQueue, collector: Capture, status: int) -> None:
    collector.refuse(status, status)
    end_spans(queue, 3)
    assert queue.flush(60)
    assert [span.name for span in collector.spans] == ["work 0", "work 1", "work 2"]
    assert len(collector.headers) == 3


def test_retry_after_is_waited_for(queue: SpanQueue, collector: Capture) -> None:
    collector.refuse(503, retry_after="1")
    started = time.monotonic()
    end_spans(queue, 1)
    assert queue.flush(60)
    assert time.monotonic() - started >= 1


def test_a_refused_batch_is_dropped_counted_and_not_repeated(queue: SpanQueue, collector: Capture) -> None:
    collector.refuse(400)
    end_spans(queue, 3)
    assert queue.flush(60) is False
    assert queue.counts() == Counts(dropped_rejected=3, last_error="HTTP 400 no")
    assert len(collector.headers) == 1


def test_spans_that_an_accepted_batch_lost_are_counted(queue: SpanQueue, collector: Capture) -> None:
    collector.rejects_spans = 2
    end_spans(queue, 5)
    assert queue.flush(60) is False
    assert queue.counts() == Counts(exported=3, dropped_rejected=2)


def test_spans_are_kept_while_the_collector_is_away(dead_url: str, until: Until) -> None:
    queue = SpanQueue(Collector(dead_url), gather_s=0.01, give_up_s=3600)
    end_spans(queue, 3)
    until(lambda: "Connection" in queue.counts().last_error)
    assert queue.waiting() == 3
    queue.close(0)


def test_spans_are_given_up_after_a_time_without_a_collector(dead_url: str, until: Until) -> None:
    queue = SpanQueue(Collector(dead_url), gather_s=0.01, give_up_s=0.3)
    end_spans(queue, 3)
    until(lambda: queue.counts().dropped_gave_up == 3)
    assert queue.waiting() == 0
    queue.close(0)


def test_the_end_does_not_wait_where_nobody_listens(dead_url: str) -> None:
    queue = SpanQueue(Collector(dead_url), give_up_s=3600)
    end_spans(queue, 3)
    started = time.monotonic()
    assert queue.close(3600) is False
    assert time.monotonic() - started < 60
    assert queue.counts().dropped_gave_up == 3


def test_a_batch_that_failed_goes_to_the_collector_named_meanwhile(
    dead_url: str, collector: Capture, until: Until
) -> None:
    queue = SpanQueue(Collector(dead_url), gather_s=0.01)
    end_spans(queue, 3)
    until(lambda: bool(queue.counts().last_error))
    queue.exporter = Collector(collector.url)
    assert queue.flush(60)
    assert len(collector.spans) == 3
    queue.close(0)
    queue.exporter.close()


def test_a_closed_queue_counts_what_comes_and_can_be_opened_again(queue: SpanQueue, collector: Capture) -> None:
    assert queue.close(60)
    end_spans(queue, 2)
    assert queue.counts() == Counts(dropped_gave_up=2)
    queue.open()
    end_spans(queue, 1)
    assert queue.flush(60)
    assert len(collector.spans) == 1


def test_a_kept_connection_that_the_collector_closed_is_opened_anew(collector: Capture) -> None:
    exporter = Collector(collector.url)
    body = exporter.encode([])
    assert exporter.post(body, 60).is_accepted
    kept = exporter._connection  # pyright: ignore[reportPrivateUsage] - the point of the test
    assert kept is not None and kept.sock is not None
    kept.sock.shutdown(2)
    assert exporter.post(body, 60).is_accepted
    exporter.close()


def test_the_ingest_key_and_a_path_of_the_url_are_sent(collector: Capture) -> None:
    exporter = Collector(f"{collector.url}/tenant/", ingest_key="k-1")
    assert exporter.post(exporter.encode([]), 60).is_accepted
    exporter.close()
    assert collector.headers[0][":path"] == "/tenant/v1/traces"
    assert collector.headers[0][semconv.HEADER_TENANT_KEY] == "k-1"


@pytest.mark.parametrize(
    ("own", "arrives"), [("unknown_service", "named"), ("old-name", "named"), ("the-apps-own", "the-apps-own")]
)
def test_a_service_without_a_name_gets_the_configured_one(collector: Capture, own: str, arrives: str) -> None:
    queue = SpanQueue(Collector(collector.url, service="named", renamed=frozenset({"old-name"})))
    provider_of(queue, own).get_tracer("test").start_span("work").end()
    assert queue.flush(60)
    queue.close(0)
    queue.exporter.close()
    assert collector.spans[0].service == arrives


def test_the_outer_of_two_nested_inference_spans_is_not_billed(queue: SpanQueue) -> None:
    provider = provider_of(queue)
    framework, client = provider.get_tracer("framework"), provider.get_tracer("client")
    with (
        framework.start_as_current_span("agent", attributes={semconv.OPERATION_NAME: "invoke_agent"}) as agent,
        framework.start_as_current_span("chat m", attributes={semconv.OPERATION_NAME: "chat"}) as outer,
        client.start_as_current_span("POST"),
        client.start_as_current_span("chat m", attributes={semconv.OPERATION_NAME: "chat"}) as inner,
    ):
        pass
    assert attributes(outer)[semconv.BILLED] is False
    assert attributes(outer)[semconv.UNBILLED_REASON] == "nested"
    assert semconv.BILLED not in attributes(inner)
    assert semconv.BILLED not in attributes(agent)


@pytest.mark.parametrize(
    "inner",
    [{semconv.OPERATION_NAME: "embeddings"}, {semconv.OPERATION_NAME: "execute_tool"}, {}],
)
def test_another_kind_of_work_inside_a_model_call_takes_no_money_off_it(
    queue: SpanQueue, inner: dict[str, str]
) -> None:
    tracer = provider_of(queue).get_tracer("test")
    with (
        tracer.start_as_current_span("chat m", attributes={semconv.OPERATION_NAME: "chat"}) as outer,
        tracer.start_as_current_span("inside", attributes=inner),
    ):
        pass
    assert semconv.BILLED not in attributes(outer)


def test_other_dialects_count_as_inference_too(queue: SpanQueue) -> None:
    tracer = provider_of(queue).get_tracer("test")
    with (
        tracer.start_as_current_span("outer", attributes={"openinference.span.kind": "LLM"}) as outer,
        tracer.start_as_current_span("inner", attributes={"llm.request.type": "chat"}),
    ):
        pass
    assert attributes(outer)[semconv.UNBILLED_REASON] == "nested"


def attributes(span: object) -> dict[str, object]:
    assert isinstance(span, Span)
    return dict(span.attributes or {})


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ({"collector_url": "localhost:4318"}, "localhost:4318"),
        ({"collector_url": ""}, "collector_url=''"),
        ({"proxy_url": "ftp://proxy"}, "ftp://proxy"),
        ({"proxy_url": "http://proxy:port"}, "http://proxy:port"),
        ({"service": 3}, "service=3"),
        ({"queue_spans": 0}, "queue_spans=0"),
        ({"colector_url": "http://c"}, "unknown argument colector_url='http://c'; known: collector_url"),
    ],
)
def test_configure_refuses_what_it_cannot_use_and_names_it(argument: dict[str, object], named: str) -> None:
    before = farthing.status()
    with pytest.raises(SettingsError) as refusal:
        farthing.configure(**argument)  # pyright: ignore[reportArgumentType] - wrong on purpose
    assert named in str(refusal.value)
    assert "allowed" in str(refusal.value) or "known" in str(refusal.value)
    assert farthing.status() == before


def test_status_of_a_process_that_is_not_instrumented() -> None:
    found = farthing.status()
    assert not found.is_active
    assert found.instrumented == {}
    with pytest.raises(AttributeError):
        found.exported = 1  # pyright: ignore[reportAttributeAccessIssue] - frozen
