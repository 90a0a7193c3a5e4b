"""OTLP/gRPC: the same intake behind another door.

Messages stay bytes, because the intake checks their size and their span count before anything parses them; grpcio
bounds what a compressed one may become by the same limit.
"""
from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
import grpc.aio

from collector.answers import GRPC_CODES, SIGNALS, Signal, failure, success
from collector.intake import Delivery, Intake
from farthing.errors import IngestError, ServeError, SpoolFullError
from farthing.settings import Settings

_STREAMS = 32  # calls of one connection that run at once; further ones wait at the sender
_GRACE_S = 5.0  # seconds that a call may take to end when the server stops
_STATUS = {code.value[0]: code for code in grpc.StatusCode}
_DETAILS = "grpc-status-details-bin"


async def start(settings: Settings, intake: Intake) -> grpc.aio.Server:
    """Listen on the configured port; return the running server.

    Raises:
        ServeError: the port is in use.
    """
    options = (
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_concurrent_streams", _STREAMS),
        ("grpc.http2.bdp_probe", 0),  # or megabytes of each message are taken in that nobody has asked for yet
        ("grpc.so_reuseport", 0),  # a second collector on the port must fail, not share
    )
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers(tuple(_service(signal, intake) for signal in SIGNALS))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.collector_grpc_port}"
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        raise ServeError(
            f"collector: cannot listen on {address} for OTLP/gRPC; stop the program that uses it, or set "
            "FARTHING_COLLECTOR_GRPC_PORT to a free port, or to 0 to do without"
        ) from None
    await server.start()
    return server


async def stop(server: grpc.aio.Server) -> None:
    """Let the calls in progress end, then close the port."""
    await server.stop(_GRACE_S)


def _service(signal: Signal, intake: Intake) -> grpc.GenericRpcHandler:
    async def export(bodies: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            tenant = intake.tenant(_texts(context))  # before anything is received of somebody unknown
            async with intake.deadline(), intake.messages:
                body = await anext(bodies)
            return await _taken(intake, Delivery(signal, tenant, body))
        except StopAsyncIteration:
            await _abort(context, intake, 400, "the call ended before a message came")
        except IngestError as error:
            await _abort(context, intake, error.status, str(error))
        except SpoolFullError as error:
            await _abort(context, intake, 503, str(error))

    # a unary call on the wire; as a stream it is ours from its headers on, so that its message has a deadline
    handler = grpc.stream_unary_rpc_method_handler(export)
    return grpc.method_handlers_generic_handler(signal.service, {"Export": handler})


def _texts(context: grpc.aio.ServicerContext[bytes, bytes]) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


async def _taken(intake: Intake, delivery: Delivery) -> bytes:
    intake.admit()
    intake.in_flight += len(delivery.body)
    try:
        outcome = await intake.take(delivery)
    finally:
        intake.in_flight -= len(delivery.body)
    return success(delivery.signal, outcome, is_json=False)


async def _abort(context: Any, intake: Intake, status: int, message: str) -> NoReturn:
    """End the call; a google.rpc.Status in the trailer says whether and when to try again."""
    intake.refused(status)
    details = failure(status, message, is_json=False)
    await context.abort(_STATUS[GRPC_CODES[status]], message, ((_DETAILS, details),))
    raise AssertionError("abort always raises")
