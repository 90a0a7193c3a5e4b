"""Every attribute, header and unit name that Farthing reads or writes, once.

Instrumentations name the same fact differently, and the convention is still in development, so each canonical fact has
an ordered list of aliases, from which the warehouse's views are generated.
"""
from __future__ import annotations

# OpenTelemetry GenAI attributes that Farthing itself writes
OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
RESPONSE_TTFC = "gen_ai.response.time_to_first_chunk"  # seconds, double
USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"  # total, cached ones included
USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"  # total, reasoning included
USAGE_CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
USAGE_CACHE_WRITE_TOKENS = "gen_ai.usage.cache_write.input_tokens"
USAGE_REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
AUDIO_INPUT_TOKENS = "gen_ai.usage.audio.input_tokens"  # a part of the input, cached ones included
CACHED_AUDIO_TOKENS = "gen_ai.usage.audio.cache_read.input_tokens"
AUDIO_OUTPUT_TOKENS = "gen_ai.usage.audio.output_tokens"  # a part of the output
OPENAI_RESPONSE_SERVICE_TIER = "openai.response.service_tier"
OPENAI_REQUEST_SERVICE_TIER = "openai.request.service_tier"
EVALUATION = "gen_ai.evaluation.result"  # name of the event, or of the span, that grades one answer
EVALUATION_NAME = "gen_ai.evaluation.name"
EVALUATION_SCORE = "gen_ai.evaluation.score.value"  # double; of a grade of ours from 0, wrong, to 1, right
ERROR_TYPE = "error.type"
HTTP_STATUS_CODE = "http.response.status_code"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

