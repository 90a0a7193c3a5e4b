"""A PostgreSQL of the machine's own package, for the tests that hold on every control database."""
from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from sqlalchemy import create_engine, text

from tests.ports import free_port

ACCOUNT = "postgres"  # PostgreSQL refuses to run as root
DEBIAN = "/usr/lib/postgresql"


def missing() -> str:
    """Return why PostgreSQL cannot be run here; empty where it can."""
    if not _tool("initdb"):
        return "PostgreSQL is not installed; run: apt-get install postgresql"
    if os.geteuid() == 0 and not _account():
        return f"PostgreSQL refuses to run as root, and there is no account {ACCOUNT!r}"
    return ""


def _tool(name: str) -> str:
    versions = sorted(Path(DEBIAN).glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(versions[-1]) if versions else "")


def _account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        return None


class Postgres:
    """One server in a folder of its own, with one database that each test begins anew."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="farthing-postgres-"))
        self._user = ACCOUNT if os.geteuid() == 0 else None
        self._port = free_port()
        self.url = f"postgresql+psycopg://{ACCOUNT}@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Make the server's files and start it."""
        account = _account()
        if self._user and account:
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        data = str(self._folder / "data")
        self._run("initdb", "-D", data, "-U", ACCOUNT, "-A", "trust", "--no-sync")
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1"
        self._run("pg_ctl", "-D", data, "-o", options, "-l", str(self._folder / "log"), "-w", "start")

    def stop(self) -> None:
        """Stop the server and remove its files."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "-w", "stop")
        shutil.rmtree(self._folder)

    def empty(self) -> None:
        """Take everything out of the database."""
        engine = create_engine(self.url)
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        engine.dispose()

    def _run(self, tool: str, *arguments: str) -> None:
        done = subprocess.run(
            [_tool(tool), *arguments], user=self._user, cwd=self._folder, text=True, check=False,
            stdout=subprocess.PIPE if tool == "initdb" else subprocess.DEVNULL, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, f"{tool}: {done.stdout}"
