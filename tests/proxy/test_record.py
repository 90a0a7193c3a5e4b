"""proxy/record.py: each span reaches the collector once, whatever the collector does in between."""
from __future__ import annotations

import asyncio
from datetime import date

from msgspec import structs
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from farthing import semconv
from farthing.policy import CompiledDocument, Document, Facts, Policy, decide
from farthing.policy.holdout import Canary
from proxy.call import Call
from proxy.lease import Account
from proxy.record import Recorder, encode_span
from proxy.spend import Hold
from proxy.upstream import Client
from tests.proxy.test_upstream import Handler, body_of, server


def call(number: int) -> Call:
    return Call(f"req_{number}", b"t" * 16, b"s" * 8, b"", Facts("default"), asked_model=f"m{number}")


def names(body: bytes) -> list[str]:
    spans = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
    return [span.name for span in spans]


def collector(bodies: list[bytes], statuses: list[int | None]) -> Handler:
    """Take bodies and answer with `statuses` in turn, then 200; None breaks the connection off."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            bodies.append(await body_of(reader))
            status = statuses.pop(0) if statuses else 200
            if status is None:
                break
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % status)

    return serve


def sent(statuses: list[int | None]) -> tuple[list[bytes], Recorder]:
    bodies: list[bytes] = []

    async def main() -> Recorder:
        async with server(collector(bodies, statuses)) as url:
            client = Client()
            recorder = Recorder(client, url, "test")
            recorder.start()
            recorder.put(call(1))
            while statuses:
                await asyncio.sleep(0.01)
            recorder.put(call(2))
            await recorder.stop(60.0)
            client.close()
        return recorder

    return bodies, asyncio.run(main())


def test_a_batch_is_sent_again_unchanged_so_that_the_collector_knows_it() -> None:
    bodies, recorder = sent([None, 503])
    assert bodies[0] == bodies[1] and [name for body in set(bodies) for name in names(body)].count("chat m1") == 1
    assert (recorder.sent, recorder.dropped, recorder.waiting) == (2, 0, 0)


def test_a_batch_that_is_refused_for_good_is_counted_and_the_next_one_goes_on() -> None:
    bodies, recorder = sent([400])
    assert [names(body) for body in bodies] == [["chat m1"], ["chat m2"]]
    assert (recorder.sent, recorder.dropped) == (1, 1)


def test_a_collector_that_wants_a_key_gets_the_one_of_the_proxy_s_tenant() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")

    async def main() -> None:
        async with server(serve) as url:
            recorder = Recorder(Client(), url, "test", ingest_key="k1")
            recorder.start()
            recorder.put(call(1))
            await recorder.stop(60.0)

    asyncio.run(main())
    assert b"x-farthing-key: k1\r\n" in heads[0]


def test_a_span_names_the_leases_that_its_call_was_reserved_from_and_its_resource_the_worker() -> None:
    account, bodies = Account("company"), list[bytes]()
    account.lease = "company day:2026-03-01"

    async def main() -> None:
        async with server(collector(bodies, [])) as url:
            client = Client()
            recorder = Recorder(client, url, "test", instance="worker-1")
            one = call(1)
            one.hold, one.settled_nusd = Hold(one.request_id, 90, 1, (account,)), 7
            recorder.put(one)
            await recorder.stop(60.0)
            client.close()

    asyncio.run(main())
    (sent,) = ExportTraceServiceRequest.FromString(bodies[0]).resource_spans
    assert {one.key: one.value.string_value for one in sent.resource.attributes}["service.instance.id"] == "worker-1"
    (leases,) = [one.value for one in sent.scope_spans[0].spans[0].attributes if one.key == semconv.LEASES]
    assert [one.string_value for one in leases.array_value.values] == ["company day:2026-03-01"]


def test_what_cannot_be_sent_before_the_end_is_counted() -> None:
    async def main() -> Recorder:
        recorder = Recorder(Client(), "http://127.0.0.1:1", "test")
        recorder.start()
        for number in range(3):
            recorder.put(call(number))
        await recorder.stop(0.4)
        return recorder

    recorder = asyncio.run(main())
    assert (recorder.sent, recorder.dropped) == (0, 3)


def test_a_span_tells_the_side_of_each_trial_and_the_policies_in_shadow() -> None:
    one = call(1)
    policies = [
        Policy.model_validate({"name": name, "action": {"cache": {}}, "mode": mode, "priority": priority})
        for name, mode, priority in (("tried", "canary", 2), ("watched", "shadow", 1))
    ]
    policies[0] = policies[0].model_copy(update={"canary": Canary(share=1.0)})
    compiled = CompiledDocument(Document(version=4, policies=tuple(policies)))
    one.decision = decide(compiled, one.facts, date(2026, 3, 1), one.request_id)
    span = Span.FromString(encode_span(one))
    told = {entry.key: [value.string_value for value in entry.value.array_value.values] for entry in span.attributes}
    assert told["farthing.policy.arms"] == ["tried:treatment:1"] and told["farthing.policies"] == ["tried"]
    assert "farthing.policies.shadowed" not in told  # another policy goes before it
    one.decision = structs.replace(one.decision, shadowed=("watched",))
    assert b"watched" in encode_span(one)