# Farthing's own attributes
TEAM = "farthing.team"
USER = "farthing.user"
FEATURE = "farthing.feature"
SESSION = "farthing.session"
KEY = "farthing.key"  # name of the virtual key that the call came with
TAG_PREFIX = "farthing.tag."  # any further tag: farthing.tag.<name>
BILLED = "farthing.billed"  # bool; false = another span of the same call carries the money
UNBILLED_REASON = "farthing.unbilled_reason"  # proxy | nested
REQUEST_ID = "farthing.request.id"
REQUEST_HASH = "farthing.request.hash"  # keyed hash of the canonical request, hex
PREFIX_HASHES = "farthing.prefix.hashes"  # hashes of the message prefixes, oldest first
DEPLOYMENT = "farthing.deployment"
DEPLOYMENT_NAME = "farthing.deployment.name"
ROUTE_STRATEGY = "farthing.route.strategy"  # of the policy that chose the deployment
ROUTE_REASON = "farthing.route.reason"  # why that one
ROUTE_CANDIDATES = "farthing.route.candidates"  # the figures that each had when it was chosen
ROUTE_TENANT = "farthing.route.tenant"  # whose prompt a router saw, where that is not the proxy's own tenant
ROUTE_FEATURES = "farthing.route.features"  # what a router saw of the prompt: key id:base64; no words, not anonymous
ROUTE_PROPENSITY = "farthing.route.propensity"  # the chance with which the model that answered was drawn
ROUTE_GAIN = "farthing.route.gain"  # P(strong right) - P(weak right), as predicted
ROUTE_GAIN_VERSION = "farthing.route.gain.version"  # of the model that predicted it
TASK = "farthing.task"  # what kind of task the prompt was judged to be, where a policy routes by it
TASK_CONFIDENCE = "farthing.task.confidence"
TASK_COMPLEXITY = "farthing.task.complexity"  # 0 to 1
PRIORITY = "farthing.priority"  # 0 to 9, of a request that had to wait for a place
WAITED_SECONDS = "farthing.waited.seconds"  # seconds that it waited for a place at its deployment
ATTEMPT_OF = "farthing.attempt_of"  # request id of the first attempt, of a further one that is paid by itself
DISCARDED = "farthing.discarded"  # hedge | cascade: why the answer was paid and not given to the client
ANSWER_QUALITY = "farthing.answer.quality"  # 0 to 1, as a cascade judged it by what the answer says of itself
ATTEMPTS = "farthing.attempts"  # requests made of upstreams, where it took more than one
ROUTED_FROM = "farthing.routed_from"  # the model that the client asked for, where a policy sent it elsewhere
CACHE_HIT = "farthing.cache.hit"  # exact | coalesced | embedding | semantic; absent on a miss
CACHE_SEMANTIC = "farthing.cache.semantic"  # what the semantic cache made of a call: miss | shadow | verify | hit
CACHE_SEMANTIC_REASON = "farthing.cache.semantic.reason"  # why it was no hit
CACHE_SEMANTIC_SIMILARITY = "farthing.cache.semantic.similarity"  # cosine of the nearest request that might have served
MICRO_BATCH_CALLS = "farthing.micro_batch.calls"  # calls that were sent to the upstream as one, where there were more
CACHE_SAVED_INPUT_TOKENS = "farthing.cache.saved.input_tokens"  # of the inputs that an upstream was not asked for
CACHE_LEVEL = "farthing.cache.level"  # tool | component: a cache of the application's own work
CACHE_NAME = "farthing.cache.name"  # of the function whose results it keeps
CACHE_OUTCOME = "farthing.cache.outcome"  # hit | coalesced | miss | skipped
CACHE_BYTES = "farthing.cache.bytes"  # of the result as it is kept
CACHE_HELD_BYTES = "farthing.cache.held_bytes"  # that the cache holds of this function in this process
CACHE_EVICTED = "farthing.cache.evicted"  # results that made room for this one; absent where none did
CACHE_SAVED_SECONDS = "farthing.cache.saved_seconds"  # that making the result had taken
CACHE_SAVED_NUSD = "farthing.cache.saved_nusd"  # that making it had cost, where the application said so
USAGE_SOURCE = "farthing.usage.source"  # provider | proxy | tokenizer | estimate | missing
SERVICE_TIER = "farthing.service_tier"  # what the provider served the call as: flex, priority, batch, …
CACHE_WRITE_1H_TOKENS = "farthing.usage.cache_write_1h.input_tokens"  # of those written, the ones kept for an hour
SETTLED_NUSD = "farthing.settled_nusd"  # what the ledger was charged, nano-dollars
HELD_NUSD = "farthing.held_nusd"  # what was reserved before the call, nano-dollars
LEASES = "farthing.leases"  # budget and period, with a space between, of each lease that it was reserved from
INSTANCE = "service.instance.id"  # of the resource; of a proxy's spans the worker whose leases those are
POLICIES = "farthing.policies"  # names of the policies that acted
POLICIES_SHADOWED = "farthing.policies.shadowed"  # names of the shadow policies that would have acted
POLICY_ARMS = "farthing.policy.arms"  # of the policies on trial: <policy>:treatment|control:<propensity>
POLICY_VERSION = "farthing.policy.version"
TOKENS_PREFIX = "farthing.tokens."
TOKENS_BEFORE = "farthing.tokens.before"  # estimated input tokens as the client sent them, where a policy cuts
TOKENS_AFTER = "farthing.tokens.after"  # as they were sent on
TOKENS_CUT_PREFIX = "farthing.tokens.cut."  # and a kind: retrieval, phrases, whitespace, history
TOKENS_POLICY_PREFIX = "farthing.tokens.policy."  # and the name of the policy that did it: 1
TOKENS_TURNS = "farthing.tokens.turns_cut"
TOKENS_MAX_OUTPUT = "farthing.tokens.max_output"  # the limit that a policy set
TOKENS_SUMMARY = "farthing.tokens.summary"  # of the summary of what was cut
TOKENS_NO_SUMMARY = "farthing.tokens.no_summary"  # 1 = the policy wants one, and none was to be had
TOKENS_REFUSED = "farthing.tokens.refused"  # 1 = longer than the policy allows
TOKENS_SHADOW_PREFIX = "farthing.tokens.shadow."  # the same names, of what a policy in shadow mode would have done
OUTCOME = "farthing.outcome"  # ok | error | aborted | refused
ENGINE_SECONDS = "farthing.engine.seconds"  # seconds of the engine's steps that this request is charged with
ENGINE_QUEUE_SECONDS = "farthing.engine.queue_seconds"
PROXY_SECONDS = "farthing.proxy.seconds"  # seconds spent in the proxy itself, upstream excluded
REPLAYED = "farthing.replayed"  # bool; booked from a trace file, not served

