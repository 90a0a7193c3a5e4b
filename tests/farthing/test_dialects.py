"""farthing/warehouse/dialects.py: spans of real emitters land as one truth, or are known to be no call.

The fixtures were captured from the packages named in tests/fixtures/otlp/README.md. The servers that these called
report of every call 120 tokens in, of which 64 were read from the cache and, with Anthropic and Bedrock, 36 written to
it, and 40 out, with Gemini and OpenAI 16 of them reasoning; of an embedding 7 in.
"""
from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from collector.receive import measured
from collector.screen import Screen
from farthing import otlp, semconv
from farthing.prices import PriceBook
from farthing.settings import PriceOverride, Settings
from farthing.warehouse import Warehouse, segment

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "otlp"
AT = 1_795_000_000_000_000_000  # 2026-11-18
SDK = "com.anthropic.sdk.python"  # Anthropic's own client describes each of its calls too

# uncached, read, written, out, reasoning
CLAUDE = (20, 64, 36, 40, None)
GEMINI = (56, 64, 0, 40, 16)
GPT = (56, 64, 0, 40, 16)
EMBEDDED = (7, 0, 0, None, None)
NOTHING = (None, None, None, None, None)
OK = ("provider", "priced", "ok", "")
GUESSED = ("estimate", "priced", "ok", "")
SILENT = ("missing", "no_usage", "ok", "")
LIMITED = ("missing", "no_usage", "error", "429")
FAILED = ("missing", "no_usage", "error")
LEFT = ("estimate", "priced", "aborted", "")  # the caller went away, and what was reported by then is not all

Rows = Sequence[tuple[object, ...]]


