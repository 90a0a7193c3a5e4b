"""What stands behind a measured proxy: a model that answers at once, and the collector that takes its spans.

    python bench/proxy_upstream.py PORT

A stream's first event comes at once and then one every 5 ms, each a write of its own, so that they do not arrive in
lumps; `seed` in the request is how many. `POST /v1/end` lets all streams under way end properly.
"""
from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from requests_served import Served
from servers import free_port, process

EVENT_EVERY_S = 0.005
USAGE = {"prompt_tokens": 200, "completion_tokens": 60, "total_tokens": 260}
END = b"POST /v1/end HTTP/1.1\r\nhost: model\r\ncontent-length: 0\r\n\r\n"


@contextmanager
def upstream() -> Iterator[int]:
    """Run it beside the load; yield its port."""
    port = free_port()
    with process([sys.executable, __file__, str(port)], port, core=0):
        yield port


def _answer() -> bytes:
    message = {"role": "assistant", "content": "Because of Rayleigh scattering. " * 8}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o",
                       "choices": [choice], "usage": USAGE}).encode()  # fmt: skip


def _event(choices: list[object], **more: object) -> bytes:
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", "choices": choices}
    event = b"data: " + json.dumps(body | more).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


WHOLE = _answer()
JSON_REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(WHOLE), WHOLE)
EMPTY_REPLY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
NO_SUCH_PAGE = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DELTA = _event([{"index": 0, "delta": {"content": " word"}, "finish_reason": None}])
FINISH = _event([{"index": 0, "delta": {}, "finish_reason": "stop"}]) + _event([], usage=USAGE)
STREAM_END = FINISH + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class Model(Served):
    """One connection; `streaming` has the events that are still to come on each."""

    def __init__(self, streaming: dict[Model, int]) -> None:
        super().__init__()
        self._streaming = streaming

    def connection_lost(self, exc: Exception | None) -> None:
        self._streaming.pop(self, None)

    def requested(self, url: bytes, body: bytes) -> None:
        if url == b"/v1/traces":
            self.write(EMPTY_REPLY)
        elif url == b"/v1/end":
            self._streaming.update(dict.fromkeys(self._streaming, 0))
            self.write(EMPTY_REPLY)
        elif url != b"/v1/chat/completions":
            self.write(NO_SUCH_PAGE)
        elif (asked := json.loads(body)).get("stream"):
            self.write(STREAM_HEAD + DELTA)
            self._streaming[self] = asked["seed"] - 1
        else:
            self.write(JSON_REPLY)


async def serve(port: int) -> None:
    """Serve until this process is told to end."""
    streaming: dict[Model, int] = {}
    await asyncio.get_running_loop().create_server(lambda: Model(streaming), "127.0.0.1", port)
    while True:
        await asyncio.sleep(EVENT_EVERY_S)
        for model, left in list(streaming.items()):
            model.write(DELTA if left > 0 else STREAM_END)
            streaming[model] = left - 1
            if left <= 0:
                del streaming[model]


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