PROXY_SCOPE = "farthing.proxy"  # instrumentation scope of the proxy's own spans
REPLAY_SCOPE = "farthing.replay"
SELF_HOSTED_PROVIDER = "farthing"  # provider name of models that the bundled engine serves
ELSEWHERE_PROVIDER = "self-hosted"  # of calls in a public provider's name to an address that is not the provider's

# HTTP headers between the SDK and the proxy
HEADER_TAGS = "x-farthing-tags"  # team=search,user=ann,tier=batch; values percent-encoded
HEADER_REQUEST_ID = "x-farthing-request-id"
HEADER_DEADLINE = "x-farthing-deadline-ms"  # milliseconds that the caller will wait, from when the request is whole
HEADER_PRIORITY = "x-farthing-priority"  # 0 to 9, the higher goes first, as far as the policy allows
HEADER_POLICY = "x-farthing-policy"  # response: version, the policies that acted, <policy>:control:<propensity>
HEADER_CACHE = "x-farthing-cache"  # response: hit | partial | coalesced | semantic | miss
HEADER_TOKENS = "x-farthing-tokens"  # response: what a policy cut: before=900;after=300;history=600
HEADER_FOLLOWER = "x-farthing-follower"  # which proxy worker asks for the policy document
HEADER_REFUSED = "x-farthing-refused"  # why it did not take the newest one
HEADER_GAINS = "x-farthing-gains"  # which gain models that worker uses, and why not the others
HEADER_TENANT_KEY = "x-farthing-key"  # ingest key of a tenant, to the collector

CORE_TAGS = {"team": TEAM, "user": USER, "feature": FEATURE, "session": SESSION}


def tag_attribute(name: str) -> str:
    """Return the span attribute that carries the tag `name`."""
    return CORE_TAGS.get(name, TAG_PREFIX + name)


# Operations whose spans are one model call each; all others (agents, workflows, tools) carry no money.
INFERENCE_OPERATIONS = ("chat", "text_completion", "generate_content", "embeddings", "responses")
UNKNOWN_OPERATION = "unknown"  # what a call is named whose span names a model and its usage but no operation known here

# Operations that are known to be no call, whatever usage their spans sum up. Anything else that names a model and its
# usage is counted as a call, because a call that is not counted is worse than one that can be seen and excluded.
OTHER_OPERATIONS = (
    # OpenTelemetry: of agents, tools, retrieval and memory; `fetch_response` reads an answer that was billed before
    "create_agent", "invoke_agent", "invoke_workflow", "plan", "execute_tool", "retrieval", "fetch_response",
    "search_memory", "create_memory", "update_memory", "upsert_memory", "delete_memory", "create_memory_store",
    "delete_memory_store",
    "execute_task",  # OpenLLMetry's node of a graph
    # ai.operationId of the Vercel AI SDK: each holds the span of the call itself, `ai.….do…`
    "ai.generateText", "ai.streamText", "ai.generateObject", "ai.streamObject", "ai.embed", "ai.embedMany",
    "ai.toolCall",
    # openinference.span.kind
    "AGENT", "CHAIN", "TOOL", "RETRIEVER", "RERANKER", "GUARDRAIL", "EVALUATOR", "PROMPT",
)  # fmt: skip
# Marks of a span that is no call, where it names no operation; a call's span may carry the last two.
OTHER_MARKS = ("traceloop.span.kind", "gen_ai.agent.name", "gen_ai.tool.name")

