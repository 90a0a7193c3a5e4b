"""A provider's files and batches as it documents them, behind the fake upstream's port."""
from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from typing import Any

from tests.proxy.rig import Received, answer_of, in_thread, read_request, reply

Result = dict[str, Any] | None  # response or error of a line; None: it never was begun


@dataclass
class Provider:
    """OpenAI's files and batches: a batch is worked on once it is looked at, and ends when a test lets it."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)  # the newest last
    asked: list[tuple[str, str]] = field(default_factory=list)  # method and path of each request
    lines: Counter[str] = field(default_factory=Counter)  # how often each user's line was submitted
    ends_as: str = "completed"  # what becomes of a batch at its next look; in_progress: nothing
    result: Callable[[dict[str, Any]], Result] = lambda line: answered(line)
    errors: list[dict[str, Any]] = field(default_factory=list)  # of a batch that fails as a whole
    breaks_at: str = ""  # the request, before or after, at which it breaks the connection off once
    requests: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # of a batch that has no file
    stop_at: str = ""  # the request at which it answers no more: upload, before, after, look, content
    stopped: threading.Event = field(default_factory=threading.Event)  # somebody waits there

    def forget(self) -> None:
        """Be as new."""
        new = type(self)()
        for one in fields(self):
            if one.name not in ("port", "stopped"):
                setattr(self, one.name, getattr(new, one.name))
        self.stopped.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                request = await read_request(reader)
                method = "POST" if request.body else "GET"
                path = request.path.removeprefix("/v1/")
                self.asked.append((method, path))
                status, body = await self.answer(method, path.partition("?")[0], request)
                writer.write(reply(body, "content-type: application/json", status=status))
                await writer.drain()
        writer.close()
        writer.transport.abort()

    async def answer(self, method: str, path: str, request: Received) -> tuple[int, bytes]:
        if (method, path) == ("POST", "files"):
            await self._at("upload")
            return 200, _json(self._file(_content(request)))
        if (method, path) == ("POST", "batches"):
            if await self._at("before"):
                raise ConnectionError  # it never heard of it
            made = self._batch(request.json)
            await self._at("after")
            return 200, _json(made)
        if path == "batches":
            found = list(reversed(self.batches.values()))
            return 200, _json({"object": "list", "data": found, "has_more": False})
        if path.endswith("/cancel"):
            batch = self.batches[path.split("/")[1]]
            batch["status"], self.ends_as = "cancelling", "cancelled"
            return 200, _json(batch)
        if path.startswith("batches/"):
            await self._at("look")
            return 200, _json(self._worked_on(self.batches[path.split("/")[1]]))
        if path.startswith("files/"):
            await self._at("content")
            return 200, self.files[path.split("/")[1]]
        return 404, b'{"error": {"message": "unknown"}}'

    async def _at(self, step: str) -> bool:
        """Answer no more from here on, where a test said so, until it says otherwise; tell whether it did."""
        if self.breaks_at == step:
            self.breaks_at = ""
            raise ConnectionError
        was_stopped = self.stop_at == step
        while self.stop_at == step:
            self.stopped.set()
            await asyncio.sleep(0.01)
        return was_stopped

    def _file(self, content: bytes) -> dict[str, Any]:
        file_id = f"file-{len(self.files) + 1}"
        self.files[file_id] = content
        return {"id": file_id, "object": "file", "bytes": len(content), "purpose": "batch"}

    def _batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["completion_window"] == "24h" and asked["endpoint"].startswith("/v1/")
        for line in self._lines(asked["input_file_id"]):
            assert line["method"] == "POST" and line["url"] == asked["endpoint"]
            self.lines[line["body"].get("user", "")] += 1
        batch_id = f"batch_{len(self.batches) + 1}"
        self.batches[batch_id] = {
            "id": batch_id, "object": "batch", "endpoint": asked["endpoint"], "status": "validating", "errors": None,
            "input_file_id": asked["input_file_id"], "completion_window": "24h", "created_at": int(time.time()),
            "metadata": asked.get("metadata"), "output_file_id": None, "error_file_id": None,
        }  # fmt: skip
        return self.batches[batch_id]

    def _lines(self, file_id: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.files[file_id].splitlines()]

    def _worked_on(self, batch: dict[str, Any]) -> dict[str, Any]:
        if batch["status"] in ("completed", "failed", "expired", "cancelled"):
            return batch
        batch["status"] = self.ends_as
        if self.ends_as == "failed":
            batch["errors"] = {"object": "list", "data": self.errors}
        elif self.ends_as != "in_progress":
            good, bad = b"", b""
            for line in self._lines(batch["input_file_id"]):
                result = self.result(line)
                row = {"id": f"batch_req_{line['custom_id']}", "custom_id": line["custom_id"], "response": None}
                if result is None:
                    continue
                whole = json.dumps({**row, "error": None, **result}).encode() + b"\n"
                if (result.get("response") or {}).get("status_code") == 200:
                    good += whole
                else:
                    bad += whole
            batch["output_file_id"] = self._file(good)["id"] if good else None
            batch["error_file_id"] = self._file(bad)["id"] if bad else None
        return batch



@dataclass
class Claude(Provider):
    """Anthropic's Message Batches: requests come with the batch, results are lines that tell of each of them."""

    result: Callable[[dict[str, Any]], dict[str, Any]] = lambda line: message(line)  # pyright: ignore[reportIncompatibleVariableOverride] # of its own shape

    async def answer(self, method: str, path: str, request: Received) -> tuple[int, bytes]:
        assert request.headers["anthropic-version"] == "2023-06-01"
        path = path.removeprefix("messages/")
        if (method, path) == ("POST", "batches"):
            if await self._at("before"):
                raise ConnectionError  # it never heard of it
            made = self.made(request.json["requests"])
            await self._at("after")
            return 200, _json(made)
        if path == "batches":
            for batch in self.batches.values():
                self._go_on(batch)
            return 200, _json({"data": list(reversed(self.batches.values())), "has_more": False})
        batch = self.batches[path.split("/")[1]]
        if path.endswith("/cancel"):
            batch["processing_status"], self.ends_as = "canceling", "ended"
        elif path.endswith("/results"):
            await self._at("content")
            return 200, self.files[batch["id"]]
        else:
            await self._at("look")
            self._go_on(batch)
        return 200, _json(batch)

    def made(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        batch_id = f"msgbatch_{len(self.batches) + 1}"
        for one in requests:
            assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", one["custom_id"])
            self.lines[one["params"]["metadata"]["user_id"]] += 1
        now = datetime.now(timezone.utc).isoformat()
        self.batches[batch_id] = {
            "id": batch_id, "type": "message_batch", "processing_status": "in_progress", "ended_at": None,
            "request_counts": {"processing": len(requests), "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0},
            "created_at": now, "expires_at": now, "cancel_initiated_at": None, "results_url": None,
        }  # fmt: skip
        self.requests[batch_id] = requests
        return self.batches[batch_id]

    def _go_on(self, batch: dict[str, Any]) -> None:
        if batch["results_url"] is None and self.ends_as != "in_progress":
            rows = [{"custom_id": one["custom_id"], "result": self.result(one)} for one in self.requests[batch["id"]]]
            self.files[batch["id"]] = b"".join(_json(row) + b"\n" for row in reversed(rows))
            batch["processing_status"] = "ended"
            counts = Counter(row["result"]["type"] for row in rows)
            batch["request_counts"] = {"processing": 0} | dict(counts)
            batch["results_url"] = f"http://127.0.0.1:{self.port}/v1/messages/batches/{batch['id']}/results"


def answered(line: dict[str, Any]) -> Result:
    # The answer calls itself `default` in a batch too.
    body = json.loads(answer_of(line["body"].get("user", ""), service_tier="default"))
    return {"response": {"status_code": 200, "request_id": "r", "body": body}}


def message(line: dict[str, Any]) -> dict[str, Any]:
    usage = {"input_tokens": 10, "output_tokens": 5, "service_tier": "batch"}
    content = [{"type": "text", "text": line["params"]["metadata"]["user_id"]}]
    whole = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": content,
             "stop_reason": "end_turn", "stop_sequence": None, "usage": usage}  # fmt: skip
    return {"type": "succeeded", "message": whole}


def refused(message: str) -> Result:
    return {"response": {"status_code": 400, "request_id": "r", "body": {"error": {"message": message}}}}


def lapsed() -> Result:
    return {"error": {"code": "batch_expired", "message": "This request could not be executed in time."}}


def _content(request: Received) -> bytes:
    """Return the file of a form."""
    edge = re.search(r"boundary=(\S+)", request.headers["content-type"])
    assert edge is not None
    parts = [part.partition(b"\r\n\r\n") for part in request.body.split(b"--" + edge[1].encode())]
    assert any(b'name="purpose"' in head and body.strip() == b"batch" for head, _, body in parts)
    return next(body.removesuffix(b"\r\n") for head, _, body in parts if b"filename=" in head)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


@contextmanager
def providing(provider: Provider) -> Iterator[None]:
    """Run a provider."""

    def let_go() -> None:
        provider.stop_at = ""

    with in_thread(provider.serve, let_go) as provider.port:
        yield
