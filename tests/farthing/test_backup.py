"""farthing/backup.py and restore.py: what comes back is what was there, to the nano-dollar, or nothing comes back."""
from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from farthing import cli_backup
from farthing.audit import Audit
from tests.clickhouse_http import ClickHouse
from tests.conftest import REPOSITORY
from tests.until import until

SEED = """
import sys
from datetime import datetime, timedelta, timezone
from farthing.settings import read_settings
from farthing.testing import realistic_requests, seed_requests
from farthing.warehouse import Warehouse
until = datetime(2026, 11, 20, tzinfo=timezone.utc)
warehouse = Warehouse(read_settings().warehouse_dsn)
warehouse.migrate()
seed_requests(warehouse, realistic_requests(int(sys.argv[1]), until - timedelta(days=40), until), tenant="default")
columns = ("found_at", "run_id", "tenant", "kind", "subject", "title", "since", "until", "cost_usd")
warehouse.insert("findings", columns, [(until, "r1", "default", "cost_driver", "m", "t", until, until, "0.000000001")])
warehouse.close()
"""
ANSWERS = """
import json
from datetime import datetime, timedelta, timezone
from farthing.settings import read_settings
from farthing.warehouse import Warehouse, sql
until = datetime(2100, 1, 1, tzinfo=timezone.utc)
values = {"since": datetime(2026, 1, 1, tzinfo=timezone.utc), "until": until, "teams": [], "models": [], "limit": 1000,
          "step": 86400, "tz": "Europe/Berlin", "request_id": "r", "run_id": "r1",
          "name": "gen_ai.client.token.usage", "services": [], "grade": "right", "weak": "w", "strong": "s",
          "measure": "latency", "most": 1.0, "ages_s": [3600], "request_ids": ["r"],
          "tag_names": [], "tag_likes": [], **dict.fromkeys(("users", "features", "keys"), [])}
warehouse = Warehouse(read_settings().warehouse_dsn, repair=False)
warehouse.migrate()
names = [name[:-4] for name in sql.names("queries")]
answers = {name: sorted(map(str, warehouse.ask(name, tenant="default", part="test", **values))) for name in names}
warehouse.close()
print(json.dumps(answers))
"""


def python(home: Path, *arguments: str, fails: bool = False, warehouse: str = "") -> str:
    """Run a program in a process of its own, because a process opens one chDB folder."""
    nobody = {"FARTHING_COLLECTOR_PORT": "1", "FARTHING_POLICIES_PORT": "1"}
    environ = {**os.environ, **nobody, "FARTHING_DATA_DIR": str(home), "FARTHING_WAREHOUSE": warehouse}
    ran = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environ, cwd=REPOSITORY, timeout=300
    )
    assert (ran.returncode != 0) == fails, ran.stdout + ran.stderr
    return ran.stderr if fails else ran.stdout


