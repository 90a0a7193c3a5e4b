"""Keys of upstreams and clients: read from the environment or a file, in no log line, no row and no answer."""
from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from farthing.errors import SettingsError
from farthing.settings import secret
from tests.proxy.rig import EVENTS, HOST_SECRET, SECRET, Rig, answers, asked, post, streams

OF_THE_CLIENT = "fth_a-key-that-a-client-sent-0123456789"
OURS = ("proxy", "farthing", "policies", "asyncio", "uvicorn")


@pytest.mark.parametrize("model", ["gpt", "away", "secretive"])
def test_no_key_is_logged_recorded_or_answered_whatever_goes_wrong(
    rig: Rig, caplog: pytest.LogCaptureFixture, model: str
) -> None:
    team = rig.budget()
    quoting = json.dumps({"error": {"message": f"bad key {SECRET} {HOST_SECRET}"}}).encode()
    said: list[bytes] = []
    with caplog.at_level(logging.DEBUG):
        for behave in (answers(quoting, status=401), answers(b"{", status=500), streams(EVENTS, cut_at=90)):
            rig.upstream.next(behave)
            answer = post(rig, team, json.dumps(asked(model)).encode())
            said += [answer.whole, str(answer.headers).encode()]  # type: ignore[attr-defined]
        said.append(post(rig, team, b"{}", authorization=f"Bearer {OF_THE_CLIENT}").whole)  # type: ignore[attr-defined]
        rig.quiet()
    logged = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith(OURS))
    told = logged + b"".join(said).decode() + str(rig.spans(team))
    assert len(rig.spans(team)) == 3
    assert not [key for key in (SECRET, HOST_SECRET, OF_THE_CLIENT) if key in told]


def test_a_secret_is_read_from_the_environment_else_from_the_file_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("sk-of-a-file\n")
    assert secret("KEY", {"KEY": "sk-1", "KEY_FILE": str(path)}) == "sk-1"
    assert secret("KEY", {"KEY_FILE": str(path)}) == "sk-of-a-file"


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "cannot be read"), ("", "the file is empty"), ("sk-1\nsk-2\n", "holds more than one line")],
    ids=["missing", "empty", "two lines"],
)
def test_a_file_that_holds_no_key_stops_the_start_and_names_itself(
    tmp_path: Path, content: str | None, why: str
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=why) as raised:
        secret("KEY", {"KEY_FILE": str(path)})
    assert f"KEY_FILE={str(path)!r}" in str(raised.value) and "sk-" not in str(raised.value)
