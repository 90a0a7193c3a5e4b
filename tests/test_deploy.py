"""deploy/: what a machine without Docker can say about the files there."""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from farthing.cli import app
from farthing.settings import read_settings

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
SECRETS = {"CLICKHOUSE_PASSWORD": "secret", "FARTHING_HASH_KEY": "key"}


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
