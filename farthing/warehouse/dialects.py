"""What the facts of a model call's span mean, by who emitted it: SQL over facts that `view` has named.

Emitters agree on names more than on meanings. Every rule here was read off spans of the real package (docs/dialects.md,
tests/fixtures/otlp); a figure that no rule can settle is not corrected but marked as an estimate.

The facts: `scope` (who emitted), `kind` (see `kind`), `provider`, `operation`, `stream`, `finish_reason`, `failed` and
`is_open` (the span's status), `error_told`, `zero_count`, and the counts `in_told`, `out_told`, `reasoning_told`,
NULL where the span does not say; `parts_told` is what was read from the cache or written to it, and `surplus` what the
span's own total holds beyond input and output. Each function is planned in every insert (see `view_requests`), so the
rules are written with few.
"""
from __future__ import annotations

from farthing.semconv import USAGE_CACHE_READ_TOKENS, USAGE_SOURCE

# Their input tokens are those that Anthropic's and Bedrock's APIs report, without what was read from the cache and
# written to it (Anthropic, "Prompt caching": total = input + cache_read + cache_creation; Bedrock, TokenUsage).
_BESIDE = "cached beside input"
# Their output tokens are Gemini's candidates without its thoughts (Gemini API, UsageMetadata: the two are disjoint); of
# the second kind only the total holds the thoughts.
_THOUGHTS = "thoughts beside output"
_TOTAL = "thoughts in total alone"
_LITELLM = "litellm"  # never says what was cached, and counts the tokens of a stream itself where the provider does not
_KNOWN = "known"
_KINDS = {
    "opentelemetry.instrumentation.botocore.bedrock-runtime": _BESIDE,
    "opentelemetry.instrumentation.genai.bedrock": _BESIDE,
    "opentelemetry.instrumentation.bedrock": _BESIDE,
    "openlit.instrumentation.anthropic": _BESIDE,
    "openlit.instrumentation.bedrock": _BESIDE,
    "openlit.instrumentation.google_ai_studio": _THOUGHTS,
    "openlit.instrumentation.vertexai": _THOUGHTS,
    "opentelemetry.instrumentation.google_generativeai": _TOTAL,
    "litellm": _LITELLM,
}

_KNOWN_SCOPES = "^(opentelemetry.instrumentation|openinference|openlit|com.anthropic.sdk|farthing|pydantic-ai)"  # RE2
_SAYS_WHY_A_STREAM_ENDED = "^(opentelemetry.instrumentation|com.anthropic.sdk)[.]"
_CACHES_BESIDE = "('anthropic', 'aws.bedrock')"  # providers whose APIs report cached tokens beside the input
_ABANDONED = "(^|[.])(GeneratorExit|CancelledError)$"
_RATE_LIMIT = "^.*(?i:rate_?limit|throttl|too_?many_?requests|resource_?exhausted).*$"
_NO_COUNT = 2**32 - 1


def kind() -> str:
    """Return SQL of what is special about the counts of a scope, `known` where nothing is, '' of an unknown emitter."""
    others = f"if(match(ScopeName, '{_KNOWN_SCOPES}'), '{_KNOWN}', '')"
    return f"transform(ScopeName, {list(_KINDS)}, {list(_KINDS.values())}, {others})"


def model(given: str) -> str:
    """Return SQL of a model's name without the provider that LiteLLM's own names begin with."""
    stripped = f"replaceRegexpOne({given}, '^[a-z0-9_]+/', '')"
    return f"if(scope = 'openinference.instrumentation.litellm', {stripped}, {given})"


def operation(given: str) -> str:
    """Return SQL of the operation; to some emitters everything that goes through one API is a chat or a completion."""
    models = "request_model_told || response_model_told"
    return f"if(positionCaseInsensitive({models}, 'embed') > 0, 'embeddings', {given})"


def _is_beside() -> str:
    """Return SQL that tells whether the cached tokens come on top of the input tokens given.

    Not where Farthing itself says what was used. Of other emitters two figures prove it: cached tokens that exceed the
    input, and a total that adds up only with them (OpenInference on the models of Bedrock that it does not know).
    """
    proved = f"parts_told > in_told OR (kind != '{_TOTAL}' AND surplus = parts_told)"
    return f"ifNull(parts_told > 0 AND source_told = '' AND (kind = '{_BESIDE}' OR {proved}), 0)"


def zero_count() -> str:
    """Return SQL of the count that stands for none: 0 of a call that did not fail is what some write where nobody told.

    (LangChain's streams of Anthropic among others. A prompt has at least one token.)
    """
    return f"if(StatusCode = 'Error' OR a['{USAGE_SOURCE}'] != '', {_NO_COUNT}, 0)"


def input_tokens() -> str:
    return f"nullIf(accurateCastOrNull(in_told + {_is_beside()} * parts_told, 'UInt32'), zero_count)"


def reasoning_tokens() -> str:
    return f"if(kind = '{_TOTAL}', accurateCastOrNull(surplus, 'UInt32'), reasoning_told)"


def output_tokens() -> str:
    """Return SQL of all output tokens, reasoning included; 0 without a known input is nothing reported.

    Of an emitter that is not known to leave reasoning out, the same figures prove it as for cached tokens.
    """
    proved = "source_told = '' AND (reasoning_told > out_told OR surplus = reasoning_told)"
    thoughts = f"if(kind IN ('{_THOUGHTS}', '{_TOTAL}') OR ifNull({proved}, 0), ifNull(reasoning_tokens, 0), 0)"
    return f"nullIf(accurateCastOrNull(out_told + {thoughts}, 'UInt32'), if(in_told > 0, {_NO_COUNT}, zero_count))"


def is_aborted() -> str:
    """Return SQL that tells whether the caller went away: what was raised says so, or a stream ended without a reason.

    OpenInference says neither that a call streamed nor that it was abandoned, but sets a status on all that ended.
    """
    return (
        f"match(error_told, '{_ABANDONED}') OR (finish_reason = '' AND ((stream AND NOT failed "
        f"AND match(scope, '{_SAYS_WHY_A_STREAM_ENDED}')) OR (is_open AND startsWith(scope, 'openinference.'))))"
    )


def error_type() -> str:
    """Return SQL of what failed: a rate limit is `429` whatever it is called, another class goes without its path."""
    return f"replaceRegexpOne(replaceRegexpOne(error_told, '{_RATE_LIMIT}', '429'), '^.*[.]', '')"


def is_estimate() -> str:
    """Return SQL that tells whether a usage that was given is not what the provider reported in the end.

    OpenLIT guesses half the characters of a stream whose provider sends no usage, and then has no cache counts to set.
    An unknown emitter may count Anthropic's cached tokens within the input or beside it.
    """
    return (
        f"is_aborted OR (operation != 'embeddings' AND (ifNull(in_told + parts_told, 0) = 0 OR isNull(out_told) "
        f"OR kind = '{_LITELLM}')) "
        f"OR (stream AND a['{USAGE_CACHE_READ_TOKENS}'] = '' AND startsWith(scope, 'openlit.')) "
        f"OR (kind = '' AND parts_told BETWEEN 1 AND in_told AND provider IN {_CACHES_BESIDE})"
    )
