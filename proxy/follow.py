"""A call whose answer an identical call has under way: it gets the stream as it comes, and pays nothing."""
from __future__ import annotations

import time

from proxy.answer import STREAM_HEADERS, response_headers
from proxy.api_error import ApiError
from proxy.broadcast import Broadcast, Reader, cut_short
from proxy.call import Call
from proxy.formats import Format
from proxy.http import break_off
from proxy.http_request import Request
from proxy.ticket import Ticket
from proxy.within import Within


async def follow(call: Call, ticket: Ticket, request: Request, form: Format) -> None:
    """Give a call the stream of its ticket, from the beginning."""
    stream = ticket.stream
    assert stream is not None
    call.cache_hit = ticket.level
    left_s = max(0.0, call.limit_s - (time.time_ns() - call.started_ns) / 1e9)
    reader = stream.join(left_s)
    request.on_gone = reader.gone
    call.is_begun = True
    request.begin(200, (*STREAM_HEADERS, *response_headers(call)))
    try:
        with Within(left_s):
            await reader.give(request, call)
    except TimeoutError:
        reader.leave("late")
    finally:
        request.on_gone = None
        stream.forget(reader)
    await _end(call, ticket, stream, reader, request, form)


async def _end(call: Call, ticket: Ticket, stream: Broadcast, reader: Reader, request: Request, form: Format) -> None:
    """Say how it went; only a stream that came whole has saved what it would have cost."""
    if reader.left == "gone":
        call.fail("aborted", "client_disconnected", 499)
        return
    leader = stream.leader
    call.usage, call.reasoning_tokens = leader.usage, leader.reasoning_tokens
    call.response_id, call.finish_reason = leader.response_id, leader.finish_reason
    error = cut_short(reader, call)
    if error is None and not stream.is_whole:
        error = ApiError(502, "upstream_error", "the model's server failed in the middle of an answer that calls share")
    if error is not None:
        call.fail("error", error.code, error.status)
        await break_off(request, form.error_event(error))
        return
    request.end()
    call.is_delivered = True
    if leader.outcome == "error":  # the upstream said so in the stream
        call.fail("error", leader.error_type, leader.status)
    else:
        ticket.kept.saved[ticket.level].add(call.price, call.usage)
