"""What lies behind a worker's memory: a disk, then a server that proxies share; each where a policy asks for it."""
from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from farthing.policy.caching import CacheAction
from farthing.settings import Settings
from proxy.cache import Entry
from proxy.cache_disk import DiskCache
from proxy.cache_packed import name_of, packed, unpacked
from proxy.cache_shared import SharedCache
from proxy.embedding_cache import Item

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value", Entry, Item)


class Tier(Protocol):
    """One of them."""

    async def many(self, names: Sequence[str]) -> dict[str, bytes]: ...

    def put(self, name: str, data: bytes, ttl_s: float) -> None: ...

    def drop(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class TierCounts:
    """One tier since this worker's start; what the server itself keeps and evicts is the server's to tell."""

    hits: int
    misses: int
    dropped: int  # not kept: too much waits, the disk is full, the server is away
    damaged: int
    evictions: int = 0
    entries: int = 0
    bytes: int = 0
    failures: int = 0
    is_away: bool = False


class Tiers:
    """All that this worker can reach."""

    def __init__(self, secret: bytes, disk: DiskCache | None = None, shared: SharedCache | None = None) -> None:
        self.secret = secret
        self.disk = disk
        self.shared = shared

    def start(self) -> None:
        if self.shared is not None:
            self.shared.start()

    async def close(self) -> None:
        if self.disk is not None:
            self.disk.close()
        if self.shared is not None:
            await self.shared.close()

    def counts(self) -> dict[str, TierCounts]:
        """Return what each of them has done, as far as this worker asked."""
        found: dict[str, TierCounts] = {}
        if (disk := self.disk) is not None:
            found["disk"] = TierCounts(disk.hits, disk.misses, disk.dropped, disk.damaged, disk.evictions, disk.entries,
                                       disk.bytes)  # fmt: skip
        if (shared := self.shared) is not None:
            found["shared"] = TierCounts(shared.hits, shared.misses, shared.dropped, shared.damaged,
                                         failures=shared.failures, is_away=shared.is_away)  # fmt: skip
        return found

    def has(self, action: CacheAction) -> bool:
        """Tell whether there is anything behind the memory for a policy."""
        return bool(self._of(action))

    async def find(self, keys: Sequence[Key], kind: type[Value], action: CacheAction, now: float) -> dict[Key, Value]:
        """Return the entries of `keys` that are younger than the policy allows."""
        names = {name_of(key, self.secret): key for key in keys}
        found: dict[Key, Value] = {}
        for tier in self._of(action):
            left = [name for name, key in names.items() if key not in found]
            if left:
                opened = self._opened(tier, await tier.many(left), kind)
                found |= {names[name]: value for name, value in opened if now - value.stored_at <= action.ttl_s}
        return found

    def put(self, key: object, entry: Entry | Item, action: CacheAction) -> None:
        """Keep an entry wherever the policy says; returns at once."""
        tiers = self._of(action)
        if tiers:
            name = name_of(key, self.secret)
            data = packed(entry, name, self.secret)
            for tier in tiers:
                tier.put(name, data, action.ttl_s)

    def _of(self, action: CacheAction) -> list[Tier]:
        tiers: list[Tier] = []
        if not (action.disk or action.shared):
            return tiers
        if action.disk and self.disk is not None:
            tiers.append(self.disk)
        if action.shared and self.shared is not None:
            tiers.append(self.shared)
        return tiers

    def _opened(self, tier: Tier, found: dict[str, bytes], kind: type[Value]) -> Iterator[tuple[str, Value]]:
        for name, data in found.items():
            value = unpacked(data, kind, name, self.secret)
            if value is None:
                tier.drop(name)
            else:
                yield name, value


def tiers_of(settings: Settings, secret: bytes) -> Tiers:
    """Return what the settings put behind the memory.

    Raises:
        SettingsError: the address of the shared one is none.
    """
    most = settings.cache_disk_bytes
    disk = DiskCache(settings.data_dir / "proxy" / "cache", most, settings.proxy_workers) if most else None
    url = settings.cache_redis_url
    return Tiers(secret, disk, SharedCache(url, settings.cache_redis_timeout_s) if url else None)
