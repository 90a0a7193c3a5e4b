"""Which instrumentor is switched on for which client library: exactly one for each, the official one first.

Four families register the entry point `openai`, and two at once count every call twice, so instrumentors are chosen
here by module path and never by entry point name. A library is instrumented when the application imports it.
"""
from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import wrapt
from opentelemetry import trace

log = logging.getLogger("farthing")

_GENAI = "opentelemetry.instrumentation.genai"
_OTEL = "opentelemetry.instrumentation"  # official ones, and Traceloop's OpenLLMetry
_INFERENCE = "openinference.instrumentation"
_OPENLIT = "openlit.instrumentation"

WAITING = "waits for the application to import it"
NO_INSTRUMENTOR = "no instrumentor is installed"


@dataclass(frozen=True)
class Client:
    """One client library, and what can instrument it, the preferred first, as `module:Class`."""

    name: str
    distribution: str  # what must be installed
    module: str  # what an application imports
    instrumentors: tuple[str, ...]
    others: tuple[str, ...] = ()  # never switched on, respected where the application has done so
    base_client: str = ""  # of a Stainless client: the module whose BaseClient builds the requests


CLIENTS = (
    Client(
        "openai",
        "openai",
        "openai",
        (
            f"{_GENAI}.openai:OpenAIInstrumentor",
            f"{_OTEL}.openai_v2:OpenAIInstrumentor",
            f"{_OTEL}.openai:OpenAIInstrumentor",
            f"{_INFERENCE}.openai:OpenAIInstrumentor",
        ),
        (f"{_OPENLIT}.openai:OpenAIInstrumentor",),
        base_client="openai._base_client",
    ),
    Client(
        "anthropic",
        "anthropic",
        "anthropic",
        (
            f"{_GENAI}.anthropic:AnthropicInstrumentor",
            f"{_OTEL}.anthropic:AnthropicInstrumentor",
            f"{_INFERENCE}.anthropic:AnthropicInstrumentor",
        ),
        (f"{_OPENLIT}.anthropic:AnthropicInstrumentor",),
        base_client="anthropic._base_client",
    ),
    Client(
        "google-genai",
        "google-genai",
        "google.genai",
        (
            f"{_OTEL}.google_genai:GoogleGenAiSdkInstrumentor",
            f"{_INFERENCE}.google_genai:GoogleGenAIInstrumentor",
        ),
    ),
    Client(
        "bedrock",
        "botocore",
        "botocore",
        (
            f"{_GENAI}.bedrock:BedrockInstrumentor",
            f"{_OTEL}.botocore:BotocoreInstrumentor",
            f"{_OTEL}.bedrock:BedrockInstrumentor",
            f"{_INFERENCE}.bedrock:BedrockInstrumentor",
        ),
    ),
    Client(
        "langchain",
        "langchain-core",
        "langchain_core",
        (
            f"{_GENAI}.langchain:LangChainInstrumentor",
            f"{_OTEL}.langchain:LangchainInstrumentor",
            f"{_INFERENCE}.langchain:LangChainInstrumentor",
        ),
    ),
    Client(
        "llama-index",
        "llama-index-core",
        "llama_index.core",
        (
            f"{_GENAI}.llama_index:LlamaIndexInstrumentor",
            f"{_OTEL}.llamaindex:LlamaIndexInstrumentor",
            f"{_INFERENCE}.llama_index:LlamaIndexInstrumentor",
        ),
    ),
    Client(
        "openai-agents",
        "openai-agents",
        "agents",
        (
            f"{_GENAI}.openai_agents:OpenAIAgentsInstrumentor",
            f"{_OTEL}.openai_agents:OpenAIAgentsInstrumentor",
            f"{_INFERENCE}.openai_agents:OpenAIAgentsInstrumentor",
        ),
    ),
)


@dataclass
class Switchboard:
    """Switches instrumentors on, each library once, and knows how it went."""

    provider: Callable[[], trace.TracerProvider]
    after: Callable[[Client], None]  # called when a library has been imported and instrumented
    clients: tuple[Client, ...] = CLIENTS
    instrumented: dict[str, str] = field(default_factory=dict[str, str], init=False)  # library -> instrumentor
    uninstrumented: dict[str, str] = field(default_factory=dict[str, str], init=False)  # installed library -> why not
    _watched: set[str] = field(default_factory=set[str], init=False)

    def switch_on(self) -> None:
        """Instrument what is imported already, and the rest when it is imported."""
        for client in self.clients:
            if client.name not in self._watched and is_installed(client.distribution):
                self._watched.add(client.name)
                can_be = any(map(_is_there, client.instrumentors))
                self.uninstrumented[client.name] = WAITING if can_be else NO_INSTRUMENTOR
                wrapt.register_post_import_hook(self._when_imported(client), client.module)

    def _when_imported(self, client: Client) -> Callable[[object], None]:
        def instrument(_module: object) -> None:
            try:
                self._instrument(client)
                self.after(client)
            except Exception as error:  # noqa: BLE001 - an import of the application's must not fail because of us
                self.uninstrumented[client.name] = repr(error)
                log.warning("farthing: %s is not instrumented: %r", client.name, error)

        return instrument

    def _instrument(self, client: Client) -> None:
        chosen = _switched_on_already(client) or self._switch_on_first(client)
        if chosen:
            self.instrumented[client.name] = chosen.partition(":")[0]
            self.uninstrumented.pop(client.name, None)

    def _switch_on_first(self, client: Client) -> str | None:
        for path in client.instrumentors:
            if not _is_there(path):
                continue
            try:
                instrumentor = _class(path)()
                instrumentor.instrument(tracer_provider=self.provider(), raise_exception_on_conflict=True)
            except Exception as error:  # noqa: BLE001 - a broken or mismatched family: the next one may do
                self.uninstrumented[client.name] = f"{path}: {error!r}"
                continue
            if instrumentor.is_instrumented_by_opentelemetry:
                return path
        return None


def is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _is_there(path: str) -> bool:
    """Tell whether an instrumentor is installed, without importing it."""
    try:
        return find_spec(path.partition(":")[0]) is not None
    except (ImportError, ValueError):
        return False


def _switched_on_already(client: Client) -> str | None:
    for path in (*client.instrumentors, *client.others):
        module, _, name = path.partition(":")
        # BaseInstrumentor is a singleton, and asking the class for one would run __init__ again. The class is missing
        # while an instrumentor's module is being imported and imports the client library in turn.
        instance = getattr(getattr(sys.modules.get(module), name, None), "_instance", None)
        if getattr(instance, "is_instrumented_by_opentelemetry", False):
            return path
    return None


def _class(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
