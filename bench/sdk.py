"""What `import farthing.auto` costs an application: CPU time per call, above the official instrumentor alone.

Each variant runs in processes of its own against an in-process HTTP transport, so that nothing but client library,
instrumentation and export is measured; both instrumented ones send real OTLP to a sink in another process. CPU time
counts the export thread too. Figures are the lowest of all repeats: other work on the machine only ever adds.
"""
from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from verdict import conclude

VARIANTS = ("none", "genai-openai", "farthing")
LIMITS = {"glue_us_per_call": ("<=", 60.0), "glue_us_per_chunk": ("<=", 3.0), "put_us": ("<=", 30.0)}
CHUNKS = 100
USAGE = {"prompt_tokens": 120, "completion_tokens": 40, "total_tokens": 160}
BASE = {"id": "c", "created": 1790000000, "model": "gpt-5-mini-2026-01-01"}
ASKED: dict[str, Any] = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "word " * 200}]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=VARIANTS, help="measure one variant here and print its figures")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--sink", default="")
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measured(options.variant, options.sink)))
        return 0
    return report(options.rounds)


def report(rounds: int) -> int:
    sink = sink_url()
    runs = [(variant, run_variant(variant, sink)) for _ in range(rounds) for variant in VARIANTS]
    lowest = {
        variant: {name: min(run[name] for v, run in runs if v == variant) for name in runs[0][1]}
        for variant in VARIANTS
    }
    none, genai, ours = (lowest[variant] for variant in VARIANTS)
    figures = {
        "call_us": {variant: round(lowest[variant]["call_us"], 1) for variant in VARIANTS},
        "stream_us": {variant: round(lowest[variant]["stream_us"], 1) for variant in VARIANTS},
        "call_ratio_to_none": round(ours["call_us"] / none["call_us"], 3),
        "call_ratio_to_genai": round(ours["call_us"] / genai["call_us"], 3),
        "stream_ratio_to_genai": round(ours["stream_us"] / genai["stream_us"], 3),
        "glue_us_per_call": round(ours["call_us"] - genai["call_us"], 1),
        "glue_us_per_call_on_the_applications_thread": round(ours["call_thread_us"] - genai["call_thread_us"], 1),
        "glue_us_per_chunk": round((ours["stream_us"] - genai["stream_us"]) / CHUNKS, 2),
        "put_us": round(ours["put_us"], 2),
    }
    for name, value in figures.items():
        print(f"{name}: {value}" + (f" (limit {LIMITS[name][1]})" if name in LIMITS else ""))
    return conclude("sdk", figures, LIMITS)