# canonical fact -> span attributes that carry it, the most trusted first
ALIASES: dict[str, tuple[str, ...]] = {
    "operation": (OPERATION_NAME, "openinference.span.kind", "llm.request.type", "ai.operationId"),
    "provider": (PROVIDER_NAME, "gen_ai.system", "llm.provider", "llm.system", "ai.model.provider"),
    "request_model": (REQUEST_MODEL, "llm.request.model", "ai.model.id"),
    "response_model": (RESPONSE_MODEL, "llm.model_name", "llm.response.model", "embedding.model_name"),
    "response_id": (RESPONSE_ID,),
    "input_tokens": (USAGE_INPUT_TOKENS, "gen_ai.usage.prompt_tokens", "llm.token_count.prompt", "ai.usage.tokens"),
    "output_tokens": (USAGE_OUTPUT_TOKENS, "gen_ai.usage.completion_tokens", "llm.token_count.completion"),
    "cache_read_tokens": (
        USAGE_CACHE_READ_TOKENS,
        "gen_ai.usage.cache_read_input_tokens",
        "llm.token_count.prompt_details.cache_read",
        "ai.usage.cachedInputTokens",
    ),
    "cache_write_tokens": (
        USAGE_CACHE_WRITE_TOKENS,
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "llm.token_count.prompt_details.cache_write",
        "ai.usage.inputTokenDetails.cacheWriteTokens",
    ),
    "cache_write_1h_tokens": (
        CACHE_WRITE_1H_TOKENS,
        "gen_ai.usage.details.ephemeral_1h_input_tokens",
    ),
    "input_audio_tokens": (
        AUDIO_INPUT_TOKENS,
        "llm.token_count.prompt_details.audio",
        "gen_ai.usage.details.input_audio_tokens",
    ),
    "cached_audio_tokens": (CACHED_AUDIO_TOKENS, "gen_ai.usage.details.cache_audio_read_tokens"),
    "output_audio_tokens": (
        AUDIO_OUTPUT_TOKENS,
        "llm.token_count.completion_details.audio",
        "gen_ai.usage.completion_tokens_details.audio_tokens",
        "gen_ai.usage.details.output_audio_tokens",
    ),
    "service_tier": (  # what was served, else what was asked for
        SERVICE_TIER,
        OPENAI_RESPONSE_SERVICE_TIER,
        "gen_ai.openai.response.service_tier",
        OPENAI_REQUEST_SERVICE_TIER,
        "gen_ai.openai.request.service_tier",
        "gen_ai.request.service_tier",
    ),
    "server_address": (SERVER_ADDRESS, "gen_ai.openai.api_base"),
    "reasoning_tokens": (
        USAGE_REASONING_TOKENS,
        "gen_ai.usage.reasoning_tokens",
        "llm.token_count.completion_details.reasoning",
        "gen_ai.usage.details.reasoning_tokens",  # Pydantic AI
        "ai.usage.reasoningTokens",
    ),
    "total_tokens": ("gen_ai.usage.total_tokens", "llm.token_count.total"),
    "ttft_s": (RESPONSE_TTFC, "gen_ai.client.operation.time_to_first_chunk"),
    "stream": (REQUEST_STREAM, "gen_ai.is_streaming", "llm.is_streaming"),
    "finish_reason": (RESPONSE_FINISH_REASONS, "llm.finish_reason", "anthropic.message.stop_reason"),
    "error_type": (ERROR_TYPE,),
    "team": (TEAM,),
    "user": (USER, "user.id", "enduser.id"),
    "feature": (FEATURE,),
    "session": (SESSION, "session.id", "gen_ai.conversation.id"),
}

# other names for the same operation
OPERATION_ALIASES: dict[str, str] = {
    "LLM": "chat",
    "EMBEDDING": "embeddings",
    "completion": "chat",  # LiteLLM's name of it
    "embedding": "embeddings",
    "acompletion": "chat",
    "aembedding": "embeddings",
    "aresponses": "responses",
    "atext_completion": "text_completion",
    "ai.generateText.doGenerate": "chat",
    "ai.streamText.doStream": "chat",
    "ai.generateObject.doGenerate": "chat",
    "ai.streamObject.doStream": "chat",
    "ai.embed.doEmbed": "embeddings",
    "ai.embedMany.doEmbed": "embeddings",
}

# other names for the same provider; the names on the right are OpenTelemetry's
PROVIDER_ALIASES: dict[str, str] = {
    "gemini": "gcp.gemini",
    "google": "gcp.gen_ai",  # which of Google's endpoints is not said
    "vertex_ai": "gcp.vertex_ai",
    "aws": "aws.bedrock",
    "bedrock": "aws.bedrock",
    "azure": "azure.ai.openai",
    "mistral": "mistral_ai",
    "mistralai": "mistral_ai",
    "xai": "x_ai",
    # the Vercel AI SDK adds the API
    "openai.chat": "openai",
    "openai.responses": "openai",
    "openai.completion": "openai",
    "openai.embedding": "openai",
    "anthropic.messages": "anthropic",
    "google.generative-ai": "gcp.gemini",
}


