"""Coding agents that report each model call as a log event only, and what their attributes are called.

Names and meanings are those of their public documentation: Claude Code (code.claude.com, "Monitoring"), Gemini CLI
(docs/telemetry.md) and Codex CLI (docs/config.md, "otel"). What a sender says a call cost is not what it is booked at.
"""
from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class AgentCall:
    """One event that stands for one model call; the counts that stand together are added up."""

    event: str  # its full name
    provider: str
    input: tuple[str, ...]  # they sum to the total input, cached ones included; the first one must be there
    output: tuple[str, ...]  # they sum to the total output, reasoning included; the first one must be there
    cache_read: str
    cache_write: str = ""
    reasoning: str = ""
    session: tuple[str, ...] = ("session.id",)
    request_id: str = ""
    ttft_ms: str = ""
    only: tuple[str, str] | None = None  # attribute and value that the event must carry
    users: tuple[str, ...] = field(default=("user.email", "user.id", "user.account_uuid", "user.account_id"))


AGENT_CALLS = (
    AgentCall(
        "claude_code.api_request",
        "anthropic",
        # Anthropic's input_tokens leave out what was read from and written to the cache
        input=("input_tokens", "cache_read_tokens", "cache_creation_tokens"),
        output=("output_tokens",),
        cache_read="cache_read_tokens",
        cache_write="cache_creation_tokens",
        request_id="request_id",
        ttft_ms="ttft_ms",
    ),
    AgentCall(
        "gemini_cli.api_response",
        "gcp.gemini",
        # Gemini's promptTokenCount holds the cached ones, not the tools' prompts; candidates leave out the thoughts
        input=("input_token_count", "tool_token_count"),
        output=("output_token_count", "thoughts_token_count"),
        cache_read="cached_content_token_count",
        reasoning="thoughts_token_count",
    ),
    AgentCall(
        "codex.sse_event",
        "openai",
        # the Responses API counts cached and reasoning tokens within its totals; tool_token_count is their sum
        input=("input_token_count",),
        output=("output_token_count",),
        cache_read="cached_token_count",
        reasoning="reasoning_token_count",
        session=("conversation.id",),
        ttft_ms="ttft_ms",
        only=("event.kind", "response.completed"),
    ),
)

# An event of one of these is kept, with the attributes that the two lists below name.
AGENT_EVENT_PREFIXES = ("claude_code.", "gemini_cli.", "codex.")

AGENT_EVENT_KEYS = frozenset((
    "event.name", "event.kind", "event.timestamp", "event.sequence", "model", "cost_usd", "duration_ms", "ttft_ms",
    "input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens", "request_id", "speed", "effort",
    "query_source", "agent.name", "skill.name", "plugin.name", "status_code", "attempt", "prompt.id", "prompt_length",
    "tool_name", "tool_use_id", "success", "decision", "source", "decision_source", "decision_type", "error_type",
    "app.version", "organization.id", "user.account_uuid", "user.account_id", "terminal.type", "from_mode", "to_mode",
    "trigger", "tool_result_size_bytes", "tool_input_size_bytes", "input_token_count", "output_token_count",
    "cached_content_token_count", "thoughts_token_count", "tool_token_count", "total_token_count", "prompt_id",
    "auth_type", "finish_reasons", "role", "installation.id", "interactive", "function_name", "tool_type", "call_id",
    "conversation.id", "cached_token_count", "reasoning_token_count", "originator", "slug", "auth_mode",
    "provider_name", "reasoning_effort", "reasoning_summary", "context_window", "max_output_tokens", "approval_policy",
    "sandbox_policy", "response_length", "extension_name", "server_name", "server_scope", "transport_type", "status",
))  # fmt: skip

# What people wrote and models or tools answered, in the same events: hidden like any content.
AGENT_CONTENT_KEYS = frozenset((
    "prompt", "response", "response_text", "request_text", "error", "error.message", "error_message", "tool_parameters",
    "tool_input", "function_args", "arguments", "output", "body", "error_details",
))  # fmt: skip
