"""What all tests share: one warehouse (a process opens one chDB folder), and a way to serve an application."""
from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from hypothesis import HealthCheck, settings

from farthing.serving import Asgi
from farthing.warehouse import Warehouse
from tests.clickhouse_http import ClickHouse
from tests.power import Disk, powered

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
# The same examples on every machine at every time; `make proof` looks for new ones.
_patient: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", derandomize=True, **_patient)
settings.register_profile("new", **_patient)
settings.load_profile("same")

STORES = ["embedded_warehouse", "served_warehouse", "clustered_warehouse"]  # fixtures; every kind of store


@pytest.fixture(scope="session")
def embedded_warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """The one embedded warehouse of this run; tests keep apart by tenant."""
    opened = Warehouse(f"chdb://{tmp_path_factory.mktemp('warehouse') / 'store'}")
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def warehouse(embedded_warehouse: Warehouse) -> Warehouse:
    """The warehouse of this run."""
    return embedded_warehouse


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    """The one server of this run."""
    server = ClickHouse(tmp_path_factory.mktemp("clickhouse") / "store")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def served_warehouse(clickhouse: ClickHouse) -> Iterator[Warehouse]:
    """The one warehouse of this run that lies on a server."""
    opened = Warehouse(clickhouse.dsn)
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def clustered_warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """The one warehouse of this run that lies on a cluster, of one node: Distributed tables over local ones."""
    server = ClickHouse(tmp_path_factory.mktemp("cluster") / "store", cluster="one")
    server.start()
    opened = Warehouse(server.dsn, cluster="one")
    opened.migrate()
    yield opened
    opened.close()
    server.stop()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk that can lose its power, or a skip where there is no right to mount one."""
    with powered(tmp_path, megabytes=600) as made:
        yield made


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """The path of a file of real data, or a skip where this checkout has none."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"{name} is not beside this checkout; its synthetic twin has run")
        return path

    return find


@contextmanager
def served(app: Asgi) -> Iterator[int]:
    """Serve an application on a free port, lifespan included; yield the port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the application did not start"
                time.sleep(0.01)
            yield int(sock.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def serve() -> Callable[[Asgi], object]:
    """`with serve(app) as port:` serves an application on a free port."""
    return served
