"""Every setting of the platform: one table, read once at the start, passed down.

A value comes from the environment (`FARTHING_PROXY_PORT=7402`), else from the TOML file that `FARTHING_CONFIG` names
(default `farthing.toml` in the working folder, where it exists), else from the default here. A name or a value that
cannot be understood stops the start. `os.environ` is read in this module alone.
"""
from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from math import inf
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from farthing.errors import SettingsError
from farthing.settings_limits import check

PREFIX = "FARTHING_"


@dataclass(frozen=True)
class Deployment:
    """One place where a model is served; a model name may have several."""

    model: str  # the name that clients ask for
    url: str = ""  # OpenAI-compatible base URL, such as http://127.0.0.1:8000/v1; default: the bundled engine's
    provider: str = "farthing"  # who bills: `farthing` for the bundled engine, `openai`, `anthropic`, …
    api: str = ""  # openai | anthropic | azure: which API the upstream speaks; default: by provider, else openai
    upstream_model: str = ""  # the name that the upstream knows; default: `model`
    api_key_env: str = ""  # environment variable that holds the upstream's key; with _FILE added, of a file with it
    context_tokens: int = 8192  # the longest prompt plus answer, tokens; bounds a hold where max_tokens is missing
    engine: str = ""  # weights that the bundled engine serves under this name: smollm2-135m | all-minilm-l6-v2
    dtype: str = ""  # float32 | bfloat16, for the bundled engine
    connect_timeout_s: float = 5.0
    # From the request to the answer's head and to the first byte behind it: a stream's head may come long before its
    # first token. 0 = request_timeout_s
    first_byte_timeout_s: float = 0.0
    between_timeout_s: float = 0.0  # between two parts of an answer; 0 = request_timeout_s
    metered: bool = False  # a third party bills started work: drain an answer that the client no longer waits for
    name: str = ""  # what policies and rows call it; default: the model, and its number among those of the model
    weight: float = 1.0  # its share among those of its model, for strategies that weigh
    region: str = ""  # where it runs, for policies that require one
    quality: float = 1.0  # share of good answers, 0 to 1, as you measured it
    max_in_flight: int = 0  # requests at once, over all workers of a proxy, the others wait; 0 = no limit
    warm_connections: int = 0  # opened at the start of each worker and kept open
    # azure: the version of its dated API, with url = https://NAME.openai.azure.com/openai; default: its v1 API
    api_version: str = ""
    # Lines of /v1/batches go to it in batches of the provider's own, at the price of the service tier `batch`.
    provider_batches: bool = False


@dataclass(frozen=True)
class PriceOverride:
    """A price of the user's own; money in USD per million tokens, as text so that it stays exact."""

    provider: str
    model: str
    input: str
    output: str
    cache_read: str = ""  # default: as input
    cache_write: str = ""  # default: as input
    valid_from: str = "1970-01-01"  # ISO date, UTC, inclusive
    service_tier: str = ""  # flex, priority, batch, …; default: the standard one
    cache_write_1h: str = ""  # written to be kept for an hour; default: as cache_write
    input_audio: str = ""  # default: as input
    cache_audio: str = ""  # audio read from the cache; default: as cache_read, else as input_audio
    output_audio: str = ""  # default: as output
    # Prices of the whole call once its input is larger: { over = 200000, input = "6", output = "22.5", … }
    tiers: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Server:
    """Who bills the calls whose spans say all of this; `*` stands for any text, and what is empty is not asked for."""

    address: str = ""  # host of the server that the application called: gateway.internal, *.svc.cluster.local
    service: str = ""  # service.name of who sent the span
    provider: str = ""  # that the span names
    model: str = ""  # that was asked for, or that answered
    billed_by: str = "self-hosted"  # provider that the call is booked and priced under; `*` = who the span names


@dataclass(frozen=True)
class IngestKey:
    """A key that an emitter sends, and the tenant that its rows belong to."""

    key: str
    tenant: str


@dataclass(frozen=True)
class Redaction:
    """A pattern of the user's own that no stored text may show."""

    pattern: str  # regular expression of Python's `re`; what it matches becomes [redacted]


@dataclass(frozen=True)
class AlertChannel:
    """Where alerts go; policy documents name it. Addresses that are secrets come from the environment."""

    name: str
    kind: str  # email | slack | webhook | file
    to: str = ""  # email: addresses, separated by commas; file: its path
    url_env: str = ""  # slack, webhook: environment variable that holds the URL
    secret_env: str = ""  # webhook: environment variable that holds the key that bodies are signed with
    allow_private: bool = False  # slack, webhook: the URL may lead to an address inside this network
    smtp: str = "127.0.0.1:25"  # email: host:port of the mail server
    smtp_user_env: str = ""  # email: environment variables of the login; empty = none
    smtp_password_env: str = ""
    sender: str = "farthing@localhost"  # email: From


