"""Changes a body as a message: fields moved, doubled, taken out, put in or renumbered, and all lengths right.

Bytes changed at random mostly break a length, and the first check refuses them; these get through to the last one.
"""
from __future__ import annotations

import random

from google.protobuf.descriptor import Descriptor
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from farthing.otlp import field_tag, varint
from tests.fuzz.oracle import SAID, TOKENS

Field = tuple[int, int, bytes]  # number, wire type, payload


def rearranged(chance: random.Random, body: bytes) -> bytes:
    """Return `body` with a few changes at random places of the tree."""
    for _ in range(chance.randint(1, 4)):
        body = _changed(chance, body, ExportTraceServiceRequest.DESCRIPTOR)
    return body


def broken(chance: random.Random, body: bytes) -> bytes:
    """Return `body` with a few bytes changed, cut out or put in."""
    made = bytearray(body)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(4):
            case 0 if at < len(made):
                made[at] ^= 1 << chance.randrange(8)
            case 1:
                made[at:at] = chance.choice(TOKENS)
            case 2:
                del made[at : at + chance.randint(1, 8)]
            case _:
                end = at + chance.randint(1, 40)
                made[end:end] = made[at:end]
    return bytes(made)


def _changed(chance: random.Random, body: bytes, descriptor: Descriptor) -> bytes:
    fields = _fields(body)
    inner = [
        (at, known.message_type)
        for at, (number, wire, _) in enumerate(fields)
        if wire == 2 and (known := descriptor.fields_by_number.get(number)) is not None and known.message_type
    ]
    if inner and chance.random() < 0.8:
        at, below = chance.choice(inner)
        number, wire, payload = fields[at]
        fields[at] = (number, wire, _changed(chance, payload, below))
    else:
        _change(chance, fields, descriptor)
    return b"".join(map(_encoded, fields))


def _change(chance: random.Random, fields: list[Field], descriptor: Descriptor) -> None:
    known = list(descriptor.fields_by_number) or [1]
    text = chance.choice((*TOKENS, SAID.encode(), b"", bytes(16), b"x" * 400))
    at = chance.randrange(len(fields)) if fields else 0
    match chance.randrange(7) if fields else 0:
        case 0:
            fields.insert(at, (chance.choice([*known, 99]), 2, text))
        case 1:
            del fields[at]
        case 2:
            fields.insert(chance.randrange(len(fields) + 1), fields[at])
        case 3:
            fields[at:at] = [fields[at]] * chance.choice((3, 13, 40))
        case 4:
            chance.shuffle(fields)
        case 5 if fields[at][1] == 2:
            fields[at] = (fields[at][0], 2, text)
        case _:
            fields[at] = (chance.choice(known), *fields[at][1:])


def _fields(body: bytes) -> list[Field]:
    """Return the fields of a message, or what can be read of them."""
    found: list[Field] = []
    at = 0
    while at < len(body):
        key, at = _varint(body, at)
        wire = key & 7
        if wire == 0:
            start, (_, at) = at, _varint(body, at)
            found.append((key >> 3, 0, body[start:at]))
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            found.append((key >> 3, wire, body[at : at + size]))
            at += size
        elif wire == 2:
            length, at = _varint(body, at)
            found.append((key >> 3, 2, body[at : at + length]))
            at += length
        else:
            break
    return found


def _varint(body: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(body) and shift < 64:
        number |= (body[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if body[at - 1] < 128:
            break
    return number, at


def _encoded(one: Field) -> bytes:
    number, wire, payload = one
    tag = field_tag(max(1, number), wire)
    return tag + varint(len(payload)) + payload if wire == 2 else tag + payload
