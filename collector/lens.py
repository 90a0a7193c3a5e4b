"""The trace request read through other schemas, so that a parser written in C counts, merges and collects.

Each lens is derived from the installed OTLP schema and reads the same bytes. Where a message is declared once, the
wire format merges all of its occurrences into one (protobuf's encoding guide, "Last One Wins"), so that a body of any
size becomes a handful of objects; where a text is declared repeated, no occurrence hides another.
[0.5 µs a span; the same walk through the ordinary classes costs 6 µs.]
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span

_MERGED, _OPAQUE, _KEYED = "one message", "bytes, each", "a map by key"
_Form = Callable[[FieldDescriptor], str]  # what a repeated message is read as
_ABOVE_SPANS = frozenset(("resource_spans", "scope_spans", "spans"))
IDS = frozenset(("trace_id", "span_id", "parent_span_id"))


def _lens(name: str, root: Descriptor, form: _Form) -> Any:
    """Return the message class that reads `root`'s bytes: texts repeated, repeated messages by `form`."""
    file = FileDescriptorProto(name=name, package=name, syntax="proto3")
    for descriptor in _reachable(root, {}).values():
        made = file.message_type.add(name=_flat(descriptor))
        for field, declared in zip(descriptor.fields, _declared(descriptor), strict=True):
            read: Any = made.field.add(name=field.name, number=field.number, label=FieldDescriptorProto.LABEL_OPTIONAL)
            inner = field.message_type
            is_repeated = declared.label == FieldDescriptorProto.LABEL_REPEATED
            kind = form(field) if inner is not None and is_repeated else _MERGED
            if kind is _KEYED:
                _declare_map(made, read, f".{name}.{made.name}")
            elif inner is not None and kind is _MERGED:
                read.type, read.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{name}.{_flat(inner)}"
            elif inner is not None or field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
                is_text = field.type == FieldDescriptor.TYPE_STRING  # which the parser then checks for being UTF-8
                read.type = FieldDescriptorProto.TYPE_STRING if is_text else FieldDescriptorProto.TYPE_BYTES
                read.label = FieldDescriptorProto.LABEL_REPEATED
            else:
                is_enum = field.type == FieldDescriptor.TYPE_ENUM
                read.type = FieldDescriptorProto.TYPE_INT32 if is_enum else field.type
                if field.containing_oneof is not None:  # so that 0 and false are seen too
                    read.proto3_optional, read.oneof_index = True, len(made.oneof_decl)
                    made.oneof_decl.add(name=f"_{field.name}")
    pool = DescriptorPool()
    pool.Add(file)  # type: ignore[attr-defined]
    return GetMessageClass(pool.FindMessageTypeByName(f"{name}.{_flat(root)}"))


def _declare_map(holder: Any, field: Any, path: str) -> None:
    """Read a repeated KeyValue as the map that it is on the wire, its values as they came."""
    entry = holder.nested_type.add(name=field.name.title().replace("_", "") + "Entry")
    entry.options.map_entry = True
    proto = FieldDescriptorProto
    for number, name, kind in (1, "key", proto.TYPE_STRING), (2, "value", proto.TYPE_BYTES):
        entry.field.add(name=name, number=number, type=kind, label=proto.LABEL_OPTIONAL)
    field.label = FieldDescriptorProto.LABEL_REPEATED
    field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f"{path}.{entry.name}"


def _reachable(descriptor: Descriptor, found: dict[str, Descriptor]) -> dict[str, Descriptor]:
    found[descriptor.full_name] = descriptor
    for field in descriptor.fields:
        if field.message_type is not None and field.message_type.full_name not in found:
            _reachable(field.message_type, found)
    return found


def _declared(descriptor: Descriptor) -> Sequence[FieldDescriptorProto]:
    """Return the fields as a schema file declares them, which reads alike in every version of the library."""
    proto = DescriptorProto()
    descriptor.CopyToProto(proto)
    return proto.field


def _flat(descriptor: Descriptor) -> str:
    return descriptor.full_name.replace(".", "_")


def _counted(field: FieldDescriptor) -> str:
    return _MERGED if field.name in _ABOVE_SPANS else _OPAQUE


def _keyed(field: FieldDescriptor) -> str:
    return _KEYED if field.message_type is KeyValue.DESCRIPTOR else _MERGED


_request = ExportTraceServiceRequest.DESCRIPTOR
Outline = _lens("outline", ScopeSpans.DESCRIPTOR, lambda field: _OPAQUE)  # the spans of one scope as bytes
Counted = _lens("counted", _request, _counted)  # how many attributes, events and links all spans have together
Keyed = _lens("keyed", _request, _keyed)  # which keys there are
Merged = _lens("merged", _request, lambda field: _MERGED)  # every text, and whether anything is unknown
Value = _lens("value", AnyValue.DESCRIPTOR, lambda field: _OPAQUE)
Pair = _lens("pair", KeyValue.DESCRIPTOR, lambda field: _OPAQUE)
Event = _lens("event", Span.Event.DESCRIPTOR, lambda field: _OPAQUE)
Link = _lens("link", Span.Link.DESCRIPTOR, lambda field: _OPAQUE)


def texts(merged: Message) -> set[bytes]:
    """Return every text below a merged message, except ids and the keys of attributes, which the keyed lens tells."""
    found: set[bytes] = set()
    waiting = [merged]
    for message in waiting:
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.append(value.value if field.name == "attributes" else value)
            elif field.type == FieldDescriptor.TYPE_STRING:
                found.update(text.encode() for text in value)
            elif field.type == FieldDescriptor.TYPE_BYTES and field.name not in IDS:
                found.update(value)
    return found


def drop_keys(merged: Message) -> None:
    """Leave out of a merged message the keys of attributes, which the keyed lens tells."""
    for field, value in merged.ListFields():
        if field.name == "attributes":
            value.ClearField("key")
        elif field.message_type is not None:
            drop_keys(value)


def has_unknown(merged: Message) -> bool:
    """Tell whether anything below a merged message is not of the schema; nobody has looked at that."""
    inner = (value for field, value in merged.ListFields() if field.message_type is not None)
    return is_unknown(merged) or any(map(has_unknown, inner))


def is_unknown(message: Message) -> bool:
    """Tell whether a message itself has a field that is not of the schema."""
    return len(UnknownFieldSet(message)) > 0