@dataclass(frozen=True)
class ProxyKey:
    """A key that clients of the proxy send as `Authorization: Bearer …`, and who they are then."""

    key: str
    tenant: str = "default"
    name: str = ""  # what policies and reports call it; never the key itself
    team: str = ""  # wins over a tag that the client sends


# The two tiers of the bundled engine: the same weights in float32 and, at half the price, in bfloat16. The prices are
# examples; what your own machine costs a token is its price an hour over the throughput of `make bench NAME=engine`.
DEFAULT_DEPLOYMENTS = (
    Deployment("smollm2-135m", engine="smollm2-135m", dtype="float32"),
    Deployment("smollm2-135m-bf16", engine="smollm2-135m", dtype="bfloat16"),
    Deployment("all-minilm-l6-v2", engine="all-minilm-l6-v2", context_tokens=512),  # embeds
)
DEFAULT_PRICES = (
    PriceOverride("farthing", "smollm2-135m", input="0.20", output="0.80"),
    PriceOverride("farthing", "smollm2-135m-bf16", input="0.10", output="0.40"),
    PriceOverride("farthing", "all-minilm-l6-v2", input="0.02", output="0"),
    # What /v1/batches are charged, which run when the engine has nothing better to do
    PriceOverride("farthing", "smollm2-135m", input="0.10", output="0.40", service_tier="batch"),
    PriceOverride("farthing", "smollm2-135m-bf16", input="0.05", output="0.20", service_tier="batch"),
    PriceOverride("farthing", "all-minilm-l6-v2", input="0.01", output="0", service_tier="batch"),
)