def canonical_provider(name: str) -> str:
    """Return the one name of a provider under which its calls are stored and its prices are looked up."""
    name = name.lower()
    return PROVIDER_ALIASES.get(name, name)


# Attributes that hold what people wrote or models answered, in any dialect: not stored unless `store_content` is set,
# whatever the SDK was told. Instead come <key>.length (characters) and <key>.hash (keyed, 16 hex digits).
CONTENT_PREFIXES = (
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
    "gen_ai.tool.args",
    "gen_ai.prompt.",
    "gen_ai.completion.",
    "gen_ai.content.",
    "gen_ai.headers",
    "llm.prompts",
    "llm.completions",
    "llm.input_messages",
    "llm.output_messages",
    "llm.prompt_template",
    "llm.tools",
    "llm.request.functions",
    "embedding.embeddings",
    "retrieval.documents",
    "input.value",
    "output.value",
    "traceloop.entity.input",
    "traceloop.entity.output",
    "exception.message",
    "exception.stacktrace",
    "gen_ai.tool.description",
    "gen_ai.agent.description",
    "gen_ai.request.stop_sequences",
    "gen_ai.request.structured_output_schema",
    "gen_ai.retrieval.query",
    "gen_ai.retrieval.documents",
    "gen_ai.evaluation.explanation",
    "llm.invocation_parameters",
    "llm.function_call",
    "llm.choices",
    "llm.headers",
    "http.request.header",
    "http.response.header",
    "http.request.body.content",
    "http.response.body.content",
    "http.url",
    "http.target",
    "url.full",
    "url.query",
    "db.statement",
    "db.query",
    "db.operation.parameter",
    "rpc.request.metadata",
    "rpc.response.metadata",
    "rpc.grpc.request.metadata",
    "rpc.grpc.response.metadata",
    "rpc.connect_rpc.request.metadata",
    "rpc.connect_rpc.response.metadata",
)

# An attribute whose last word is one of these is content too, in whichever namespace, unless `ALIASES` names it.
CONTENT_LAST_WORDS = frozenset((
    "answer", "answers", "arguments", "body", "choice", "choices", "completion", "completions", "content", "contents",
    "description", "documents", "functions", "headers", "history", "input", "inputs", "instructions", "message",
    "messages", "output", "outputs", "prompt", "prompts", "query", "question", "reasoning", "response",
    "response_format", "schema", "stack", "stack_trace", "statement", "stacktrace", "status_description", "template",
    "text", "thinking", "thought", "thoughts", "tool_calls", "tools", "transcript",
))  # fmt: skip

# In these an attribute that no list names is content: what is new in them may be a conversation as well as a count.
CONTENT_NAMESPACES = ("gen_ai.", "llm.")

# What may be stored as it comes: names, counts and settings of the semantic conventions and of Farthing. All that is
# in neither list is dropped by the collector, because an unknown attribute may hold anything; `allowed_attributes` in
# farthing.toml adds to it.
CONTENT_FREE_PREFIXES = (
    "farthing.",
    "gen_ai.agent.",
    "gen_ai.aggregated_usage.",
    "gen_ai.client.",
    "gen_ai.cost.",
    "gen_ai.data_source.",
    "gen_ai.embeddings.",
    "gen_ai.evaluation.",
    "gen_ai.latency.",
    "gen_ai.openai.",
    "gen_ai.request.",
    "gen_ai.response.",
    "gen_ai.sdk.",
    "gen_ai.server.",
    "gen_ai.task.",
    "gen_ai.thread.",
    "gen_ai.usage.",
    "gen_ai.workflow.",
    "llm.cost.",
    "llm.token_count.",
    "llm.usage.",
    "openai.",
    "anthropic.usage.",
    "anthropic.request.",
    "anthropic.response.",
    "anthropic.message.stop_reason",
    "ai.usage.",
    "ai.model.",
    "ai.response.finishReason",
    "openinference.",
    "embedding.model_name",
    "traceloop.span.kind",
    "traceloop.workflow.name",
    "traceloop.entity.name",
    "aws.bedrock.",
    "azure.",
    "az.",
    "service.",
    "telemetry.",
    "deployment.",
    "host.",
    "os.",
    "process.pid",
    "process.runtime.",
    "container.",
    "k8s.",
    "cloud.",
    "hw.",
    "gpu.",
    "http.",
    "url.scheme",
    "url.template",
    "url.domain",
    "server.",
    "client.",
    "network.",
    "net.",
    "rpc.",
    "messaging.",
    "db.system",
    "db.operation",
    "db.namespace",
    "db.collection.name",
    "error.",
    "exception.",
    "otel.",
    "thread.",
    "code.",
    "user.id",
    "enduser.id",
    "session.id",
)