def run_variant(variant: str, sink: str) -> dict[str, float]:
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, __file__, "--variant", variant, "--sink", sink],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    if done.returncode:
        raise SystemExit(f"variant {variant} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def sink_url() -> str:
    """Start a process that answers 200 to every OTLP request, and return its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        listener.listen(16)
        if os.fork() == 0:
            serve_sink(listener, os.getppid())
    return f"http://127.0.0.1:{port}"


def serve_sink(listener: socket.socket, parent: int) -> None:
    threading.Thread(target=accept_all, args=(listener,), daemon=True).start()
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(0)


def accept_all(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer_all, args=(connection,), daemon=True).start()


def answer_all(connection: socket.socket) -> None:
    reader = connection.makefile("rb")
    while head := reader.readline():
        length = 0
        while (head := reader.readline().strip().lower()) != b"":
            if head.startswith(b"content-length:"):
                length = int(head.split(b":")[1])
        reader.read(length)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


def measured(variant: str, sink: str) -> dict[str, float]:
    """Return the lowest CPU time, in microseconds, of a call, of a stream and of queueing one span."""
    import openai

    http = transport()
    client = openai.OpenAI(api_key="k", base_url="http://mock/v1", max_retries=0, http_client=http)
    flush, tagged = {"none": plain, "genai-openai": genai, "farthing": farthing_sdk}[variant](sink)
    # farthing asks for the usage itself; the others must ask, so that all three read the same chunks
    usage: dict[str, Any] = {} if variant == "farthing" else {"stream_options": {"include_usage": True}}

    def call() -> None:
        client.chat.completions.create(**ASKED)

    def stream() -> None:
        for _ in client.chat.completions.create(**ASKED, stream=True, **usage):
            pass

    with tagged:
        call_us, thread_us = lowest_us(call, flush, number=100, repeats=6)
        stream_us, _ = lowest_us(stream, flush, number=15, repeats=6)
    put_us = queued_us() if variant == "farthing" else 0.0
    return {"call_us": call_us, "call_thread_us": thread_us, "stream_us": stream_us, "put_us": put_us}


def lowest_us(act: Callable[[], None], flush: Callable[[], object], number: int, repeats: int) -> tuple[float, float]:
    """Return the lowest CPU time of one `act`: of the whole process with its export, and of this thread."""
    for _ in range(20):
        act()
    flush()
    process: list[float] = []
    thread: list[float] = []
    for _ in range(repeats):
        gc.collect()
        cpu, own = time.process_time(), time.thread_time()
        for _ in range(number):
            act()
        thread.append(time.thread_time() - own)
        flush()
        process.append(time.process_time() - cpu)
    return min(process) / number * 1e6, min(thread) / number * 1e6


def transport() -> Any:
    """Return an HTTP client whose answers are made in this process."""
    import httpx2

    plain_answer = json.dumps(
        {
            **BASE,
            "object": "chat.completion",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "hello " * 40}, "finish_reason": "stop"}
            ],
            "usage": USAGE,
        }
    ).encode()
    stream_answer = sse_stream()

    def answer(request: httpx2.Request) -> httpx2.Response:
        if b'"stream":true' in request.content.replace(b" ", b""):
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream_answer)
        return httpx2.Response(200, headers={"content-type": "application/json"}, content=plain_answer)

    return httpx2.Client(transport=httpx2.MockTransport(answer))


def sse_stream() -> bytes:
    chunk = {**BASE, "object": "chat.completion.chunk"}
    word = {**chunk, "choices": [{"index": 0, "delta": {"content": "hello "}, "finish_reason": None}]}
    last = {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    events = [word] * (CHUNKS - 1) + [last, {**chunk, "choices": [], "usage": USAGE}]
    return b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in events) + b"data: [DONE]\n\n"


def plain(_sink: str) -> tuple[Callable[[], object], Any]:
    from contextlib import nullcontext

    return bool, nullcontext()


def genai(sink: str) -> tuple[Callable[[], object], Any]:
    """The official instrumentor with the official exporter, and nothing of ours."""
    from contextlib import nullcontext

    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    exporter = OTLPSpanExporter(f"{sink}/v1/traces", compression=Compression.Gzip)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    OpenAIInstrumentor().instrument(tracer_provider=provider)
    return provider.force_flush, nullcontext()


def farthing_sdk(sink: str) -> tuple[Callable[[], object], Any]:
    """All that Farthing adds at once: tags, headers to the proxy, asking for usage, its own queue and export."""
    import farthing

    farthing.configure(collector_url=sink, proxy_url="http://mock")
    return farthing.flush, farthing.tags(team="search", user="ann", feature="answers")


def queued_us() -> float:
    """Return the CPU time of putting one span into the queue of a running SDK."""
    from opentelemetry.sdk.trace import TracerProvider

    from farthing.tracing_post import Collector
    from farthing.tracing_queue import SpanQueue

    span = TracerProvider().get_tracer("bench").start_span("work")
    queue = SpanQueue(Collector("http://127.0.0.1:9"), max_spans=10**6, gather_s=3600)
    started = time.thread_time()
    for _ in range(500):
        queue.put(span)  # pyright: ignore[reportArgumentType] - an SDK span, typed as the API's
    return (time.thread_time() - started) / 500 * 1e6


if __name__ == "__main__":
    sys.exit(main())