@dataclass(frozen=True)
class Settings:
    """The whole configuration; see each field for its meaning and unit."""

    data_dir: Path = Path("~/.farthing")  # everything that is kept lies below it
    host: str = "127.0.0.1"  # address that every part binds
    warehouse: str = ""  # clickhouse_connect DSN; default chdb://<data_dir>/warehouse
    warehouse_cluster: str = ""  # name of the ClickHouse cluster that `warehouse` is a node of; empty = a single server
    control_db: str = ""  # SQLAlchemy URL; default sqlite:///<data_dir>/control.db
    collector_port: int = 4318  # OTLP/HTTP
    collector_grpc_port: int = 4317  # OTLP/gRPC; 0 = off
    dashboard_port: int = 7300
    policies_port: int = 7301
    proxy_port: int = 7302
    engine_port: int = 7303
    analyzer_port: int = 7304
    collector_url: str = ""  # default: http://<host>:<collector_port>
    policies_url: str = ""  # default: http://<host>:<policies_port>
    proxy_url: str = ""  # default: http://<host>:<proxy_port>
    analyzer_url: str = ""  # default: http://<host>:<analyzer_port>
    dashboard_url: str = ""  # default: http://<host>:<dashboard_port>
    engine_url: str = ""  # default: http://<host>:<engine_port>
    proxy_workers: int = 1
    tenant: str = "default"  # rows of emitters without an ingest key, and of the proxy
    # Whether a sender needs one of `ingest_keys`. Unset: only where `host` is not a loopback address, and there the
    # collector does not start without keys; `false` says that the network around it is trusted, such as a container's.
    require_ingest_key: bool | None = None
    # Whether a call to the proxy needs a key: one that `farthing key create` made, or one of `proxy_keys`. Unset: where
    # `host` is not a loopback address, or there are `proxy_keys`; `false` says that the network around it is trusted.
    require_proxy_key: bool | None = None
    max_body_bytes: int = 20 * 1024 * 1024  # an OTLP body, compressed and decompressed
    body_timeout_s: float = 30.0  # seconds in which an OTLP body is to come whole; then 503, and the connection closes
    max_request_spans: int = 200_000  # spans in one OTLP body
    max_attributes: int = 128  # of a span, event, link, resource or scope; the rest is dropped and counted
    max_span_events: int = 128
    max_span_links: int = 128
    max_attribute_key_bytes: int = 256  # an attribute with a longer key is dropped and counted
    max_attribute_value_bytes: int = 64 * 1024  # of UTF-8; a longer text is cut and counted
    allowed_attributes: str = ""  # keys to store beyond semconv.CONTENT_FREE_PREFIXES: shop.order_id, shop.cart.*
    allowed_metrics: str = ""  # names to store beyond semconv.METRIC_PREFIXES: process.cpu.time, shop.queue.*
    allowed_events: str = ""  # names of log events to store beyond GenAI's and coding agents': shop.checkout, shop.ai.*
    max_request_points: int = 50_000  # data points of metrics, or log records, in one OTLP body
    store_content: bool = False  # keep prompts, answers and messages, redacted; else their lengths and hashes
    content_sample: float = 1.0  # share of traces whose content is kept, 0 to 1; all else is kept of every trace
    # Bytes of the traces' spool past which senders get 503; those of metrics and logs hold a quarter as much, each, so
    # that neither can take the room of the others.
    spool_max_bytes: int = 2 * 1024**3
    flush_interval_s: float = 1.0  # seconds between inserts into the warehouse
    keep_spans_days: int = 30  # days that spans are kept, from when they were received; 0 = for ever
    keep_requests_days: int = 400  # days that priced requests are kept, in whole months; 0 = for ever
    keep_findings_days: int = 400  # days that findings are kept, in whole months; 0 = for ever
    upkeep_interval_s: float = 5.0  # seconds between looks for calls billed twice and for hours to sum up anew
    max_request_bytes: int = 4 * 1024 * 1024  # a request to the proxy
    max_output_tokens: int = 1024  # cap set and forwarded where a request names none
    request_timeout_s: float = 120.0  # seconds a call to a deployment may take in all
    max_attempts: int = 3  # of one call, over all deployments that may serve it; only what is not charged is repeated
    breaker_failures: int = 5  # failures in a row after which a deployment is left alone for a while; 0 = never
    cache_disk_bytes: int = 1024**3  # of answers on disk, where a cache policy says `disk: true`; 0 = none
    cache_redis_url: str = ""  # redis://[:password@]host:6379/0 of a Redis or Valkey that proxies share; empty = none
    cache_redis_timeout_s: float = 0.05  # seconds that a call waits for it; then it is a miss
    hold_ttl_s: float = 600.0  # seconds after which an unsettled hold is charged in full
    # Whether a proxy that has never had a policy document (none kept on its disk, and the control plane away) serves
    # calls as if there were no budgets and no policies; false: it answers 503 until the control plane does.
    serve_without_policies: bool = False
    # Seconds of its recent burn that a proxy worker holds of a budget in advance, and gives back when it was not used
    # for so long; 0 = every call is reserved at the ledger.
    lease_s: float = 2.0
    control_auth: str = "loopback"  # who needs no token of the control API: loopback | tokens = nobody | open = all
    control_token: str = ""  # of the control API, for the parts and the command line; the API takes it as an admin's
    control_requests_per_s: float = 50.0  # of one caller of each part's API, four seconds' worth at once; 0 = no bound
    approval_usd_per_day: float = 0.0  # a change predicted to move more needs a second person; 0 = none does
    approval_share: float = 0.0  # and one that treats more of the calls otherwise, 0 to 1; 0 = none does
    guardrail_interval_s: float = 60.0  # seconds between looks at the guardrails of policies on trial; 0 = never
    reconcile_interval_s: float = 60.0  # seconds between looks for the usage of calls charged by guess; 0 = never
    # Seconds after a lost proxy worker's leases were charged in full until they are corrected to what the calls came to
    # whose spans have arrived; longer than spans may take to arrive. 0 = never.
    lease_correct_after_s: float = 3600.0
    analyze_interval_s: float = 300.0  # seconds between runs of the analyzer's jobs
    gain_interval_s: float = 3600.0  # seconds between trainings of gain models by new grades; 0 = never
    alert_interval_s: float = 60.0  # seconds between looks at the alerts; 0 = none are looked at
    report_dir: Path = Path()  # default: <data_dir>/reports
    engine_slots: int = 8  # requests that share one decode step
    engine_threads: int = 1  # torch threads
    engine_max_tokens: int = 2048  # the longest prompt plus answer, tokens
    cache_dir: Path = Path("~/.cache/farthing")  # converted weights
    hash_key: str = ""  # key of the request hashes; default: made once, kept in data_dir
    deployments: tuple[Deployment, ...] = field(default=DEFAULT_DEPLOYMENTS)
    prices: tuple[PriceOverride, ...] = field(default=DEFAULT_PRICES)
    # Servers of your own and gateways, whoever their spans name as provider; of several that fit the first one holds.
    servers: tuple[Server, ...] = ()
    ingest_keys: tuple[IngestKey, ...] = ()
    alert_channels: tuple[AlertChannel, ...] = ()
    redactions: tuple[Redaction, ...] = ()  # beside the built-in ones; each costs about 1 µs of CPU a span
    proxy_keys: tuple[ProxyKey, ...] = ()  # written by hand; `farthing key create` makes others while it runs

    @property
    def warehouse_dsn(self) -> str:
        return self.warehouse or f"chdb://{self.data_dir / 'warehouse'}"

    @property
    def control_db_url(self) -> str:
        return self.control_db or f"sqlite:///{self.data_dir / 'control.db'}"

    @property
    def reports(self) -> Path:
        return self.report_dir if self.report_dir != Path() else self.data_dir / "reports"

    def url(self, part: str) -> str:
        """Return the base URL of `part`: collector, policies, proxy, analyzer, dashboard or engine."""
        configured = getattr(self, f"{part}_url", "")
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return (configured or f"http://{host}:{getattr(self, f'{part}_port')}").rstrip("/")

    def served(self) -> tuple[Deployment, ...]:
        """Return the deployments, each with its URL."""
        return tuple(replace(one, url=(one.url or f"{self.url('engine')}/v1").rstrip("/")) for one in self.deployments)


