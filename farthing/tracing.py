"""The SDK of one process: what `configure`, `flush`, `shutdown` and `status` act on.

One instance for the process, because the tracer provider, the patches of client libraries and the exit hook exist once
for the process too; configuring again changes addresses and switches and adds nothing a second time.
"""
from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from types import MappingProxyType
from urllib.parse import urlsplit

from farthing.clients import Client, Switchboard
from farthing.clients_anthropic import INSTRUMENTOR, tell_price_facts
from farthing.clients_headers import ProxyHeaders, origin_of
from farthing.clients_native import silence_native_spans
from farthing.clients_usage import UsageAsking
from farthing.errors import SettingsError
from farthing.settings import SdkSettings, read_sdk_settings
from farthing.tracing_post import Collector
from farthing.tracing_provider import Provider, Recorder
from farthing.tracing_queue import SpanQueue

EXIT_S = 1.5  # seconds that the end of the process may wait for the collector

log = logging.getLogger("farthing")


@dataclass(frozen=True)
class Status:
    """What the SDK does in this process, and what became of its spans."""

    is_active: bool
    collector_url: str
    proxy_url: str
    service: str
    instrumented: Mapping[str, str]  # client library -> module of its instrumentor
    uninstrumented: Mapping[str, str]  # installed client library -> why it has none
    waiting: int  # spans not yet delivered
    exported: int
    dropped_queue_full: int
    dropped_rejected: int
    dropped_gave_up: int
    last_error: str


class Sdk:
    """Everything that the SDK keeps in a process."""

    def __init__(self) -> None:
        self.settings: SdkSettings | None = None
        self.is_active = False
        self.queue = SpanQueue(Collector(SdkSettings().collector_url))
        self._recorder = Recorder(self.queue, EXIT_S)
        self._provider = Provider(self._recorder)
        self._headers = ProxyHeaders()
        self._usage = UsageAsking()
        self.switchboard = Switchboard(lambda: self._provider.install(""), self._hook)
        self._lock = threading.Lock()
        self._services: frozenset[str] = frozenset()  # names that spans of this process have been given

    def start(self, settings: SdkSettings) -> None:
        """Bring the process to what `settings` say."""
        with self._lock:
            if settings.disabled:
                self._stop(EXIT_S)
            else:
                self._go(settings)
            self.settings = settings

    def stop(self, timeout_s: float) -> bool:
        with self._lock:
            return self._stop(timeout_s)

    def _go(self, settings: SdkSettings) -> None:
        self.queue.max_spans = settings.queue_spans
        self.queue.exporter = Collector(
            settings.collector_url, settings.ingest_key, settings.service, self._services - {settings.service}
        )
        self._services |= {settings.service} - {""}
        self.queue.open()
        self._headers.origin = origin_of(settings.proxy_url)
        self._usage.is_active = settings.ask_usage
        self.is_active = self._recorder.is_active = True
        self._provider.install(settings.service)
        self.switchboard.switch_on()
        atexit.unregister(self._at_exit)
        atexit.register(self._at_exit)

    def _stop(self, timeout_s: float) -> bool:
        self.is_active = self._recorder.is_active = self._usage.is_active = False
        self._headers.origin = None
        return self.queue.close(timeout_s)

    def _at_exit(self) -> None:
        self.queue.close(EXIT_S)

    def _hook(self, client: Client) -> None:
        if client.base_client:
            base_client = import_module(client.base_client)
            self._headers.hook(base_client)
            if client.name in self.switchboard.instrumented:
                silence_native_spans(base_client, lambda: self._provider.is_ours)
        if client.name == "anthropic" and self.switchboard.instrumented.get(client.name) == INSTRUMENTOR:
            tell_price_facts(import_module(f"{INSTRUMENTOR}.wrappers"))
        if client.name == "openai":
            self._usage.hook(import_module("openai.resources.chat.completions"))


_sdk = Sdk()


def configure(
    *,
    collector_url: str | None = None,
    proxy_url: str | None = None,
    service: str | None = None,
    ingest_key: str | None = None,
    ask_usage: bool | None = None,
    queue_spans: int | None = None,
    disabled: bool | None = None,
    **unknown: object,
) -> None:
    """Instrument this process, or change how it is instrumented; what is not given stays as it is.

    The first call takes what is not given from the environment (`FARTHING_COLLECTOR_URL`, …), as `import farthing.auto`
    does. `proxy_url=""` stands for no proxy. The fields of `settings.SdkSettings` say what each argument means.

    Raises:
        SettingsError: an argument is unknown, or a value cannot be used; nothing was changed.
    """
    given = {
        "collector_url": collector_url,
        "proxy_url": proxy_url,
        "service": service,
        "ingest_key": ingest_key,
        "ask_usage": ask_usage,
        "queue_spans": queue_spans,
        "disabled": disabled,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    _check(chosen, unknown)
    base = _sdk.settings or read_sdk_settings()
    _sdk.start(replace(base, **chosen))  # pyright: ignore[reportArgumentType] - _check has looked at every type


def start_from_environment() -> None:
    """Do what `import farthing.auto` promises; a process that is configured already stays as it is."""
    if _sdk.settings is None:
        _sdk.start(read_sdk_settings())


def flush(timeout_s: float = 5.0) -> bool:
    """Deliver the spans that have ended so far; False if some are undelivered or lost after `timeout_s` seconds."""
    return _sdk.queue.flush(timeout_s)


def shutdown(timeout_s: float = 5.0) -> bool:
    """Deliver what is waiting within `timeout_s` seconds and stop; `configure` starts again."""
    return _sdk.stop(timeout_s)


def status() -> Status:
    """Return what is instrumented, where spans go, and how many were exported and dropped."""
    settings = _sdk.settings or SdkSettings()
    return Status(
        is_active=_sdk.is_active,
        collector_url=settings.collector_url,
        proxy_url=settings.proxy_url,
        service=settings.service,
        instrumented=MappingProxyType(dict(_sdk.switchboard.instrumented)),
        uninstrumented=MappingProxyType(dict(_sdk.switchboard.uninstrumented)),
        waiting=_sdk.queue.waiting(),
        **asdict(_sdk.queue.counts()),
    )


def _check(chosen: Mapping[str, object], unknown: Mapping[str, object]) -> None:
    known = ", ".join(f.name for f in fields(SdkSettings))
    for name, value in unknown.items():
        raise SettingsError(f"unknown argument {name}={value!r}; known: {known}")
    for name, value in chosen.items():
        if name.endswith("_url") and not (_is_url(value) or (value == "" and name == "proxy_url")):
            raise SettingsError(f"{name}={value!r}: allowed is a URL such as {getattr(SdkSettings, name)}")
        default: object = getattr(SdkSettings, name)
        if type(value) is not type(default):
            raise SettingsError(f"{name}={value!r}: allowed is a value of type {type(default).__name__}")
        if name == "queue_spans" and (not isinstance(value, int) or value < 1):
            raise SettingsError(f"queue_spans={value!r}: allowed is 1 or more")


def _is_url(value: object) -> bool:
    try:
        parts = urlsplit(value if isinstance(value, str) else "")
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number
        return False
