"""Screens one parsed logs request before it is spooled: which records are kept, and what of them.

Kept are events of model calls, of coding agents and of GPUs; every record is written anew from the fields that are
known here, so that nothing else can come along. A body that is more than the event's name is content.
"""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ScopeLogs

from collector.attributes import AttributeScreen
from collector.content import ContentPolicy
from collector.redact import Redactor
from collector.screen_metrics import ScreenedSignal
from farthing import semconv
from farthing.agents import AGENT_CONTENT_KEYS, AGENT_EVENT_KEYS, AGENT_EVENT_PREFIXES
from farthing.settings import Settings

OTHERS = "log records that are neither of a model call nor of a GPU"
MAX_NAME_BYTES = 255  # of an event's name
_EVENT_NAME = "event.name"
_KNOWN = (*semconv.EVENT_PREFIXES, *AGENT_EVENT_PREFIXES)
_XID = re.compile(r"NVRM: Xid \(PCI:[0-9a-fA-F:.]{4,20}\): \d{1,4}")  # the kernel's words on a GPU error, and no more
_name = re.compile(r"[A-Za-z0-9_.:/-]+")  # what an event's name may look like


class LogsScreen:
    """The rules of one collector."""

    def __init__(self, settings: Settings, content: ContentPolicy, redactor: Redactor) -> None:
        self._plain = AttributeScreen(settings, content, redactor)
        self._agents = AttributeScreen(settings, content, redactor, AGENT_EVENT_KEYS, AGENT_CONTENT_KEYS)
        self._redactor = redactor
        own = [entry.strip() for entry in settings.allowed_events.split(",") if entry.strip()]
        self._names = frozenset(entry for entry in own if not entry.endswith("*"))
        self._prefixes = (*_KNOWN, *(entry[:-1] for entry in own if entry.endswith("*")))

    def __call__(self, request: ExportLogsServiceRequest, tenant: str) -> ScreenedSignal:
        """Screen `request` in place; return its bytes and what became of its records."""
        found = ScreenedSignal()
        for one in request.resource_logs:
            one.resource.CopyFrom(self._plain.resource(one.resource, tenant, found.cuts))
            one.schema_url = self._plain.text(one.schema_url, found.cuts)
            for scope in one.scope_logs:
                self._scope(scope, tenant, found)
        request.DiscardUnknownFields()
        found.body = request.SerializeToString() if found.stored else b""
        return found

    def _scope(self, one: ScopeLogs, tenant: str, found: ScreenedSignal) -> None:
        one.scope.CopyFrom(self._plain.scope(one.scope, tenant, found.cuts))
        one.schema_url = self._plain.text(one.schema_url, found.cuts)
        kept: list[LogRecord] = []
        for record in one.log_records:
            event = self._event(record)
            if event or any(pair.key.startswith(semconv.EVENT_KEY_PREFIXES) for pair in record.attributes):
                kept.append(self._record(record, event, tenant, found.cuts))
            else:
                found.rejected[OTHERS] += 1
        del one.log_records[:]
        one.log_records.extend(kept)
        found.stored += len(kept)

    def _event(self, record: LogRecord) -> str:
        """Return the full name of an event that is kept, or ''.

        Claude Code's attribute leaves out the prefix that its body has; Codex puts a place in its code into the
        field of the name. So the first of the three that is known decides.
        """
        said = next((pair.value.string_value for pair in record.attributes if pair.key == _EVENT_NAME), "")
        for name in (record.event_name, said, record.body.string_value):
            is_known = name in self._names or name.startswith(self._prefixes)
            if is_known and len(name) <= MAX_NAME_BYTES and _name.fullmatch(name) and self._redactor.text(name) == name:
                return name
        return ""

    def _record(self, given: LogRecord, event: str, tenant: str, cuts: Counter[str]) -> LogRecord:
        screen = self._agents if event.startswith(AGENT_EVENT_PREFIXES) else self._plain
        keep = screen.is_kept(_sampled_by(given))
        made = LogRecord(
            time_unix_nano=given.time_unix_nano,
            observed_time_unix_nano=given.observed_time_unix_nano,
            severity_number=given.severity_number,
            severity_text=screen.text(given.severity_text, cuts)[:32],
            attributes=screen.attributes(given.attributes, tenant, cuts, keep),
            flags=given.flags,
            trace_id=given.trace_id if len(given.trace_id) == 16 else b"",
            span_id=given.span_id if len(given.span_id) == 8 else b"",
            event_name=event,
        )
        text, instead = self._body(given.body, event, tenant, keep, cuts)
        made.body.string_value = text
        made.attributes.extend(instead)
        return made

    def _body(
        self, body: AnyValue, event: str, tenant: str, keep: bool, cuts: Counter[str]
    ) -> tuple[str, Sequence[KeyValue]]:
        """Return the body as it is stored, and the attributes that stand in its place."""
        said = body.string_value
        if said == event or not body.WhichOneof("value"):
            return said, ()
        if keep:
            return self._plain.value_text(body, cuts), ()
        fault = _XID.search(said)
        return fault.group() if fault else "", tuple(self._plain.hidden(semconv.CONTENT_LOG_BODY, body, tenant, cuts))


def _sampled_by(record: LogRecord) -> bytes:
    """Return what decides whether a record's content is kept: its trace, else its session, else itself."""
    if len(record.trace_id) == 16:
        return record.trace_id
    sessions = (pair.value.string_value for pair in record.attributes if pair.key in semconv.ALIASES["session"])
    said = next(sessions, "").encode() or record.SerializeToString(deterministic=True)
    return blake2b(said, digest_size=16).digest()