_TABLES: dict[str, type] = {
    "deployments": Deployment,
    "prices": PriceOverride,
    "servers": Server,
    "ingest_keys": IngestKey,
    "redactions": Redaction,
    "proxy_keys": ProxyKey,
    "alert_channels": AlertChannel,
}
_PATHS = ("data_dir", "report_dir", "cache_dir")


def read_settings(
    environ: Mapping[str, str] | None = None, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Read the settings; `overrides` (the command line's) win over the environment and the file.

    Raises:
        SettingsError: a name is unknown, or a value cannot be read; the message names the key and what is allowed.
    """
    env = dict(os.environ if environ is None else environ)
    values = _from_file(env) | _from_environ(env) | dict(overrides or {})
    for name in _PATHS:
        if name in values:
            values[name] = Path(values[name]).expanduser()
    made = Settings(**values)
    expanded = {name: getattr(made, name).expanduser() for name in _PATHS}
    settings = Settings(**(values | {k: v.absolute() if str(v) != "." else v for k, v in expanded.items()}))
    check(settings)
    return settings


def secret(name: str, environ: Mapping[str, str] | None = None) -> str:
    """Return the secret that a setting names by its environment variable, or that lies in the file of `<name>_FILE`.

    Raises:
        SettingsError: neither is set, or the file cannot be read.
    """
    env = os.environ if environ is None else environ
    if env.get(name):
        return env[name]
    path = env.get(f"{name}_FILE")
    if not path:
        taken = f"its secret is taken from it, or from the file that {name}_FILE names"
        raise SettingsError(f"the environment variable {name} is not set; {taken}")
    try:
        found = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name}_FILE={path!r} cannot be read: {error}") from None
    if not found or not found.isprintable():
        raise SettingsError(f"{name}_FILE={path!r}: the file is empty or holds more than one line; write the key alone")
    return found


def child_environ(extra: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with `extra`, for a child process."""
    return {**os.environ, **extra}


def _from_environ(env: Mapping[str, str]) -> dict[str, Any]:
    known = {PREFIX + f.name.upper(): f for f in fields(Settings) if f.name not in _TABLES}
    values: dict[str, Any] = {}
    for key, text in env.items():
        if not key.startswith(PREFIX) or key in _SDK_KEYS:
            continue
        if key not in known:
            raise SettingsError(f"unknown setting {key}={text!r}; known: {', '.join(sorted(known))}")
        values[known[key].name] = _parse(key, text, known[key])
    return values


# read by farthing.auto, in the instrumented application
_SDK_KEYS = {
    PREFIX + name
    for name in ("CONFIG", "SERVICE", "API_KEY", "DISABLED", "INGEST_KEY", "ASK_USAGE", "QUEUE_SPANS")
}


@dataclass(frozen=True)
class SdkSettings:
    """What an instrumented application reads; `farthing.configure` takes the same names."""

    collector_url: str = "http://127.0.0.1:4318"
    proxy_url: str = "http://127.0.0.1:7302"
    service: str = ""  # service.name of the application
    ingest_key: str = ""
    disabled: bool = False
    ask_usage: bool = True  # have streamed answers report their tokens, without showing the application
    queue_spans: int = 2048  # spans that wait in memory for the collector; more are dropped and counted


def read_sdk_settings(environ: Mapping[str, str] | None = None) -> SdkSettings:
    """Read the SDK's settings from the environment; a bad value falls back to the default, never raises."""
    env = os.environ if environ is None else environ
    base = SdkSettings()
    return SdkSettings(
        collector_url=_http_url(env.get(PREFIX + "COLLECTOR_URL", ""), base.collector_url),
        proxy_url=_http_url(env.get(PREFIX + "PROXY_URL", ""), base.proxy_url),
        service=env.get(PREFIX + "SERVICE", "") or env.get("OTEL_SERVICE_NAME", ""),
        ingest_key=env.get(PREFIX + "INGEST_KEY", ""),
        disabled=env.get(PREFIX + "DISABLED", "").lower() in ("1", "true", "yes"),
        ask_usage=env.get(PREFIX + "ASK_USAGE", "").lower() not in ("0", "false", "no"),
        queue_spans=int(queue) if (queue := env.get(PREFIX + "QUEUE_SPANS", "")).isdecimal() and int(queue) else 2048,
    )


def _http_url(text: str, default: str) -> str:
    parts = urlsplit(text)
    return text.rstrip("/") if parts.scheme in ("http", "https") and parts.hostname else default


def _from_file(env: Mapping[str, str]) -> dict[str, Any]:
    named = env.get(PREFIX + "CONFIG", "")
    path = Path(named or "farthing.toml").expanduser()
    if not path.exists():
        if named:
            raise SettingsError(f"FARTHING_CONFIG={named!r}: there is no such file")
        return {}
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from None
    known = {f.name: f for f in fields(Settings)}
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in known:
            raise SettingsError(f"{path}: unknown setting {key} = {value!r}; known: {', '.join(sorted(known))}")
        if key in _TABLES:
            values[key] = _records(f"{path}: {key}", value, _TABLES[key])
        else:
            values[key] = _parse(f"{path}: {key}", value, known[key])
    return values


def _records(where: str, value: object, kind: type) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise SettingsError(f"{where}: write it as [[{where.rsplit(' ', 1)[-1]}]] tables, not {value!r}")
    records: list[Any] = []
    for entry in cast(list[Any], value):
        if not isinstance(entry, Mapping):
            raise SettingsError(f"{where}: {entry!r} is not a table")
        records.append(_record(where, cast(Mapping[str, Any], entry), kind))
    return tuple(records)


def _record(where: str, entry: Mapping[str, Any], kind: type) -> Any:
    known = {f.name: f for f in fields(kind)}
    for key in entry:
        if key not in known:
            raise SettingsError(f"{where}: unknown key {key} = {entry[key]!r}; known: {', '.join(known)}")
    missing = [name for name, f in known.items() if f.default is MISSING and name not in entry]
    if missing:
        raise SettingsError(f"{where}: {dict(entry)!r} lacks {', '.join(missing)}")
    return kind(**{key: _parse(f"{where}.{key}", value, known[key]) for key, value in entry.items()})


def _tables(key: str, value: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in cast(list[Any], value)):
        raise SettingsError(f"{key}={value!r}: write a list of tables, such as [{{ over = 200000, input = \"6\" }}]")
    return tuple(cast(list[Mapping[str, Any]], value))


def _parse(key: str, value: Any, setting: Field[Any]) -> Any:
    kind = setting.type
    if kind == "tuple[Mapping[str, Any], ...]":
        return _tables(key, value)
    text = str(value).strip()
    if kind in ("bool", "bool | None"):
        if text.lower() in ("1", "true", "yes", "0", "false", "no"):
            return text.lower() in ("1", "true", "yes")
        raise SettingsError(f"{key}={value!r}: allowed are true and false")
    if kind not in ("int", "float"):
        return _text(key, text, setting)
    try:
        number = int(text) if kind == "int" else float(text)
    except ValueError:
        what = "a whole number" if kind == "int" else "a number"
        raise SettingsError(f"{key}={value!r}: allowed is {what}, such as {setting.default}") from None
    if not 0 <= number < inf or (setting.name.endswith("_port") and number > 65535):
        limit = "a port from 0 to 65535" if setting.name.endswith("_port") else "0 or more"
        raise SettingsError(f"{key}={value!r}: allowed is {limit}")
    return number


def _text(key: str, text: str, setting: Field[Any]) -> str | Path:
    """Return a text or a path; an empty one would stand for any address, or for the working folder."""
    if not text and setting.default not in ("", Path(), MISSING):
        raise SettingsError(f"{key} is empty; write a value, or leave it out for the default, {setting.default}")
    if "\0" in text:
        raise SettingsError(f"{key}={text!r}: a NUL stands in it")
    return Path(text) if setting.type == "Path" else text
