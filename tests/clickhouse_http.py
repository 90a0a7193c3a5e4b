"""A ClickHouse server for tests: the HTTP protocol over chDB, in a process of its own; the real client talks to it.

Run as a program it serves one folder on one port until it is killed; `ClickHouse` starts and kills it. What the
protocol asks (https://clickhouse.com/docs/interfaces/http): the query in the URL or the body, settings and `param_…` in
the URL, an insert's data behind its query, bodies compressed as Content-Encoding says, errors as a status with
X-ClickHouse-Exception-Code, X-ClickHouse-Summary, and sessions.
"""
from __future__ import annotations

import argparse
import contextlib
import gzip
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.ports import free_port

_TRANSPORT = {  # of the protocol, not settings of the engine
    "query", "database", "user", "password", "session_id", "session_timeout", "session_check", "query_id", "quota_key",
    "compress", "decompress", "enable_http_compression", "wait_end_of_query", "buffer_size", "client_protocol_version",
    "send_progress_in_http_headers", "http_headers_progress_interval_ms", "default_format", "role",
}  # fmt: skip
_ANY_PORT = 9000  # by which the node knows itself; nothing listens there
_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*\Z", re.IGNORECASE)
_INSERT = re.compile(r"\s*INSERT\s+INTO\b", re.IGNORECASE)
_CODE = re.compile(r"Code: (\d+)\b")
_CLUSTER = """<clickhouse>
    <tcp_port>{port}</tcp_port>
    <macros><shard>1</shard><replica>1</replica></macros>
    <remote_servers><{name}><shard>
        <replica><host>127.0.0.1</host><port>{port}</port></replica>
    </shard></{name}></remote_servers>
</clickhouse>
"""
_STATUS = {60: 404, 62: 400, 47: 400, 115: 400, 193: 403, 241: 500, 516: 401}


