"""What HTTP and gRPC share: who sends, what the body holds, and the way into the spool.

Limits are checked in the order of what they cost: bytes in flight, size in both forms, span count, then the parser.
"""
from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import TypeVar

from collector.answers import SIGNALS, TRACES, Outcome, Signal
from collector.commit import GroupCommit
from collector.otlp_json import traces_from_json
from collector.receive import LARGE_BYTES, decompressed, is_large, measured
from collector.screen import Screen, Screened
from collector.screen_metrics import ScreenedSignal
from collector.signals import SignalReader, why
from farthing.access import bearer
from farthing.errors import IngestError, SettingsError, SpoolFullError, StalledError
from farthing.fingerprint import load_key
from farthing.semconv import HEADER_TENANT_KEY
from farthing.serving import is_loopback
from farthing.settings import Settings

MAX_IN_FLIGHT = 256 * 1024 * 1024  # bytes of bodies being received at once; more get 503
_AS_A_SPAN = 10  # attributes that are counted as one more span, because an insert's memory grows with both
_INLINE_BYTES = 64 * 1024  # a larger body is inflated and parsed off the event loop

_Read = TypeVar("_Read", Screened, ScreenedSignal)


@dataclass
class Counts:
    """What happened since the start; sent = accepted + rejected + refused, always."""

    bodies: int = 0
    stored: Counter[str] = field(default_factory=Counter)  # signal -> spans, data points or log records
    rejected: Counter[str] = field(default_factory=Counter)  # reason -> spans, data points or log records
    refused: Counter[int] = field(default_factory=Counter)  # HTTP status -> bodies
    stalled: int = 0  # bodies among the refused that did not come whole in time
    cuts: Counter[str] = field(default_factory=Counter)  # what was taken from stored ones, by reason


@dataclass(frozen=True)
class Delivery:
    """One OTLP body as it came."""

    signal: Signal
    tenant: str
    body: bytes
    encoding: str = ""  # content-encoding
    is_json: bool = False


