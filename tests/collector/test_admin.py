"""collector/admin.py: what is no delivery is for roles of the control plane's tokens; nothing is open by accident."""
from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from collector.admin import NEEDS
from collector.main import Collector
from farthing.access import GRANTS, is_write
from farthing.http_json import call
from farthing.serving import Asgi
from farthing.settings import IngestKey, Settings
from farthing.warehouse import Warehouse
from tests.roles import Roles, roles_of

__all__ = ["roles_of"]
Serve = Callable[[Asgi], AbstractContextManager[int]]


@pytest.fixture(scope="module")
def port(
    warehouse: Warehouse, serve: Serve, roles_of: Roles, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("guarded"), ingest_keys=(IngestKey("of-a-sender", "default"),),
        control_auth="tokens", policies_url=roles_of.url, collector_grpc_port=0, require_ingest_key=True,
    )  # fmt: skip
    with serve(Collector(settings, warehouse)) as port:
        yield port


def ask(port: int, asked: tuple[str, str], **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(*asked, b"?", {name.replace("_", "-"): value for name, value in headers.items()})
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize("asked", list(NEEDS), ids=" ".join)
def test_every_route_lets_in_the_roles_that_it_names_and_nobody_else(
    port: int, roles_of: Roles, asked: tuple[str, str]
) -> None:
    statuses = {role: ask(port, asked, authorization=f"Bearer {token}") for role, token in roles_of.tokens.items()}
    let_in = {role for role, status in statuses.items() if status not in (401, 403)}
    if NEEDS[asked] == "nothing":
        assert let_in == set(roles_of.tokens) and ask(port, asked) == 200
    else:
        assert let_in == GRANTS[NEEDS[asked]]
        assert ask(port, asked) == 401
        assert ask(port, asked, authorization="Bearer ftc_nonsense") == 401


def test_a_sender_s_key_opens_prices_and_nothing_else(port: int) -> None:
    opened = {asked for asked in NEEDS if ask(port, asked, x_farthing_key="of-a-sender") not in (401, 403)}
    assert {path for _, path in opened} == {
        "/v1/prices", "/v1/prices/history", "/v1/prices/own", "/v1/prices/missing", "/v1/prices/reprice", "/healthz",
    }  # fmt: skip


def test_every_write_is_in_the_audit_with_its_caller_and_its_end(port: int, roles_of: Roles) -> None:
    asked = [one for one in NEEDS if is_write(one[0], NEEDS[one])]
    assert asked == [one for one in NEEDS if one[0] != "GET"]
    admin = {"authorization": f"Bearer {roles_of.tokens['admin']}"}
    for one in asked:
        assert ask(port, one, authorization=f"Bearer {roles_of.tokens['viewer']}") == 403
    assert ask(port, ("POST", "/v1/flush"), **admin) == 200
    assert ask(port, ("POST", "/v1/prices"), x_farthing_key="of-a-sender") == 415
    told = call("GET", f"http://127.0.0.1:{port}/v1/writes?limit=6", token=roles_of.tokens["operator"])["writes"]
    assert [(one["what"], one["who"], one["status"]) for one in reversed(told)] == [
        *((" ".join(one), "of-viewer", 403) for one in asked),
        ("POST /v1/flush", "of-admin", 200), ("POST /v1/prices", "key of default", 415),
    ]  # fmt: skip
    assert (told[0]["asked"], told[0]["note"]) == ("?", "send application/json")
    assert ask(port, ("GET", "/v1/writes?since=1"), **admin) == 400


def test_a_page_of_another_site_flushes_nothing(port: int, roles_of: Roles) -> None:
    token = {"authorization": f"Bearer {roles_of.tokens['admin']}"}
    assert ask(port, ("POST", "/v1/flush"), origin="https://evil.example", **token) == 403


def test_on_this_machine_no_token_is_needed_unless_the_setting_says_so(
    warehouse: Warehouse, serve: Serve, tmp_path: Any
) -> None:
    with serve(Collector(Settings(data_dir=tmp_path, collector_grpc_port=0), warehouse)) as open_port:
        assert ask(open_port, ("GET", "/v1/status")) == 200
        assert ask(open_port, ("GET", "/v1/status"), x_forwarded_for="10.0.0.7") == 401
        assert ask(open_port, ("POST", "/v1/prices"), x_forwarded_for="10.0.0.7") == 401