class Engine:
    """The one chDB engine of this process; every request has a handle of its own, as it has a context on a server."""

    def __init__(self, path: str, cluster: str) -> None:
        import chdb

        self._cluster = cluster
        where = path
        if cluster:
            config = Path(f"{path}.xml")
            config.write_text(_CLUSTER.format(name=cluster, port=_ANY_PORT), "utf-8")
            where = f"{path}?config-file={config}"
        self._connect = lambda: chdb.connect(where)
        self._held = self._connect()
        self._sessions: dict[str, Any] = {}

    def run(self, statement: str, data: bytes | None, asked: dict[str, str]) -> tuple[bytes, str]:
        """Return the answer's bytes and their format."""
        if self._cluster:
            statement = _on_one_node(statement)
        session = asked.get("session_id", "")
        handle = self._sessions.get(session) or self._connect()
        if session:
            self._sessions[session] = handle
        try:
            for key, value in asked.items():
                if key not in _TRANSPORT and not key.startswith("param_"):
                    handle.query(f"SET {key} = {_quoted(value)}")
            if asked.get("database"):
                handle.query(f"USE `{asked['database']}`")
            values = {key[6:]: value for key, value in asked.items() if key.startswith("param_")}
            return self._answer(handle, statement, data, values, asked.get("default_format", "TabSeparated"))
        finally:
            if not session:
                handle.close()

    def _answer(
        self, handle: Any, statement: str, data: bytes | None, values: dict[str, str], form: str
    ) -> tuple[bytes, str]:
        named = _FORMAT.search(statement)
        if _INSERT.match(statement) and data is not None:
            with tempfile.NamedTemporaryFile() as file:
                file.write(data)
                file.flush()
                head = statement[: named.start()] if named else statement
                kind = named.group(1) if named else "Values"
                inserting, _, settings = head.partition(" SETTINGS ")
                tail = f" SETTINGS {settings}" if settings else ""
                handle.query(f"{inserting} FROM INFILE {_quoted(file.name)}{tail} FORMAT {kind}", params=values)
            return b"", form
        if named:
            statement, form = statement[: named.start()], named.group(1)
        return handle.query(statement, form, params=values).bytes(), form


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    engine: Engine

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        if self.path.startswith("/ping"):
            self._reply(200, b"Ok.\n", {})
        else:
            self._query(b"")

    def do_POST(self) -> None:
        self._query(self._body())

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            raw = b"".join(chunks)
        else:
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        return _decoded(raw, self.headers.get("content-encoding", ""))

    def _query(self, body: bytes) -> None:
        asked = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        if self.headers.get("content-type", "").startswith("multipart/"):  # as the client sends many or long parameters
            asked |= _form(body, self.headers["content-type"])
            body = b""
        if "query" in asked:
            statement, data = asked["query"], body or None
        else:
            statement, data = _split(body)
        query_id = asked.get("query_id") or str(uuid.uuid4())
        headers = {"X-ClickHouse-Query-Id": query_id, "X-ClickHouse-Timezone": "UTC"}
        try:
            answer, form = self.engine.run(statement, data, asked)
        except Exception as error:  # noqa: BLE001 - whatever the engine says is the answer
            self._fail(str(error), headers)
            return
        headers["X-ClickHouse-Format"] = form
        headers["X-ClickHouse-Summary"] = json.dumps({"read_rows": "0", "written_rows": "0", "result_rows": "0"})
        if asked.get("enable_http_compression") == "1" and "gzip" in self.headers.get("accept-encoding", ""):
            answer = gzip.compress(answer, 1)
            headers["Content-Encoding"] = "gzip"
        self._reply(200, answer, headers)

    def _fail(self, message: str, headers: dict[str, str]) -> None:
        found = _CODE.search(message)
        code = int(found.group(1)) if found else 1002
        said = message[found.start() :] if found else f"Code: 1002. DB::Exception: {message}"
        self._reply(_STATUS.get(code, 500), said.encode(), {**headers, "X-ClickHouse-Exception-Code": str(code)})

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _on_one_node(statement: str) -> str:
    """Run for a cluster of this one node what chDB cannot: it has no queue for ON CLUSTER and no replication."""
    if re.search(r" ON CLUSTER \w+", statement) is None and "Replicated" not in statement:
        return statement
    statement = re.sub(r" ON CLUSTER \w+", "", statement, count=1)
    statement = re.sub(r"\bReplicated(\w*MergeTree)\('[^']*', '[^']*'(?:, )?", r"\1(", statement, count=1)
    statement = re.sub(r", replicated_deduplication_window_seconds = \d+", "", statement)
    return re.sub(r"\breplicated_deduplication_window\b", "non_replicated_deduplication_window", statement)


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _split(body: bytes) -> tuple[str, bytes | None]:
    """Cut a body into the query and, behind the format's name of an insert, its data."""
    match = re.match(rb"\s*INSERT\s+INTO\b.*?\bFORMAT\s+\w+\s*?\n", body, re.IGNORECASE | re.DOTALL)
    if match is None:
        return body.decode(), None
    return match.group(0).decode().rstrip(), body[match.end() :]


def _form(body: bytes, content_type: str) -> dict[str, str]:
    """Return the fields of a form."""
    message = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    found: dict[str, str] = {}
    for part in message.get_payload():
        assert isinstance(part, Message)
        name, value = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        assert isinstance(value, bytes)
        found[str(name)] = value.decode()
    return found


def _decoded(raw: bytes, encoding: str) -> bytes:
    if encoding in ("", "identity"):
        return raw
    if encoding == "gzip":
        return gzip.decompress(raw)
    if encoding == "zstd":
        from backports import zstd

        return zstd.decompress(raw)
    if encoding == "lz4":
        import lz4.frame

        return lz4.frame.decompress(raw)
    raise NotImplementedError(encoding)


class ClickHouse:
    """The server as tests handle it: the same port and folder through every start."""

    def __init__(self, folder: Path, cluster: str = "") -> None:
        self.folder = folder
        self.cluster = cluster
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        return f"http://127.0.0.1:{self.port}/default"

    def start(self) -> None:
        """Start it and return once it answers."""
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--path", str(self.folder), "--port", str(self.port), "--cluster", self.cluster],
            cwd=self.folder.parent,  # where it caches the schemas that come with an insert
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        )
        for _ in range(2400):
            assert self._process.poll() is None, "the server did not start"
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                connection.request("GET", "/ping")
                connection.getresponse().read()
                connection.close()
                return
            time.sleep(0.05)
        raise AssertionError("the server does not answer")

    def kill(self) -> None:
        """End it at once, as a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--path", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cluster", default="")
    given = parser.parse_args()
    Handler.engine = Engine(given.path, given.cluster)

    class Server(ThreadingHTTPServer):
        allow_reuse_address = True
        daemon_threads = True
        request_queue_size = 64

    Server(("127.0.0.1", given.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
