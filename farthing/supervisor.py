"""`farthing up`: starts the parts as processes of their own, says when each answers, and restarts one that dies.

Children are started afresh, never forked (a fork after the store is open deadlocks), and end with this process.
"""
from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from farthing.errors import ServeError
from farthing.serving import bind
from farthing.settings import Settings, child_environ

START_S = 180.0  # seconds that a part may take to answer; the first start converts the weights
_PATIENCE_S = 3.0  # seconds after which a start that takes long is spoken of
_STOP_S = 20.0  # seconds that a part may take to end before it is killed; a proxy also the time of a call
_RESTART_S = (0.5, 1.0, 2.0, 5.0, 10.0)  # pauses before the restarts of a part that keeps dying
_STEADY_S = 30.0  # seconds after which an earlier death is forgotten

Say = Callable[[str], None]


@dataclass
class Child:
    """One process that is kept running."""

    name: str
    part: str  # what `farthing <part>` it runs
    health: str  # URL that answers 200 when it is ready
    shown: tuple[tuple[str, str], ...]  # (what, URL) lines to print
    excuse: str = "is starting"  # what to say when its start takes long
    process: subprocess.Popen[bytes] | None = None
    deaths: int = 0
    started_at: float = field(default=0.0)


class Supervisor:
    """The running platform of one machine."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], say: Say = print) -> None:
        """`environ` holds the settings of the children as FARTHING_… variables."""
        self._settings = settings
        self._environ = dict(environ)
        self._say = say
        self._logs = settings.data_dir / "logs"
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None
        self.children = _children(settings)

    def start(self) -> None:
        """Start every part and return when each answers.

        Raises:
            ServeError: a port is in use, or a part did not come up; everything is stopped again.
        """
        self._refuse_busy_ports()
        self._logs.mkdir(parents=True, exist_ok=True)
        try:
            for child in self.children:
                self._spawn(child)
            for child in self.children:
                self._wait_until_ready(child)
                for what, url in child.shown:
                    self._say(f"{what:<10} {url}")
        except BaseException:
            self.stop()
            raise
        self._watcher = threading.Thread(target=self._watch, name="farthing-supervisor", daemon=True)
        self._watcher.start()

    def wait(self) -> None:
        """Return on SIGINT or SIGTERM."""
        received = threading.Event()

        def stop(number: int, frame: FrameType | None) -> None:
            received.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        while not received.wait(0.5):
            pass

    def stop(self) -> None:
        """End the parts: those that send first, those that keep what was sent last."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
        for child in self.children:
            if child.part == "proxy" and child.process is not None and child.process.poll() is None:
                child.process.terminate()  # all of them end their calls at the same time
        for child in reversed(self.children):
            self._end(child)

    def _spawn(self, child: Child) -> None:
        with (self._logs / f"{child.name}.log").open("ab") as log:
            child.process = subprocess.Popen(
                [sys.executable, "-m", "farthing", child.part, "--parent", str(os.getpid())],
                env=child_environ(self._environ),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the parts in order
            )
        child.started_at = time.monotonic()

    def _wait_until_ready(self, child: Child) -> None:
        began, is_told = time.monotonic(), False
        while time.monotonic() < began + START_S:
            if not is_told and time.monotonic() > began + _PATIENCE_S:
                is_told = True
                self._say(f"{child.name:<10} {child.excuse} …")
            if child.process is not None and child.process.poll() is not None:
                code = child.process.returncode
                raise ServeError(f"{child.name}: ended with exit code {code}: {self._last_words(child)}")
            if is_ready(child.health):
                return
            time.sleep(0.05)
        raise ServeError(f"{child.name}: no answer from {child.health} within {START_S:g} s; see {self._log_of(child)}")

    def _watch(self) -> None:
        while not self._stopping.wait(0.2):
            for child in self.children:
                if child.process is not None and child.process.poll() is not None:
                    self._revive(child)

    def _revive(self, child: Child) -> None:
        assert child.process is not None
        if time.monotonic() - child.started_at > _STEADY_S:
            child.deaths = 0
        pause = _RESTART_S[min(child.deaths, len(_RESTART_S) - 1)]
        child.deaths += 1
        code = child.process.returncode
        self._say(f"{child.name} died (exit code {code}), restarting in {pause:g} s; see {self._log_of(child)}")
        if not self._stopping.wait(pause):
            self._spawn(child)

    def _end(self, child: Child) -> None:
        process = child.process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            self._wait_for_end(child, process)
        except subprocess.TimeoutExpired:
            self._say(f"{child.name} does not end, killing it")
            process.kill()
            process.wait()

    def _wait_for_end(self, child: Child, process: subprocess.Popen[bytes]) -> None:
        """Wait as long as a part may take; a proxy cuts no call off."""
        if child.part != "proxy":
            process.wait(_STOP_S)
            return
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            most_s = self._settings.request_timeout_s + _STOP_S
            self._say(f"{child.name} lets its last calls end, which takes {most_s:g} s at most")
            process.wait(most_s)

    def _refuse_busy_ports(self) -> None:
        settings = self._settings
        for part in ("collector", "analyzer", "dashboard", "policies", "proxy", "engine"):
            bind(part, settings.host, getattr(settings, f"{part}_port")).close()

    def _log_of(self, child: Child) -> Path:
        return self._logs / f"{child.name}.log"

    def _last_words(self, child: Child) -> str:
        lines = self._log_of(child).read_text("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def _children(settings: Settings) -> list[Child]:
    def shown(*parts: str) -> tuple[tuple[str, str], ...]:
        return tuple((part, settings.url(part)) for part in parts)

    def health(part: str) -> str:
        return f"{settings.url(part)}/healthz"

    children = [
        Child("control", "policies", health("policies"), shown("policies")),
        Child("station", "station", health("analyzer"), shown("collector", "analyzer", "dashboard")),
    ]
    if any(deployment.engine for deployment in settings.deployments):
        excuse = "is loading; the very first start converts its weights"
        children.append(Child("engine", "engine", health("engine"), shown("engine"), excuse))
    proxy_url = (("proxy", f"{settings.url('proxy')}/v1"),)
    for number in range(max(1, settings.proxy_workers)):
        name = "proxy" if number == 0 else f"proxy-{number + 1}"
        children.append(Child(name, "proxy", health("proxy"), proxy_url if number == 0 else ()))
    return children


def is_ready(url: str) -> bool:
    """Tell whether `url` answers 200."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=2)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
