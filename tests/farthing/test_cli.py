"""farthing/cli.py: what a user can mend is one line that says how, and an exit code that is not 0."""
from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*arguments: str, **environ: str) -> tuple[int, list[str]]:
    """Run the command line; return its exit code and the lines it wrote to both streams."""
    done = subprocess.run(
        [sys.executable, "-m", "farthing", *arguments], capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, **environ}, cwd=REPOSITORY,
    )  # fmt: skip
    return done.returncode, (done.stdout + done.stderr).strip().splitlines()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--nope",), "No such option: --nope"),
        (("nope",), "No such command 'nope'"),
        (("--set", "proxy_port", "doctor"), "write name=value"),
        (("--set", "proxi_port=1", "doctor"), "unknown setting FARTHING_PROXI_PORT='1'; known: "),
        (("--set", "proxy_port=many", "doctor"), "FARTHING_PROXY_PORT='many': allowed is a whole number"),
        (("--config", "/nowhere.toml", "doctor"), "there is no such file"),
        (("replay", "/nowhere.csv"), "/nowhere.csv"),
        (("report", "--hours", "soon"), "Invalid value for '--hours'"),
        (("prices", "history", "gpt-4o"), "Missing argument 'model'. (see farthing prices history --help)"),
    ],
)
def test_a_wrong_word_is_one_line_that_names_it(arguments: tuple[str, ...], says: str) -> None:
    code, lines = run(*arguments)
    assert code == 2
    assert len(lines) == 1 and lines[0].startswith("farthing: ") and says in lines[0]


def test_a_group_without_a_command_shows_its_help_and_no_empty_error() -> None:
    code, lines = run("budget")
    assert code == 2
    assert any("top-up" in line for line in lines) and not any(line.startswith("farthing:") for line in lines)


def test_a_report_without_a_platform_says_how_to_start_one() -> None:
    code, lines = run("report", FARTHING_ANALYZER_PORT=str(free_port()))
    assert code == 2 and "start it with `farthing up`" in lines[-1]


def test_a_busy_port_is_one_line_that_names_the_setting(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for command in ("up", "policies"):
            code, lines = run(command, FARTHING_DATA_DIR=str(tmp_path), FARTHING_POLICIES_PORT=port)
            assert code == 2
            assert f"127.0.0.1:{port} (Address already in use)" in lines[-1] and "FARTHING_POLICIES_PORT" in lines[-1]


def test_doctor_says_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    code, lines = run("doctor", FARTHING_DATA_DIR=str(tmp_path), FARTHING_PROXY_PORT=str(free_port()))
    assert code == 0
    assert any(line.startswith("ok") and "chdb" in line for line in lines)
    assert any(line.startswith("ok") and "openai" in line and "instrumented by" in line for line in lines)
    assert any(line.startswith("missing") and "proxy" in line and "farthing up" in line for line in lines)


def test_doctor_fails_where_the_data_folder_cannot_be_used() -> None:
    code, lines = run("doctor", FARTHING_DATA_DIR="/proc/none")
    assert code == 1 and any(line.startswith("bad") and "data folder" in line for line in lines)


def test_a_key_is_made_listed_rotated_and_revoked(tmp_path: Path) -> None:
    from farthing.settings import Settings
    from policies.main import app
    from tests.conftest import served

    with served(app(Settings(data_dir=tmp_path))) as port:
        here = {"FARTHING_POLICIES_PORT": str(port)}
        code, lines = run("key", "create", "search-prod", "--team", "search", "--expires", "90d", **here)
        assert code == 0 and lines[0].startswith("fth_") and "only time" in lines[1]
        assert run("key", "rotate", "search-prod", "--overlap", "1h", **here)[1][0] not in ("", lines[0])
        assert run("key", "revoke", "search-prod", "--reason", "over", **here) == (0, ["revoked   search-prod"])
        listed = run("key", "list", **here)[1]
        assert len(listed) == 2 and "search-prod" in listed[1] and "revoked" in listed[1] and "fth_…" in listed[1]
        code, lines = run("key", "create", "x", "--expires", "someday", **here)
        assert code == 2 and "write a date such as 2026-12-31" in lines[0]


def test_the_audit_shows_what_was_asked_and_says_which_parts_it_could_not_ask(tmp_path: Path) -> None:
    from farthing.http_json import call
    from farthing.settings import Settings
    from policies.main import app
    from tests.conftest import served

    with served(app(Settings(data_dir=tmp_path))) as port:
        call("POST", f"http://127.0.0.1:{port}/v1/tokens?name=ops&role=viewer&author=ann")
        away = str(free_port())
        here = {"FARTHING_POLICIES_PORT": str(port), "FARTHING_ANALYZER_PORT": away, "FARTHING_COLLECTOR_PORT": away}
        code, lines = run("audit", **here)
        assert code == 0 and lines[0].endswith(
            "policies  no token (admin) at 127.0.0.1: "
            "POST /v1/tokens [name=ops, role=viewer, author=ann] -> 201 name ops"
        )
        assert [line.split(" is left out")[0] for line in lines[1:]] == ["analyzer", "collector"]
        code, lines = run("audit", "--part", "proxy", **here)
        assert code == 2 and "allowed are policies, analyzer, collector" in lines[0]
