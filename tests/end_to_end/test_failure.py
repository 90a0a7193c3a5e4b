"""What happens to money and spans when a part dies."""
from __future__ import annotations

import http.client
import os
import signal
import threading
import time
import uuid

import pytest

from farthing import otlp, semconv
from tests.end_to_end.conftest import Platform
from tests.end_to_end.test_journey import ask, client, team
from tests.until import until

SPANS = 50  # in one body


def body(name: str) -> bytes:
    attributes = otlp.attributes([
        (semconv.OPERATION_NAME, "chat"), (semconv.PROVIDER_NAME, "openai"), (semconv.REQUEST_MODEL, "gpt-4o-mini"),
        (semconv.USAGE_INPUT_TOKENS, 10), (semconv.USAGE_OUTPUT_TOKENS, 1), (semconv.TEAM, name),
    ])  # fmt: skip
    started = time.time_ns()
    spans = [
        otlp.span(uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b"", "chat", (started, started + 1), attributes)
        for _ in range(SPANS)
    ]
    return otlp.traces([("service.name", "shop")], "test", "1", spans)


class Sender(threading.Thread):
    """Sends bodies one after another, each until it is acknowledged, as an OTLP exporter does."""

    def __init__(self, port: int, name: str, stop: threading.Event) -> None:
        super().__init__()
        self.port, self.team, self.ended = port, name, stop
        self.acknowledged = 0

    def run(self) -> None:
        while not self.ended.is_set():
            one = body(self.team)
            while not self._post(one):
                time.sleep(0.02)
            self.acknowledged += 1

    def _post(self, one: bytes) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request("POST", "/v1/traces", one, {"content-type": "application/x-protobuf"})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@pytest.mark.parametrize(
    "bodies",  # acknowledged before each SIGKILL
    [
        pytest.param((10, 25), id="2 kills"),
        pytest.param(tuple(range(5, 75, 5)), id="14 kills", marks=pytest.mark.proof),
    ],
)
def test_a_station_killed_while_it_ingests_loses_and_doubles_nothing(
    platform: Platform, bodies: tuple[int, ...]
) -> None:
    name, stop = team(), threading.Event()
    senders = [Sender(platform.ports["collector"], name, stop) for _ in range(3)]
    for sender in senders:
        sender.start()

    def takes(count: int) -> None:
        enough = sum(sender.acknowledged for sender in senders) + count
        until(lambda: sum(sender.acknowledged for sender in senders) >= enough, "the station takes bodies")

    for count in bodies:
        takes(count)
        os.kill(platform.pid_of("station"), signal.SIGKILL)
        until(lambda: _is_up(platform), "the station is back")
    takes(5)
    stop.set()
    for sender in senders:
        sender.join()
    platform.post("collector", "/v1/flush")
    sent = sum(sender.acknowledged for sender in senders)
    assert platform.totals(name)["requests"] == sent * SPANS
    assert any("station died" in line for line in platform.lines)


def _is_up(platform: Platform) -> bool:
    try:
        platform.get("analyzer", "/healthz")
        return platform.get("collector", "/healthz")["status"] == "ok"
    except Exception:  # noqa: BLE001 - whatever it is, it is not up yet
        return False


def test_a_killed_proxy_comes_back_with_its_policies_and_frees_no_money_by_accident(platform: Platform) -> None:
    name = team()
    version = platform.apply(
        f"apiVersion: farthing/v1\nkind: Budget\nmetadata: {{name: {name}}}\nscope: {{team: {name}}}\nlimit: 1 USD\n"
    )
    platform.until_applied(version)
    asking = threading.Thread(target=_try_long_call, args=(platform, name))
    asking.start()
    until(lambda: platform.budget(name)["held_nusd"] > 0, "the call is reserved")
    os.kill(platform.pid_of("proxy"), signal.SIGKILL)
    asking.join()
    # Nobody settled: the hold stays until it expires, it is not given back.
    assert platform.budget(name)["held_nusd"] > 0
    until(lambda: _answers(platform, name), "the proxy serves again")
    assert platform.get("proxy", "/v1/status")["policy_version"] >= version


def _try_long_call(platform: Platform, name: str) -> None:
    try:
        with client(platform, name, max_retries=0) as asking:
            ask(asking, "Write a long story about the sea.", max_tokens=400)
    except Exception:  # noqa: BLE001 - the connection is cut under it, which is the point
        return


def _answers(platform: Platform, name: str) -> bool:
    try:
        with client(platform, name, max_retries=0) as asking:
            return bool(ask(asking, "Say yes.").choices)
    except Exception:  # noqa: BLE001 - not up yet
        return False