def farthing(home: Path, *arguments: str, fails: bool = False, warehouse: str = "") -> str:
    return python(home, "-m", "farthing", *arguments, fails=fails, warehouse=warehouse)


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A home with rows, and a backup of it."""
    home = tmp_path_factory.mktemp("home") / "data"
    python(home, "-c", SEED, "5000")
    (home / "hash.key").write_bytes(b"k" * 32)
    (home / "spool").mkdir()
    (home / "spool" / "0000000000000000001-00000000.otlp").write_bytes(b"")
    target = home.parent / "backup"
    said = farthing(home, "backup", str(target))
    assert re.search(r"requests +5000 rows  checksum +\d+  \d+\.\d+ USD", said)
    assert "control database" in said  # there is none in this home, and it says so
    return home, target


@pytest.fixture(scope="module")
def before(backup: tuple[Path, Path]) -> str:
    """The answers of the home that the backup is of."""
    return python(backup[0], "-c", ANSWERS)


def test_a_restored_home_gives_the_same_answer_to_every_question_and_takes_spans(
    backup: tuple[Path, Path], before: str, tmp_path: Path
) -> None:
    farthing(tmp_path / "fresh", "restore", str(backup[1]))
    after = python(tmp_path / "fresh", "-c", ANSWERS)
    assert json.loads(before)["totals"][0].startswith("{'requests': 5000, 'cost_usd': Decimal('12.")
    assert after == before
    assert (tmp_path / "fresh" / "hash.key").read_bytes() == b"k" * 32
    takes_spans_and_prices_them(backup, tmp_path)


def takes_spans_and_prices_them(backup: tuple[Path, Path], tmp_path: Path) -> None:
    """The restored store goes on as the other would have."""
    python(tmp_path / "fresh", "-c", SEED.replace('tenant="default"', 'tenant="other"'), "300")
    manifest = json.loads((backup[1] / "manifest.json").read_text())
    farthing(tmp_path / "fresh", "backup", str(tmp_path / "second"))
    again = json.loads((tmp_path / "second" / "manifest.json").read_text())
    rows = [{t["name"]: t["content"]["rows"] for t in one["tables"]} for one in (manifest, again)]
    assert rows[1]["requests"] - rows[0]["requests"] == 300
    assert rows[1]["otel_traces"] - rows[0]["otel_traces"] == 300


@pytest.mark.parametrize("name", ["manifest.json", "hash.key", "warehouse/requests/202610.native.zst"])
def test_a_flipped_byte_is_refused_with_the_name_of_the_file(
    name: str, backup: tuple[Path, Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(backup[1], tmp_path / "copy")
    path = copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    said = farthing(tmp_path / "fresh", "restore", str(copy), fails=True)
    assert f"{path} is not what was written; nothing was restored" in said
    assert not (tmp_path / "fresh" / "warehouse").exists()


def test_a_file_that_is_missing_and_a_folder_that_is_no_backup_are_refused(
    backup: tuple[Path, Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(backup[1], tmp_path / "copy")
    (copy / "hash.key").unlink()
    assert "hash.key is missing from the backup" in farthing(tmp_path / "a", "restore", str(copy), fails=True)
    (copy / "manifest.json").unlink()
    assert "is no whole backup" in farthing(tmp_path / "a", "restore", str(copy), fails=True)


def test_rows_that_come_out_different_leave_the_home_as_it_was(backup: tuple[Path, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(backup[1], tmp_path / "copy")
    document = json.loads((copy / "manifest.json").read_text())
    requests = next(table for table in document["tables"] if table["name"] == "requests")
    requests["content"]["cost_usd"] = "1"
    from farthing import manifest

    (copy / "manifest.json").unlink()
    (copy / "manifest.json.sha256").unlink()
    manifest.write(copy, {key: value for key, value in document.items() if key not in ("format", "files")})
    said = farthing(tmp_path / "fresh", "restore", str(copy), fails=True)
    assert "requests holds Content(rows=5000" in said and "cost_usd='1'" in said
    assert list((tmp_path / "fresh").iterdir()) == []


def test_a_home_with_rows_is_refused_unless_told_and_then_moved_aside(
    backup: tuple[Path, Path], before: str, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    python(home, "-c", SEED, "10")
    assert "is there already" in farthing(home, "restore", str(backup[1]), fails=True)
    farthing(home, "restore", str(backup[1]), "--replace")
    assert len(list(home.glob("warehouse.before-restore-*"))) == 1
    assert python(home, "-c", ANSWERS) == before


def test_control_database_and_audit_come_along_as_one_state_while_they_are_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    python(home, "-c", SEED, "10")
    with closing(sqlite3.connect(home / "control.db", isolation_level=None)) as live:
        live.execute("PRAGMA journal_mode = WAL")
        live.execute("CREATE TABLE budgets (name TEXT, spent_nusd INTEGER)")
        live.execute("INSERT INTO budgets VALUES ('search', 7)")
        live.execute("BEGIN IMMEDIATE")
        live.execute("INSERT INTO budgets VALUES ('half', 1)")
        Audit(home, "policies").tell("POST /v1/apply", "version 1")
        said = farthing(home, "backup", str(tmp_path / "backup"))
        live.execute("COMMIT")
    assert "not in it" not in said
    farthing(tmp_path / "fresh", "restore", str(tmp_path / "backup"))
    with closing(sqlite3.connect(tmp_path / "fresh" / "control.db")) as restored:
        assert restored.execute("SELECT * FROM budgets").fetchall() == [("search", 7)]
    assert [one["note"] for one in Audit(tmp_path / "fresh", "policies").newest()] == ["version 1"]


def test_a_backup_that_has_no_room_leaves_nothing_behind(backup: tuple[Path, Path], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small disk here")
    try:
        said = farthing(backup[0], "backup", str(disk / "copy"), fails=True)
        assert "No space left" in said and "nothing was left behind" in said
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_target_that_exists_is_never_written_into(backup: tuple[Path, Path], tmp_path: Path) -> None:
    assert "is there already" in farthing(backup[0], "backup", str(tmp_path), fails=True)


def test_a_server_s_rows_come_back_on_another_server_and_on_an_embedded_store(tmp_path: Path) -> None:
    one, other = ClickHouse(tmp_path / "one"), ClickHouse(tmp_path / "other")
    home = tmp_path / "home"
    one.start()
    other.start()
    try:
        python(home, "-c", SEED, "700", warehouse=one.dsn)
        farthing(home, "backup", str(tmp_path / "backup"), warehouse=one.dsn)
        farthing(tmp_path / "b", "restore", str(tmp_path / "backup"), warehouse=other.dsn)
        farthing(tmp_path / "c", "restore", str(tmp_path / "backup"))
        before, after = python(home, "-c", ANSWERS, warehouse=one.dsn), python(home, "-c", ANSWERS, warehouse=other.dsn)
        assert after == before == python(tmp_path / "c", "-c", ANSWERS)
        said = farthing(tmp_path / "d", "restore", str(tmp_path / "backup"), fails=True, warehouse=other.dsn)
        assert "the warehouse has rows in findings, otel_traces, price_book, requests; say --replace" in said
        farthing(tmp_path / "d", "restore", str(tmp_path / "backup"), "--replace", warehouse=other.dsn)
        assert python(home, "-c", ANSWERS, warehouse=other.dsn) == before
    finally:
        one.stop()
        other.stop()


def answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=60).close()
    except OSError:
        return False
    return True


@contextmanager
def collector(home: Path, port: int) -> Iterator[None]:
    environ = {
        **os.environ, "FARTHING_DATA_DIR": str(home), "FARTHING_COLLECTOR_PORT": str(port),
        "FARTHING_COLLECTOR_GRPC_PORT": "0",
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "farthing", "collector"], env=environ, cwd=REPOSITORY)
    try:
        until(lambda: answers(port), "the collector answers")
        yield
    finally:
        process.terminate()
        process.wait(300)


def test_a_backup_of_a_running_collector_under_ingest_holds_every_span_that_was_acknowledged_before(
    tmp_path: Path,
) -> None:
    from tests.collector_bodies import trace_body
    from tests.ports import free_port

    home, port, sent, stop = tmp_path / "home", free_port(), list[int](), threading.Event()
    url = f"http://127.0.0.1:{port}"

    def post() -> None:
        while not stop.is_set():
            request = urllib.request.Request(
                f"{url}/v1/traces", trace_body(20), {"content-type": "application/x-protobuf"}
            )
            with urllib.request.urlopen(request, timeout=120) as answer:
                assert answer.status == 200
            sent.append(20)

    with collector(home, port):
        sender = threading.Thread(target=post)
        sender.start()
        until(lambda: sum(sent) >= 500, "there are spans")
        before = sum(sent)
        environ = {**os.environ, "FARTHING_DATA_DIR": str(home), "FARTHING_COLLECTOR_PORT": str(port)}
        command = [sys.executable, "-m", "farthing", "backup", str(tmp_path / "backup")]
        ran = subprocess.run(command, env=environ, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
        after = sum(sent)
        stop.set()
        sender.join()
    assert ran.returncode == 0, ran.stderr
    restored = tmp_path / "restored"
    farthing(restored, "restore", str(tmp_path / "backup"))
    with collector(restored, port):
        urllib.request.urlopen(urllib.request.Request(f"{url}/v1/flush", b"", method="POST"), timeout=120).close()
    rows = json.loads(python(restored, "-c", ANSWERS))["totals"][0]
    counted = int(re.search(r"'requests': (\d+)", rows).group(1))  # type: ignore[union-attr]
    assert before <= counted <= after + 20


def test_what_the_command_says_names_rows_and_money(capsys: pytest.CaptureFixture[str]) -> None:
    table = {"name": "requests", "content": {"rows": 2, "checksum": "77", "cost_usd": "0.5"}}
    files = {"a": {"bytes": 3, "sha256": ""}}
    cli_backup._tell("restored", {"tables": [table], "files": files, "left_out": ""})
    assert " ".join(capsys.readouterr().out.split()) == (
        "requests 2 rows checksum 77 0.5 USD restored: 1 files, 3 bytes, every SHA-256 and checksum agrees"
    )
