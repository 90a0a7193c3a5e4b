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

from requests_served import Served
from semantic_questions import Questions, load
from servers import free_port, process

USAGE = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}


@contextmanager
def upstream() -> Iterator[int]:
    """Run it beside the proxy; yield its port."""
    port = free_port()
    with process([sys.executable, __file__, str(port)], port, core=0):
        yield port


class Provider(Served):
    """One connection."""

    def __init__(self, questions: Questions) -> None:
        super().__init__()
        self._category = dict(zip(questions.texts, questions.categories, strict=True))
        self._vectors = questions.by_text

    def requested(self, url: bytes, body: bytes) -> None:
        if url == b"/v1/traces":
            self._reply(200, b"")
        elif url == b"/v1/embeddings":
            self._reply(200, self._embedded(json.loads(body)))
        elif url == b"/v1/chat/completions":
            self._reply(200, self._answered(json.loads(body)))
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
        self.write(head + body)


async def serve(port: int) -> None:
    """Serve until this process is told to end."""
    questions = load()
    server = await asyncio.get_running_loop().create_server(lambda: Provider(questions), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
