"""What the tests of the control plane share: a ledger with a clock of its own, and a control plane over HTTP."""
from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from farthing.policy import Budget, CompiledDocument, Document
from farthing.serving import Asgi
from farthing.settings import Settings
from policies import statement
from policies.database import open_database
from policies.ledger import Ledger
from policies.main import app
from tests.postgres import Postgres, missing

Serve = Callable[[Asgi], AbstractContextManager[int]]
NOON_NS = 1_772_366_400_000_000_000  # 2026-03-01T12:00:00Z


def document(**limits: int) -> Document:
    """`company` holds everything, `search` the search team, `soft_…` never refuses."""
    scopes: dict[str, dict[str, str]] = {"search": {"team": "search"}}
    budgets = [
        Budget.model_validate(
            {"name": name.replace("_", "-"), "limit_nusd": limit, "scope": scopes.get(name, {})}
            | {"hard": not name.startswith("soft")}
        )
        for name, limit in limits.items()
    ]
    return Document(version=1, budgets=tuple(budgets))


class Bench:
    """A ledger on a database of its own, with a clock that the test sets."""

    def __init__(self, url: str) -> None:
        self.engine: Engine = open_database(url)
        self.now_ns = NOON_NS
        self.ledgers: list[Ledger] = []
        self.document = document(company=1000, search=400)

    def open(self, **limits: int) -> Ledger:
        if limits:
            self.document = document(**limits)
        ledger = Ledger(self.engine, CompiledDocument(self.document), hold_ttl_s=60, clock_ns=lambda: self.now_ns)
        ledger.start()
        self.ledgers.append(ledger)
        return ledger

    def follow(self, ledger: Ledger, **limits: int) -> None:
        self.document = document(**limits)
        asyncio.run(ledger.exclusively(lambda: ledger.adopt(CompiledDocument(self.document))))

    def line(self, name: str) -> dict[str, Any]:
        lines = statement.budgets(self.engine, self.document, self.now_ns)
        return next(line for line in lines if line["name"] == name)

    def figures(self, name: str) -> tuple[int, int, int]:
        line = self.line(name)
        return line["spent_nusd"], line["held_nusd"], line["free_nusd"]

    def close(self) -> None:
        for ledger in self.ledgers:
            ledger.close()
        self.engine.dispose()


class Answer:
    """A response that has been read."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]


class Client:
    """Calls a control plane, one connection a call."""

    def __init__(self, port: int) -> None:
        self.port = port

    def call(self, method: str, path: str, body: str | bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, sent)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.call("GET", path, **headers)

    def apply(self, text: str, query: str = "") -> Answer:
        return self.call("POST", f"/v1/apply?{query}", text)

    def ledger(self, *operations: dict[str, Any]) -> Any:
        answer = self.call("POST", "/v1/ledger", json.dumps(operations))
        assert answer.status == 200, answer.body
        return answer.json


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The one PostgreSQL server of this run, or a skip where there is none to run."""
    if why := missing():
        pytest.skip(why)
    server = Postgres()
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def control_db(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty control database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/control.db"
    server: Postgres = request.getfixturevalue("postgres")
    server.empty()
    return server.url


@pytest.fixture
def bench(control_db: str) -> Iterator[Bench]:
    made = Bench(control_db)
    yield made
    made.close()


@pytest.fixture
def opened(serve: Serve, tmp_path: Path) -> Callable[[], AbstractContextManager[Client]]:
    @contextmanager
    def open_one() -> Iterator[Client]:
        with serve(app(Settings(data_dir=tmp_path))) as port:
            yield Client(port)

    return open_one


@pytest.fixture
def client(opened: Callable[[], AbstractContextManager[Client]]) -> Iterator[Client]:
    with opened() as one:
        yield one


@pytest.fixture(scope="module")
def shared_client(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """For requests that change nothing."""
    with serve(app(Settings(data_dir=tmp_path_factory.mktemp("shared")))) as port:
        yield Client(port)
