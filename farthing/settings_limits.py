"""What a setting may be beyond its type: a number that something can work with, an address, a place for a folder."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from farthing.errors import SettingsError

if TYPE_CHECKING:
    from farthing.settings import IngestKey, Settings

# With 0 nothing would ever be taken, answered or written, or a loop would never rest
_ABOVE_0 = (
    "proxy_workers", "max_body_bytes", "body_timeout_s", "max_request_spans", "max_request_points", "spool_max_bytes",
    "flush_interval_s", "upkeep_interval_s", "analyze_interval_s", "max_request_bytes", "max_output_tokens",
    "request_timeout_s", "max_attempts", "hold_ttl_s", "cache_redis_timeout_s", "engine_slots", "engine_threads",
    "engine_max_tokens",
)  # fmt: skip
_URLS = ("collector_url", "policies_url", "proxy_url", "analyzer_url", "dashboard_url", "engine_url")
_WAREHOUSES = ("chdb", "clickhouse", "clickhouses", "http", "https")


def check(settings: Settings) -> None:
    """Refuse values that nothing can work with.

    Raises:
        SettingsError: names the setting and what is allowed.
    """
    for name in _ABOVE_0:
        if not getattr(settings, name):
            raise SettingsError(f"{name}=0: allowed is more than 0")
    if settings.approval_share > 1:
        raise SettingsError(f"approval_share={settings.approval_share:g}: allowed is 0 to 1, the share of the calls")
    for name in _URLS:
        if (url := getattr(settings, name)) and not _is_address(url, ("http", "https")):
            raise SettingsError(f"{name}={url!r}: write an address, such as http://10.0.0.7:7301")
    if settings.warehouse and not settings.warehouse.startswith(tuple(f"{one}://" for one in _WAREHOUSES)):
        written = "chdb:///PATH or clickhouse://USER:PASSWORD@HOST:8123/DATABASE"
        raise SettingsError(f"warehouse does not begin with {'://, '.join(_WAREHOUSES)}://; write {written}")
    _check_ingest_keys(settings.ingest_keys)
    if (taken := _file_in_the_way(settings.data_dir)) is not None:
        raise SettingsError(f"data_dir={str(settings.data_dir)!r}: {taken} is a file; name a folder")


def _check_ingest_keys(keys: Sequence[IngestKey]) -> None:
    """Refuse keys that would let in who sends none, or that cannot tell whose a body is; none is shown."""
    for at, one in enumerate(keys, 1):
        if not one.key or not one.tenant:
            what = "key" if not one.key else "tenant"
            raise SettingsError(f"ingest_keys: the {what} of entry {at} is empty; write both, or leave the entry out")
        if not one.key.isascii() or not one.key.isprintable() or " " in one.key:
            raise SettingsError(f"ingest_keys: the key of entry {at} cannot stand in a header; use ASCII, no blanks")
        if any(other.key == one.key and other.tenant != one.tenant for other in keys[: at - 1]):
            raise SettingsError(f"ingest_keys: entry {at} has the key of another tenant; each needs its own")


def _is_address(url: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number
        return False


def _file_in_the_way(folder: Path) -> Path | None:
    """Return what stands where a folder has to be, None where nothing does."""
    found = next((one for one in (folder, *folder.parents) if one.exists()), None)
    return found if found is not None and not found.is_dir() else None