@pytest.fixture
def tenant() -> str:
    return f"tenant-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def put(warehouse: Warehouse, tenant: str, tmp_path: Path) -> Callable[[Iterable[bytes]], None]:
    """Store OTLP bodies as the collector does, screened."""

    def store(bodies: Iterable[bytes]) -> None:
        screen = Screen(Settings(), b"k" * 32)
        path = tmp_path / f"{uuid.uuid4().hex}.otlp"
        kept = [screen(called, measured(called, 10_000), tenant).body for called in map(_at_the_provider, bodies)]
        path.write_bytes(b"".join(segment.frame(tenant, one, AT // 10**6, b"d" * 16) for one in kept))
        book = PriceBook()
        warehouse.put_prices([price for pair in warehouse.unseen_models(path) for price in book.every(*pair)])
        warehouse.insert_otlp(path, path.stem)

    return store


def _at_the_provider(body: bytes) -> bytes:
    """Return a body as it would be of calls to the provider itself: the captured ones went to a server of ours."""
    request = ExportTraceServiceRequest.FromString(body)
    for resource in request.resource_spans:
        for one in (one for scope in resource.scope_spans for one in scope.spans):
            kept = [pair for pair in one.attributes if pair.key not in semconv.ALIASES["server_address"]]
            del one.attributes[:]
            one.attributes.extend(kept)
    return request.SerializeToString()


def span(*values: tuple[str, otlp.Value]) -> bytes:
    return call(0, *values)


def call(number: int, *values: tuple[str, otlp.Value], error: str = "") -> bytes:
    """Encode a span; they are read back by number."""
    ids = uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b""
    started = AT + number * 10**9
    return otlp.span(*ids, "call", (started, started + 10**9), otlp.attributes(values), error=error)


def body(*spans: bytes, scope: str = "somebody") -> bytes:
    return otlp.traces([("service.name", "shop")], scope, "1", spans)


def rows(warehouse: Warehouse, tenant: str, names: str, where: str = "1") -> Rows:
    query = f"SELECT {names} FROM requests WHERE tenant = '{tenant}' AND {where} ORDER BY started_at"
    return [tuple(row) for row in warehouse._client().query(query).result_rows]


WRITTEN = "cache_write_tokens + cache_write_1h_tokens"
COUNTS = f"input_uncached, cache_read_tokens, {WRITTEN}, output_tokens, reasoning_tokens"
STATES = "usage_source, price_state, outcome, error_type"

TRUTH: dict[str, tuple[str, Rows]] = {
    # chat, tools, two kinds of stream, an abandoned stream, a rate limit
    "anthropic-official": (
        "anthropic", [(*CLAUDE, *OK)] * 4 + [(20, 64, 36, 1, None, *LEFT), (*NOTHING, *LIMITED)],
    ),
    "anthropic-openinference": (
        "anthropic", [(*CLAUDE, *OK)] * 4 + [(20, 64, 36, 1, None, *LEFT), (*NOTHING, *LIMITED)],
    ),
    # adds what a stream's first event says was put out to what its last one says, and drops abandoned streams
    "anthropic-openllmetry": (
        "anthropic", [(*CLAUDE, *OK)] * 2 + [(20, 64, 36, 41, None, *OK)] * 2 + [(*NOTHING, *LIMITED)],
    ),
    # takes a stream's cache counts from its last event, which held none; drops abandoned streams and failed calls
    "anthropic-openlit": ("anthropic", [(*CLAUDE, *OK)] * 2 + [(20, 0, 0, 40, None, *OK)] * 2),
    # chat, tools, stream, abandoned stream, embeddings, rate limit
    "gemini-official": (
        "gcp.gemini",
        [(*GEMINI, *OK)] * 3 + [(56, 64, 0, 4, None, *LEFT), (*NOTHING, *SILENT), (*NOTHING, *LIMITED)],
    ),
    "gemini-openinference": (
        "gcp.gen_ai",
        [(*GEMINI, *OK)] * 3
        + [(56, 64, 0, 4, None, *LEFT), (*NOTHING, *SILENT), (*NOTHING, *FAILED, "ClientError")],
    ),
    "gemini-openllmetry": ("gcp.gen_ai", [(*GEMINI, *OK)] * 3 + [(*NOTHING, *FAILED, "ClientError")]),
    "gemini-openlit": ("gcp.gemini", [(*GEMINI, *OK)] * 3),
    # Converse: chat, tools, stream; InvokeModel: Claude, Claude as a stream, Nova, an embedding; a rate limit
    "bedrock-official": (
        "aws.bedrock",
        [(*CLAUDE, *OK)] * 5 + [(20, 0, 0, 40, None, *OK), (*EMBEDDED, *OK), (*NOTHING, *LIMITED)],
    ),
    # these two do not say what InvokeModel read from the cache
    "bedrock-botocore": (
        "aws.bedrock",
        [(*CLAUDE, *OK)] * 3 + [(20, 0, 0, 40, None, *OK)] * 3 + [(*EMBEDDED, *OK), (*NOTHING, *LIMITED)],
    ),
    "bedrock-openllmetry": (
        "aws.bedrock",
        [(*CLAUDE, *OK)] * 3 + [(20, 0, 0, 40, None, *OK)] * 2
        + [(20, 0, 0, 40, None, "provider", "unpriced", "ok", ""), (7, 0, 0, 0, None, "provider", "unpriced", "ok", "")]
        + [(*NOTHING, *LIMITED)],
    ),
    "bedrock-openinference": (
        "aws.bedrock",
        [(*CLAUDE, *OK)] * 4
        + [(120, 0, 0, 40, None, *OK), (*CLAUDE, *OK), (*EMBEDDED, *OK), (*NOTHING, *LIMITED)],
    ),
    "bedrock-openlit": ("aws.bedrock", [(*CLAUDE, *OK)] * 2),
    # an agent that calls a tool, an agent that streams, a rate limit
    "agents-openllmetry": ("openai", [(*GPT, *OK)] * 3 + [(*NOTHING, *FAILED, "")]),
    "agents-openinference": ("openai", [(*GPT, *OK)] * 3 + [(*NOTHING, *FAILED, "")]),
    "agents-official": ("", []),  # leaves the calls to the client's own instrumentor
    "llamaindex-openinference": ("openai", [(*GPT, *OK), (*NOTHING, *SILENT)]),
}  # fmt: skip


@pytest.mark.parametrize("emitter", TRUTH)
def test_the_spans_of_an_emitter_land_as_the_truth_of_the_calls(
    emitter: str, warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    provider, truth = TRUTH[emitter]
    put([(FIXTURES / f"{emitter}.bin").read_bytes()])
    assert rows(warehouse, tenant, f"{COUNTS}, {STATES}", f"scope != '{SDK}'") == truth
    assert {name for (name,) in rows(warehouse, tenant, "provider", f"scope != '{SDK}'")} <= {provider}
    total = "input_uncached + cache_read_tokens + cache_write_tokens + cache_write_1h_tokens"
    assert rows(warehouse, tenant, "span_id", f"{total} != input_tokens") == []


MANY: dict[str, Rows] = {  # emitters above several providers: provider, counts, states
    # LangChain tells nobody the usage of streams here, and of Anthropic's 0 tokens in
    "langchain-official": [
        ("openai", *GPT, *OK), *[("openai", *NOTHING, *SILENT)] * 2,
        ("openai", *NOTHING, "missing", "no_usage", "aborted", "GeneratorExit"), *[("openai", *GPT, *OK)] * 2,
        ("openai", *NOTHING, *LIMITED), ("anthropic", *CLAUDE, *OK),
        ("anthropic", None, None, None, 40, None, *GUESSED),
    ],
    "langchain-openinference": [
        ("openai", *GPT, *OK), *[("openai", *NOTHING, *SILENT)] * 2,
        ("openai", *NOTHING, "missing", "no_usage", "aborted", "GeneratorExit"), *[("openai", *GPT, *OK)] * 2,
        ("openai", *NOTHING, *LIMITED), ("anthropic", *CLAUDE, *OK),
        ("anthropic", None, None, None, 40, None, *GUESSED),
    ],
    "langchain-openllmetry": [  # no reasoning, and no cache writes where Anthropic says how long they live
        ("openai", 56, 64, 0, 40, None, *OK), *[("openai", *NOTHING, *SILENT)] * 2,
        ("openai", *NOTHING, "missing", "no_usage", "aborted", "GeneratorExit"),
        *[("openai", 56, 64, 0, 40, None, *OK)] * 2, ("openai", *NOTHING, *LIMITED),
        ("anthropic", 56, 64, 0, 40, None, *OK), ("anthropic", None, None, None, 40, None, *GUESSED),
    ],
    "pydantic-ai": [
        *[("openai", *GPT, *OK)] * 2, ("anthropic", *CLAUDE, *OK), ("openai", *GPT, *OK),
        ("gcp.gen_ai", 56, 64, 0, 40, None, *OK), ("openai", *NOTHING, *LIMITED),
    ],
    # LiteLLM's own spans hold no cache counts, and where a stream brings no usage the tokens that LiteLLM counted
    "litellm": [
        ("openai", 120, 0, 0, 40, None, *GUESSED), ("anthropic", 120, 0, 0, 40, None, *GUESSED),
        ("gcp.gemini", 120, 0, 0, 40, None, *GUESSED), ("openai", 120, 0, 0, 40, None, *GUESSED),
        ("openai", 9, 0, 0, 4, None, *GUESSED), ("", 7, 0, 0, 0, None, "provider", "unpriced", "ok", ""),
        ("openai", *NOTHING, *LIMITED),
    ],
    "litellm-openinference": [
        ("openai", *GPT, *OK), ("anthropic", 20, 64, 36, 40, 0, *OK), ("gcp.gen_ai", *GEMINI, *OK),
        ("openai", *GPT, *OK), ("openai", *NOTHING, *SILENT), ("", *EMBEDDED, "provider", "unpriced", "ok", ""),
        ("openai", *NOTHING, *LIMITED),
    ],
    "vercel-ai": [  # which of two meanings Anthropic's input has depends on a version that the span does not name
        *[("openai", *GPT, *OK)] * 4, ("anthropic", *CLAUDE, *GUESSED), ("gcp.gemini", *GEMINI, *OK),
        ("anthropic", *CLAUDE, *GUESSED), ("openai", *EMBEDDED, *OK), ("openai", *NOTHING, *FAILED, "AI_APICallError"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("emitter", MANY)
def test_the_spans_of_an_emitter_above_several_providers_land_as_the_truth(
    emitter: str, warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    put([(FIXTURES / f"{emitter}.bin").read_bytes()])
    assert rows(warehouse, tenant, f"provider, {COUNTS}, {STATES}", f"scope != '{SDK}'") == MANY[emitter]


def test_what_anthropics_own_client_tells_is_the_truth_too(
    warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    put([(FIXTURES / "anthropic-official.bin").read_bytes()])
    assert rows(warehouse, tenant, f"{COUNTS}, {STATES}", f"scope = '{SDK}'") == [
        *[(*CLAUDE, *OK)] * 4, (20, 64, 36, None, None, *LEFT), (*NOTHING, *LIMITED),
    ]  # fmt: skip


def test_one_call_of_one_model_costs_the_same_whoever_tells_of_it(
    warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    emitters = [name for name in TRUTH if name.partition("-")[0] in ("anthropic", "gemini", "bedrock")]
    put((FIXTURES / f"{emitter}.bin").read_bytes() for emitter in (*emitters, "pydantic-ai", "litellm-openinference"))
    full = "output_tokens = 40 AND input_tokens = 120 AND cache_read_tokens = 64 AND usage_source = 'provider'"
    costs = set(rows(warehouse, tenant, "provider, toString(cost_usd)", f"{full} AND model NOT LIKE '%nova%'"))
    assert costs == {
        ("anthropic", "0.0008142"),
        ("anthropic", "0.0008277"),  # of the one that says that 6 of the written tokens live for an hour, at 6 USD
        ("aws.bedrock", "0.00089562"), ("gcp.gemini", "0.00011872"),
        ("gcp.gen_ai", "0.00011872"), ("openai", "0.0000372"),
    }  # fmt: skip


def test_a_price_of_ones_own_holds_under_either_name_of_a_provider() -> None:
    book = PriceBook([PriceOverride(provider="gemini", model="mine", input="1", output="2", valid_from="1970-01-01")])
    assert [len(book.history(name, "mine")) for name in ("gemini", "gcp.gemini", "openai")] == [1, 1, 0]


# what is no call

AGENTS = {  # emitter -> spans, of which calls: the rest are agents, workflows, turns, tools, chains and prompts
    "agents-openllmetry": (14, 4),
    "agents-openinference": (21, 4),
    "agents-official": (10, 0),
    "langchain-official": (24, 11),
    "langchain-openinference": (29, 11),
    "langchain-openllmetry": (31, 11),
    "pydantic-ai": (18, 7),
    "vercel-ai": (18, 9),
}


@pytest.mark.parametrize("emitter", AGENTS)
def test_spans_of_agents_workflows_and_tools_are_kept_and_carry_no_money(
    emitter: str, warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    put([(FIXTURES / f"{emitter}.bin").read_bytes()])
    query = f"SELECT count() FROM otel_traces WHERE Tenant = '{tenant}'"
    (spans,) = warehouse._client().query(query).result_rows[0]
    assert (spans, len(rows(warehouse, tenant, "span_id"))) == AGENTS[emitter]


USAGE = ((semconv.REQUEST_MODEL, "gpt-4o-mini"), (semconv.USAGE_INPUT_TOKENS, 100), (semconv.USAGE_OUTPUT_TOKENS, 5))


def test_summed_usage_on_a_span_that_is_no_call_is_not_counted(
    warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    keys = semconv.ALIASES["operation"]
    others = [span((key, name), *USAGE) for key in keys for name in semconv.OTHER_OPERATIONS]
    put([body(*others, span((semconv.OPERATION_NAME, "chat"), *USAGE))])
    assert rows(warehouse, tenant, "operation") == [("chat",)]


def test_a_span_of_an_unknown_emitter_with_a_model_and_usage_is_counted(
    warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    by = (semconv.PROVIDER_NAME, "openai")
    put([body(span(by, *USAGE), span(by, *USAGE, (semconv.OPERATION_NAME, "converse")))])
    assert rows(warehouse, tenant, f"operation, provider, model, input_tokens, {STATES}") == [
        ("unknown", "openai", "gpt-4o-mini", 100, *OK)
    ] * 2


def test_without_an_operation_it_takes_a_model_and_usage_and_no_mark_of_something_else(
    warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    marked = [span(*USAGE, (mark, "x")) for mark in semconv.OTHER_MARKS]
    put([body(span(*USAGE[:1]), span(*USAGE[1:]), *marked)])
    assert rows(warehouse, tenant, "operation") == []


# what cannot be known is marked


def test_an_estimate_of_openlit_is_marked_and_its_server_attributes_are_ignored(
    warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    put([(FIXTURES / "openlit.bin").read_bytes()])
    sources = rows(warehouse, tenant, "usage_source, input_tokens, output_tokens, ttft_s", "stream")
    assert sources == [("provider", 120, 40, None), ("estimate", 34, 8, None)]


def test_an_abandoned_stream_is_aborted_whoever_tells_of_it(
    warehouse: Warehouse, tenant: str, put: Callable[..., None], shared: Callable[[str], Path]
) -> None:
    own = [(FIXTURES / "openinference.bin").read_bytes()]
    folders = ("genai-openai-content0", "openllmetry-content0")
    put([*own, *(shared(f"fixtures/otlp/{folder}/traces-00.bin").read_bytes() for folder in folders)])
    aborted = rows(warehouse, tenant, "scope, usage_source", "outcome = 'aborted'")
    assert sorted(aborted) == [
        ("openinference.instrumentation.openai", "missing"),
        ("opentelemetry.instrumentation.genai.openai", "missing"),
        ("opentelemetry.instrumentation.openai.v1", "missing"),
    ]


def test_no_tokens_in_are_usage_that_nobody_reported(
    warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    start = [(semconv.OPERATION_NAME, "chat"), (semconv.PROVIDER_NAME, "openai"), USAGE[0]]
    keys = (semconv.USAGE_INPUT_TOKENS, semconv.USAGE_OUTPUT_TOKENS)
    usages = [(0, 0), (0, 40), (100, 0), (100,)]
    put([body(*(call(n, *start, *zip(keys, usage, strict=False)) for n, usage in enumerate(usages)))])
    assert rows(warehouse, tenant, "input_tokens, output_tokens, usage_source, price_state") == [
        (None, None, "missing", "no_usage"),
        (None, 40, "estimate", "priced"),
        (100, 0, "provider", "priced"),
        (100, None, "estimate", "priced"),
    ]


def test_cached_tokens_beside_the_input_are_found_by_arithmetic_or_marked(
    warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    keys = (
        semconv.USAGE_INPUT_TOKENS, semconv.USAGE_OUTPUT_TOKENS, semconv.USAGE_CACHE_READ_TOKENS,
        semconv.USAGE_CACHE_WRITE_TOKENS, "gen_ai.usage.total_tokens",
    )  # fmt: skip
    cases: list[tuple[str, tuple[int, ...], tuple[object, ...]]] = [
        # input, output, read, written, total -> uncached, read, written, source
        ("anthropic", (120, 40, 64, 36), (20, 64, 36, "estimate")),  # could be beside: nothing proves either
        ("anthropic", (120, 40, 0, 0), (120, 0, 0, "provider")),  # nothing cached, nothing to doubt
        ("openai", (120, 40, 64, 0), (56, 64, 0, "provider")),  # this API's input holds the cached ones
        ("anthropic", (20, 40, 64, 36), (20, 64, 36, "provider")),  # more cached than input: beside it
        ("openai", (20, 40, 64, 0), (20, 64, 0, "provider")),
        ("custom", (120, 40, 64, 36, 260), (120, 64, 36, "provider")),  # the total adds up only with them
    ]
    chat = (semconv.OPERATION_NAME, "chat")
    spans = [
        call(n, chat, (semconv.PROVIDER_NAME, provider), *zip(keys, counts, strict=False))
        for n, (provider, counts, _) in enumerate(cases)
    ]
    put([body(*spans)])
    names = "input_uncached, cache_read_tokens, cache_write_tokens + cache_write_1h_tokens, usage_source"
    assert rows(warehouse, tenant, names) == [expected for *_, expected in cases]


def test_reasoning_beside_the_output_is_found_by_arithmetic(
    warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    keys = (
        semconv.USAGE_INPUT_TOKENS, semconv.USAGE_OUTPUT_TOKENS, semconv.USAGE_REASONING_TOKENS,
        "gen_ai.usage.total_tokens",
    )  # fmt: skip
    cases: list[tuple[tuple[int, ...], int]] = [
        # input, output, reasoning, total -> output
        ((120, 40, 16), 40),  # the conventions' meaning: a part of it
        ((120, 40, 16, 160), 40),
        ((120, 24, 40), 64),  # more than the output: beside it
        ((120, 40, 16, 176), 56),  # the total adds up only with it
        ((120, 0, 16), 16),
    ]
    given = [(semconv.OPERATION_NAME, "chat"), (semconv.PROVIDER_NAME, "gcp.gemini")]
    put([body(*(call(n, *given, *zip(keys, counts, strict=False)) for n, (counts, _) in enumerate(cases)))])
    assert rows(warehouse, tenant, "output_tokens, reasoning_tokens") == [
        (output, counts[2]) for counts, output in cases
    ]


def test_counts_past_what_a_column_holds_are_unknown_and_do_not_wrap_around(
    warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    huge = [(key, 2**32 - 1) for key in (semconv.USAGE_INPUT_TOKENS, semconv.USAGE_CACHE_READ_TOKENS)]
    chat = (semconv.OPERATION_NAME, "chat")
    put([body(span(chat, *huge, (semconv.USAGE_CACHE_WRITE_TOKENS, 5)), scope="openlit.instrumentation.anthropic")])
    assert rows(warehouse, tenant, "input_tokens, input_uncached") == [(None, None)]


def test_what_farthing_says_itself_of_source_and_outcome_stands(
    warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    said = ((semconv.USAGE_SOURCE, "tokenizer"), (semconv.OUTCOME, "ok"), (semconv.REQUEST_STREAM, True))
    none = ((semconv.USAGE_INPUT_TOKENS, 0), (semconv.USAGE_OUTPUT_TOKENS, 0))
    scope = "opentelemetry.instrumentation.genai.openai"
    put([body(span((semconv.OPERATION_NAME, "chat"), *said, *none), scope=scope)])
    assert rows(warehouse, tenant, "usage_source, outcome, input_tokens") == [("tokenizer", "ok", 0)]


def test_a_rate_limit_is_429_and_another_error_its_class(
    warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    names = {
        "openai.RateLimitError": "429", "rate_limit_error": "429", "429": "429", "ThrottlingException": "429",
        "RESOURCE_EXHAUSTED": "429", "openai.APITimeoutError": "APITimeoutError", "500": "500", "timeout": "timeout",
    }  # fmt: skip
    chat = (semconv.OPERATION_NAME, "chat")
    put([body(*(call(n, chat, (semconv.ERROR_TYPE, name), error="failed") for n, name in enumerate(names)))])
    assert rows(warehouse, tenant, "outcome, error_type") == [("error", name) for name in names.values()]


# content

TALKATIVE = (
    "anthropic-official", "anthropic-openinference", "anthropic-openllmetry", "anthropic-openlit", "gemini-official",
    "gemini-openinference", "gemini-openllmetry", "gemini-openlit", "pydantic-ai", "vercel-ai",
)  # fmt: skip


@pytest.mark.parametrize("emitter", TALKATIVE)
def test_no_word_of_a_conversation_reaches_the_store_and_its_usage_does(
    emitter: str, warehouse: Warehouse, tenant: str, put: Callable[..., None]
) -> None:
    sent = (FIXTURES / f"{emitter}.content.bin").read_bytes()
    assert b"Zanzibar quetzal answer" in sent and (b"Zanzibar quetzal prompt" in sent or "openlit" in emitter)
    put([sent])
    for table, column in (("otel_traces", "Tenant"), ("requests", "tenant")):
        query = f"SELECT * FROM {table} WHERE {column} = '{tenant}'"
        stored = warehouse._client().query(query).result_rows
        assert stored
        assert not any(word in str(row) for row in stored for word in ("Zanzibar", "quetzal"))
    truth = MANY.get(emitter) or [(TRUTH[emitter][0], *row) for row in TRUTH[emitter][1]]
    assert rows(warehouse, tenant, f"provider, {COUNTS}, {STATES}", f"scope != '{SDK}'") == truth
