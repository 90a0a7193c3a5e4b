"""deploy/: what a machine without Docker can say about the files there."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from farthing.cli import app
from farthing.settings import read_settings

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
SECRETS = {"CLICKHOUSE_PASSWORD": "secret", "FARTHING_HASH_KEY": "key", "FARTHING_CONTROL_TOKEN": "token"}


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))


def test_every_service_runs_a_command_that_exists_with_settings_that_exist() -> None:
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    services = compose()["services"]
    parts = {name: service for name, service in services.items() if name != "clickhouse"}
    assert set(parts) == {"policies", "collector", "analyzer", "dashboard", "engine", "proxy"}
    for name, service in parts.items():
        assert service["command"] == [name] and name in commands
        environ = {key: str(value) for key, value in service["environment"].items()}
        settings = read_settings(environ | {"FARTHING_DATA_DIR": "/var/lib/farthing", "FARTHING_HOST": "0.0.0.0"})
        assert settings.url("policies") == "http://policies:7301" and settings.warehouse.startswith("clickhouse://")
        assert {deployment.url for deployment in settings.served()} == {"http://engine:7303/v1"}


def test_ports_are_published_on_the_loopback_address_only() -> None:
    for service in compose()["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_what_a_service_mounts_or_waits_for_is_defined() -> None:
    found = compose()
    for service in found["services"].values():
        assert set(service.get("depends_on", {})) <= set(found["services"])
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in found["volumes"] or (DEPLOY / source).exists(), mount


def test_docker_compose_accepts_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not on this machine")
    command = [docker, "compose", "-f", str(DEPLOY / "compose.yaml"), "config", "--quiet"]
    done = subprocess.run(command, env={**os.environ, **SECRETS}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_opentelemetry_collector_s_pipelines_use_what_is_configured() -> None:
    config = yaml.safe_load((DEPLOY / "otel-collector" / "config.yaml").read_text("utf-8"))
    for pipeline in config["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(config[kind])
    assert set(config["service"]["extensions"]) == set(config["extensions"])
    exporter = config["exporters"]["otlphttp/farthing"]
    assert exporter["endpoint"] == f"http://127.0.0.1:{read_settings({}).collector_port}"
    assert exporter["sending_queue"]["storage"] in config["extensions"]


LOGS = (  # what ClickHouse's own config.xml switches on
    "query_log", "part_log", "trace_log", "text_log", "metric_log", "asynchronous_metric_log", "latency_log",
    "asynchronous_insert_log", "error_log", "query_metric_log", "query_thread_log", "query_views_log",
    "processors_profile_log", "opentelemetry_span_log", "session_log", "backup_log", "blob_storage_log", "s3queue_log",
    "zookeeper_log", "background_schedule_pool_log",
)  # fmt: skip
ASK = """
import sys, chdb
engine = chdb.connect(sys.argv[1] + "?config-file=" + sys.argv[2])
engine.query("SELECT 1")
engine.query("SYSTEM FLUSH LOGS")
tables = "SELECT name, engine_full FROM system.tables WHERE database = 'system' AND engine = 'MergeTree'"
print(engine.query(tables, "TSV"))
print(engine.query("SELECT name, value FROM system.merge_tree_settings WHERE name LIKE 'fsync%'", "TSV"))
"""


def engine_with(folder: Path) -> str:
    """What ClickHouse says of itself with the configuration in `folder`."""
    command = [sys.executable, "-c", ASK, str(folder / "store"), str(folder / "config.xml")]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def test_the_server_s_own_logs_are_off_but_for_a_week_of_two(tmp_path: Path) -> None:
    tables = "".join(f"<{name}><database>system</database><table>{name}</table></{name}>" for name in LOGS)
    (tmp_path / "config.xml").write_text(f"<clickhouse>{tables}</clickhouse>")
    assert "metric_log\tMergeTree" in engine_with(tmp_path)
    (tmp_path / "config.d").mkdir()
    shutil.rmtree(tmp_path / "store")
    shutil.copy(DEPLOY / "clickhouse" / "limits.xml", tmp_path / "config.d")
    said = engine_with(tmp_path)
    logs = [line for line in said.splitlines() if "_log\t" in line]
    assert {line.split("\t")[0] for line in logs} == {"query_log", "part_log"}
    assert all("TTL event_date + toIntervalDay(7)" in line for line in logs)
    assert "fsync_after_insert\t1" in said and "fsync_part_directory\t1" in said