class Intake:
    """Takes bodies of one collector and counts what becomes of them."""

    def __init__(self, settings: Settings) -> None:
        """Read the rules.

        Raises:
            SettingsError: the address is open to others and no keys are set, or a rule cannot be used.
        """
        self.settings = settings
        self.counts = Counts()
        self.in_flight = 0  # bytes
        self._needs_key = _needs_key(settings)
        self._screen = Screen(settings, load_key(settings.hash_key, settings.data_dir))
        self.signals = SignalReader(settings, self._screen.content, self._screen.redactor)

    def start(self, *commits: GroupCommit) -> None:
        """Take bodies for the commits of traces, metrics and logs; called on the event loop that will serve them."""
        self._commit = commits[0]
        self._commits = {signal.name: commit for signal, commit in zip(SIGNALS, commits, strict=False)}
        self._large = asyncio.Lock()
        # What a gRPC message comes to is not known before it is whole: each has room for the largest, others wait.
        self.messages = asyncio.Semaphore(max(1, MAX_IN_FLIGHT // self.settings.max_body_bytes))

    def tenant(self, headers: Mapping[str, str]) -> str:
        """Return whose key was sent; the tenant comes from the key alone, never from what a span says.

        Raises:
            IngestError: 401 for a key that is unknown or missing.
        """
        given = headers.get(HEADER_TENANT_KEY, "") or bearer(headers) or headers.get("authorization", "")
        for known in self.settings.ingest_keys:
            if compare_digest(known.key.encode(), given.encode()):
                return known.tenant
        if given and self.settings.ingest_keys:
            raise IngestError(401, f"the key in {HEADER_TENANT_KEY} is unknown; see `ingest_keys` in farthing.toml")
        if self._needs_key:
            raise IngestError(401, f"send a key in the header {HEADER_TENANT_KEY}")
        return self.settings.tenant

    def admit(self) -> None:
        """Let one more body in.

        Raises:
            SpoolFullError: too many bytes are being received.
        """
        if self.in_flight > MAX_IN_FLIGHT:
            raise SpoolFullError(f"{self.in_flight} bytes are being received; try again")

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """Bound the time in which a body comes whole.

        Raises:
            StalledError: it did not.
        """
        most = self.settings.body_timeout_s
        try:
            async with asyncio.timeout(most):
                yield
        except TimeoutError:
            self.counts.stalled += 1
            raise StalledError(503, f"the body did not come whole within {most:g} s; send smaller batches") from None

    async def take(self, delivery: Delivery) -> Outcome:
        """Store a body, or what is sound of it; returns once it is on the disk.

        Raises:
            IngestError: it is refused as a whole.
            SpoolFullError: it cannot be stored now.
        """
        if delivery.signal is not TRACES:
            outcome = await self._take_signal(delivery)
        else:
            outcome = await self._take_traces(delivery)
        self.counts.bodies += 1
        self.counts.stored[delivery.signal.name] += outcome.stored
        return outcome

    def refused(self, status: int) -> None:
        self.counts.refused[status] += 1

    async def _take_traces(self, delivery: Delivery) -> Outcome:
        if len(delivery.body) <= _INLINE_BYTES and not delivery.encoding and not delivery.is_json:
            screened = self._screened(delivery.body, delivery.tenant)
        else:
            screened = await self._aside(self._read, delivery)
        if screened.spans:
            takes = screened.spans + screened.attributes // _AS_A_SPAN
            await self._commit.put(delivery.tenant, screened.body, takes)
        self.counts.cuts += screened.cuts
        if not screened.rejected:
            return Outcome(screened.spans)
        self.counts.rejected["spans with an invalid id"] += screened.rejected
        message = f"{screened.rejected} spans have a trace id that is not 16 bytes or a span id that is not 8, or zeros"
        return Outcome(screened.spans, screened.rejected, message)

    async def _aside(self, read: Callable[[Delivery, int], _Read], delivery: Delivery) -> _Read:
        """Read off the event loop; a large body waits its turn in the form that it came in."""
        if not is_large(delivery.body, delivery.encoding):
            return await asyncio.to_thread(read, delivery, min(LARGE_BYTES, self.settings.max_body_bytes))
        async with self._large:
            return await asyncio.to_thread(read, delivery, self.settings.max_body_bytes)

    def _read(self, delivery: Delivery, max_bytes: int) -> Screened:
        body = decompressed(delivery.body, delivery.encoding, max_bytes)
        if delivery.is_json:
            body = traces_from_json(body, self.settings.max_request_spans)
        return self._screened(body, delivery.tenant)

    def _screened(self, body: bytes, tenant: str) -> Screened:
        return self._screen(body, measured(body, self.settings.max_request_spans), tenant)

    async def _take_signal(self, delivery: Delivery) -> Outcome:
        """Store what is of interest of metrics or logs, and say truthfully what was not kept."""
        found = await self._aside(self._read_signal, delivery)
        if found.stored:
            await self._commits[delivery.signal.name].put(delivery.tenant, found.body, found.stored)
        self.counts.cuts += found.cuts
        self.counts.rejected += found.rejected
        return Outcome(found.stored, found.rejected.total(), why(found))

    def _read_signal(self, delivery: Delivery, max_bytes: int) -> ScreenedSignal:
        body = decompressed(delivery.body, delivery.encoding, max_bytes)
        return self.signals.read(delivery.signal, body, delivery.is_json, delivery.tenant)


def _needs_key(settings: Settings) -> bool:
    """Tell whether a sender without a key is refused.

    Raises:
        SettingsError: nobody could send, or everybody could by oversight.
    """
    needs_key = settings.require_ingest_key
    if needs_key is None:
        needs_key = not is_loopback(settings.host)
    if needs_key and not settings.ingest_keys:
        raise SettingsError(
            f"the collector would listen on {settings.host} and has no keys: add [[ingest_keys]] to farthing.toml, "
            "or set require_ingest_key = false where only trusted senders reach that address"
        )
    return needs_key