# Likewise, each by its whole name, because beside it stands what people wrote. Those in `ALIASES` are plain too.
CONTENT_FREE_KEYS = frozenset((
    "gen_ai.application_name", "gen_ai.endpoint", "gen_ai.environment", "gen_ai.framework", "gen_ai.output.type",
    "gen_ai.token.type", "gen_ai.tool.call.id", "gen_ai.tool.name", "gen_ai.tool.type", "gen_ai.user",
    "llm.frequency_penalty", "llm.presence_penalty", "llm.request.model_name", "llm.response.finish_reason",
    "llm.response.model_name", "llm.response.stop_reason", "llm.temperature", "llm.top_k", "llm.top_p", "llm.user",
))  # fmt: skip

# Who or which, chosen by the application so that money can be attributed: an e-mail address or a long number in one
# of these is meant and stays; a key or a token does not.
CONTENT_IDENTITY_KEYS = frozenset((
    *ALIASES["user"], *ALIASES["session"], *ALIASES["response_id"], TEAM, FEATURE, REQUEST_ID, REQUEST_HASH,
    PREFIX_HASHES, ROUTE_FEATURES, LEASES, "gen_ai.user", INSTANCE, "host.id", "container.id", "user.email",
))  # fmt: skip

# What the length and the hash of a span's status message are stored as, in the span's attributes
CONTENT_STATUS_MESSAGE = "otel.status_message"

# Metrics that are stored: those of model calls, of inference servers and of GPUs; `allowed_metrics` adds to them.
METRIC_PREFIXES = (
    "gen_ai.", "llm.", "hw.", "system.gpu", "nvidia", "DCGM_FI_", "nv_", "vllm:", "sglang:", "tgi_", "farthing.",
    "claude_code.", "gemini_cli.", "codex.",
)  # fmt: skip

# Attributes of such metrics beyond CONTENT_FREE_PREFIXES: the labels of vLLM, SGLang, TGI, Triton, the DCGM exporter
# and of coding agents.
METRIC_KEYS = frozenset((
    "type", "model", "model_name", "modelName", "version", "engine", "engine_type", "finished_reason", "tp_rank",
    "pp_rank", "dp_rank", "priority", "UUID", "gpu", "gpu_uuid", "device", "pci_bus_id", "Hostname", "container",
    "namespace", "pod", "GPU_I_ID", "GPU_I_PROFILE", "DCGM_FI_DRIVER_VERSION", "err_code", "err_msg", "method",
    "batch_size", "stream", "quantile", "job", "instance", "query_source", "effort", "decision", "tool_name", "source",
    "token_type", "terminal.type", "app.version", "organization.id", "user.account_uuid",
))  # fmt: skip

# fact of a metric's point -> attributes that carry it, the most trusted first
METRIC_ALIASES: dict[str, tuple[str, ...]] = {
    "operation": (OPERATION_NAME,),
    "provider": (PROVIDER_NAME, "gen_ai.system"),
    "model": (RESPONSE_MODEL, REQUEST_MODEL, "model", "model_name"),
    "token_type": ("gen_ai.token.type", "token_type"),
    "gpu_uuid": ("hw.id", "UUID", "gpu_uuid", "gpu.uuid"),
    "gpu_index": ("gpu.index", "gpu", "hw.gpu.index"),
}

# Log records that are stored beside coding agents' (farthing.agents): those with such an event name, and those that
# carry an attribute of a model call or of a GPU; `allowed_events` adds names.
EVENT_PREFIXES = ("gen_ai.",)
EVENT_KEY_PREFIXES = ("gen_ai.", "hw.", "gpu.")

# What the length and the hash of a log record's body are stored as, in its attributes
CONTENT_LOG_BODY = "otel.log.body"
