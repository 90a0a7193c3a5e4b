"""What stands behind a measured semantic cache: a model that answers a question with its category, and the embedder.

    python bench/semantic_upstream.py PORT

Vectors come from where `semantic_questions` keeps them, so nothing is embedded while it is measured.
"""
from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import httptools
from semantic_questions import Questions, load
from servers import free_port, process

USAGE = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}


@contextmanager
def upstream() -> Iterator[int]:
    """Run it beside the proxy; yield its port."""
    port = free_port()
    with process([sys.executable, __file__, str(port)], port, core=0):
        yield port


class Provider(asyncio.Protocol):
    """One connection."""

    def __init__(self, questions: Questions) -> None:
        self._category = dict(zip(questions.texts, questions.categories, strict=True))
        self._vectors = questions.by_text
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._url = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        asked = b"".join(self._body)
        self._body.clear()
        if self._url == b"/v1/traces":
            self._reply(200, b"")
        elif self._url == b"/v1/embeddings":
            self._reply(200, self._embedded(json.loads(asked)))
        elif self._url == b"/v1/chat/completions":
            self._reply(200, self._answered(json.loads(asked)))
        else:
            self._reply(404, b"")

    def _answered(self, asked: dict[str, Any]) -> bytes:
        message = {"role": "assistant", "content": self._category[asked["messages"][-1]["content"]]}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return json.dumps({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": asked["model"],
                           "choices": [choice], "usage": USAGE}).encode()  # fmt: skip

    def _embedded(self, asked: dict[str, Any]) -> bytes:
        vectors = [base64.b64encode(self._vectors[text].tobytes()).decode() for text in asked["input"]]
        data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
        usage = {"prompt_tokens": 10, "total_tokens": 10}
        return json.dumps({"object": "list", "model": asked["model"], "data": data, "usage": usage}).encode()

    def _reply(self, status: int, body: bytes) -> None:
        head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
        self.transport.write(head + body)  # type: ignore[attr-defined]


async def serve(port: int) -> None:
    """Serve until this process is told to end."""
    questions = load()
    server = await asyncio.get_running_loop().create_server(lambda: Provider(questions), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
