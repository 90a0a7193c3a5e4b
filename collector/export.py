"""OTLP over HTTP: reads a body within its bounds, hands it to the intake, and tells the sender what became of it."""
from __future__ import annotations

from collector.answers import JSON, PROTOBUF, RETRY_S, Outcome, Signal, failure, is_retryable, success
from collector.backup import content_type, header_map
from collector.intake import Delivery, Intake
from farthing.errors import IngestError, SpoolFullError, StalledError
from farthing.serving import Receive, Scope, Send, answer


class Export:
    """Takes deliveries for the intake of one collector."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def take(self, signal: Signal, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one body and answer its sender."""
        headers = header_map(scope)
        kind = content_type(headers)
        is_json = kind == JSON
        form = JSON if is_json else PROTOBUF
        try:
            if kind not in (PROTOBUF, JSON):
                raise IngestError(415, f"content-type {kind!r} is not supported; send {PROTOBUF} or {JSON}")
            outcome = await self._taken(signal, headers, receive, is_json)
        except StalledError as error:  # the rest of the body may still come, so nothing else can on this connection
            await self._refuse(send, error.status, str(error), form, (b"connection", b"close"))
        except IngestError as error:
            await self._refuse(send, error.status, str(error), form)
        except SpoolFullError as error:
            await self._refuse(send, 503, str(error), form)
        else:
            await answer(send, 200, success(signal, outcome, is_json), form.encode())

    async def _taken(self, signal: Signal, headers: dict[str, str], receive: Receive, is_json: bool) -> Outcome:
        intake = self._intake
        tenant = intake.tenant(headers)
        intake.admit()
        raw = await read(self._intake, receive)
        try:
            encoding = headers.get("content-encoding", "").lower()
            return await intake.take(Delivery(signal, tenant, raw, encoding, is_json))
        finally:
            intake.in_flight -= len(raw)

    async def _refuse(self, send: Send, status: int, message: str, form: str, *more: tuple[bytes, bytes]) -> None:
        """Answer with a google.rpc.Status; 503 asks for a retry in 1 s, which every OTLP SDK honours."""
        self._intake.refused(status)
        retry = ((b"retry-after", str(RETRY_S).encode()),) if is_retryable(status) else ()
        await answer(send, status, failure(status, message, form == JSON), form.encode(), (*retry, *more))


async def read(intake: Intake, receive: Receive) -> bytes:
    """Read a body; what was read counts as in flight until the caller takes it off.

    Raises:
        IngestError: it is too large, did not come whole in time, or the sender went away.
        SpoolFullError: too many bytes are being received.
    """
    limit, chunks, size = intake.settings.max_body_bytes, [], 0
    try:
        async with intake.deadline():
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise IngestError(400, "the sender went away in the middle of the body")
                chunk = message.get("body", b"")
                size += len(chunk)
                intake.in_flight += len(chunk)
                if size > limit:
                    raise IngestError(413, f"the body is larger than {limit} bytes; send smaller batches")
                chunks.append(chunk)
                if not message.get("more_body"):
                    return b"".join(chunks)
                intake.admit()
    except BaseException:  # a cancelled request gives its bytes back too
        intake.in_flight -= size
        raise
