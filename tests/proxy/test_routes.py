"""proxy/routes.py: every route runs behind the key check, in its own API's words."""
from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from farthing.access import GRANTS
from farthing.policy.key import OPERATOR_ROUTES, ROUTES
from farthing.settings import ProxyKey, Settings
from proxy.main import Proxy
from proxy.operators import NEEDS
from proxy.routes import Route
from tests.ports import free_port
from tests.proxy.rig import deployments
from tests.roles import ROOT, Roles, roles_of

__all__ = ["roles_of"]
PATHS = {"id": "x"}


@contextmanager
def opened(settings: Settings) -> Iterator[tuple[Proxy, int]]:
    """Run a worker whose parts lie open; yield it and its port."""
    loop, sock, proxy = asyncio.new_event_loop(), socket.create_server(("127.0.0.1", 0)), Proxy(settings)
    thread = Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(proxy.open(sock), loop).result(30)
    try:
        yield proxy, sock.getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(proxy.close(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, int]]:
    away = free_port()
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("strict"), policies_port=away, collector_port=away,
        serve_without_policies=True, require_proxy_key=True, proxy_keys=(ProxyKey("of-ann"),),
        deployments=tuple(one for one in deployments(away, away) if not one.api_key_env),
    )  # fmt: skip
    with opened(settings) as made:
        yield made


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_every_route_refuses_who_has_no_key_in_the_shape_of_its_own_api(strict: tuple[Proxy, int]) -> None:
    proxy, port = strict
    routes = list(proxy.routes)
    assert len(routes) >= 8 and {route.name for route in routes} <= set(ROUTES)
    for route in routes:
        status, answer = ask(port, route.method, route.path.format(**PATHS), {"model": "own"})
        assert status == 401, route
        assert "API key is missing" in answer["error"]["message"]
        is_anthropic = answer.get("type") == "error"
        assert is_anthropic == (route.name == "messages")
        assert answer["error"]["type"] == "authentication_error"
        assert ask(port, route.method, route.path.format(**PATHS), {}, authorization="Bearer of-bob")[0] == 401


@pytest.fixture(scope="module")
def watched(roles_of: Roles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, int]]:
    """A proxy that needs keys and, to be looked at, tokens of the control API."""
    away = free_port()
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("watched"), policies_url=roles_of.url, collector_port=away,
        control_auth="tokens", control_token=ROOT, require_proxy_key=True,
        deployments=tuple(one for one in deployments(away, away) if not one.api_key_env),
    )  # fmt: skip
    with opened(settings) as made:
        yield made


def status_of(port: int, route: Route, token: str = "") -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        sent = {"authorization": f"Bearer {token}"} if token else {}
        connection.request(route.method, route.path.format(**PATHS), b"{}", sent)
        return connection.getresponse().status


def test_a_token_of_a_viewer_shows_what_tells_of_everybody_and_opens_nothing_else(
    watched: tuple[Proxy, int], roles_of: Roles
) -> None:
    proxy, port = watched
    routes = list(proxy.routes)
    assert {route.name for route in routes if route.is_operators} == set(OPERATOR_ROUTES)
    for route in routes:
        answers = {role: status_of(port, route, token) for role, token in roles_of.tokens.items()}
        may = GRANTS[NEEDS] if route.is_operators else frozenset()
        refused = 403 if route.is_operators else 401
        assert answers == {role: 200 if role in may else refused for role in answers}, route
        assert status_of(port, route) == status_of(port, route, "ftc_nonsense") == 401, route
        assert status_of(port, route, ROOT) == (200 if route.is_operators else 401), route


def test_who_may_not_look_is_told_of_both_ways(watched: tuple[Proxy, int], roles_of: Roles) -> None:
    status, answer = ask(watched[1], "GET", "/metrics")
    assert status == 401 and "--role viewer" in answer["error"]["message"]
    status, answer = ask(watched[1], "GET", "/metrics", authorization=f"Bearer {roles_of.tokens['proxy']}")
    assert status == 403 and "admin, operator, viewer" in answer["error"]["message"]


def test_on_this_machine_figures_are_shown_without_a_token_unless_the_setting_asks_for_one(tmp_path: Path) -> None:
    away = free_port()
    for number, (mode, status) in enumerate((("loopback", 200), ("tokens", 401))):
        settings = Settings(
            data_dir=tmp_path / str(number), policies_port=away, collector_port=away, serve_without_policies=True,
            deployments=(), control_auth=mode,
        )  # fmt: skip
        with opened(settings) as (_, port):
            assert ask(port, "GET", "/v1/status")[0] == status
            assert ask(port, "GET", "/v1/models")[0] == 200


def test_only_the_sign_of_life_asks_for_no_key(strict: tuple[Proxy, int]) -> None:
    assert ask(strict[1], "GET", "/healthz") == (200, {"status": "ok"})
    status, answer = ask(strict[1], "GET", "/v2/chat/completions")
    assert status == 404 and "known: POST /v1/chat/completions, " in answer["error"]["message"]


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/v1/models", 200), ("/v1/models/own", 200),
                                             ("/v1/chat/completions", 404)])  # fmt: skip
def test_head_tells_what_get_would_without_its_body(strict: tuple[Proxy, int], path: str, status: int) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", strict[1], timeout=120)) as connection:
        for _ in range(2):  # on one connection
            connection.request("HEAD", path, headers={"authorization": "Bearer of-ann"})
            response = connection.getresponse()
            assert (response.status, response.read()) == (status, b"") and int(response.headers["content-length"])


def test_a_route_cannot_be_reached_past_the_registry(strict: tuple[Proxy, int]) -> None:
    """What the server calls is the registry's own method, whose only way to a handler checks the key."""
    proxy, _ = strict
    assert proxy.routes.handle == proxy._server.handle  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(("path", "kind"), [("/v1/chat/completions", "server_error"), ("/v1/messages", "api_error")])
def test_a_defect_is_answered_in_the_shape_of_the_api_and_the_connection_goes_on(
    strict: tuple[Proxy, int], path: str, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    proxy, port = strict
    exchange = proxy.routes.exchange(path)

    async def fails(*_: object) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(exchange, "_serve", fails)
    body = {"model": "own", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
    status, answer = ask(port, "POST", path, body, authorization="Bearer of-ann")
    assert (status, answer["error"]["type"]) == (500, kind)
    assert "a defect" in caplog.text and "a defect" not in str(answer)


def test_a_good_key_is_let_through(strict: tuple[Proxy, int]) -> None:
    status, answer = ask(strict[1], "GET", "/v1/models", authorization="Bearer of-ann")
    assert status == 200 and "own" in [model["id"] for model in answer["data"]]
    assert ask(strict[1], "GET", "/v1/models/own", authorization="Bearer of-ann")[1]["id"] == "own"
    assert ask(strict[1], "GET", "/v1/models/nobody", authorization="Bearer of-ann")[0] == 404
