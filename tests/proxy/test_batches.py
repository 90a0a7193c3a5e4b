"""Files and batches through the real client: each line is a call like any other, answered and charged once."""
from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import uuid
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import openai
import pytest
from msgspec import Raw

from farthing import http_json, semconv
from farthing.settings import Settings
from proxy.api_error import ApiError
from proxy.batch import FINAL, WINDOW_S, Answered, Batches, BatchRecord, Journal, new_id
from proxy.files import Files
from proxy.keys import Caller
from proxy.offline import owner_of
from tests.conftest import REPOSITORY
from tests.ports import free_port
from tests.proxy.processes import process
from tests.proxy.rig import (
    COST,
    Behaviour,
    Received,
    Rig,
    answer_of,
    answers,
    asked,
    in_turn,
    proxied,
    reply,
    send_only,
    until,
    waits,
)
from tests.proxy.test_virtual_keys import client as keyed
from tests.proxy.test_virtual_keys import make
from tests.until import LIMIT_S


def lines(count: int, model: str = "gpt-plain", **more: Any) -> bytes:
    rows = [
        {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions",
         "body": asked(model, user=f"line-{number}", **more)}
        for number in range(count)
    ]  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def begin(client: openai.OpenAI, content: bytes, endpoint: Any = "/v1/chat/completions") -> Any:
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")


def ended(client: openai.OpenAI, batch_id: str, seconds: float = LIMIT_S) -> Any:
    found: list[Any] = []

    def is_ended() -> bool:
        found.append(client.batches.retrieve(batch_id))
        return found[-1].status in FINAL

    until(is_ended, "the batch ends", seconds)
    return found[-1]


def rows(client: openai.OpenAI, file_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def fails_for(custom: str) -> Behaviour:
    async def behave(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_bad = request.json.get("user") == custom
        writer.write(reply(b'{"error": {}}', status=400) if is_bad else reply(answer_of(request.json["user"])))

    return behave


def test_each_line_is_answered_charged_and_recorded_once(rig: Rig) -> None:
    team = rig.budget()
    rig.upstream.next(fails_for("line-3"))
    with rig.client(team) as client:
        batch = begin(client, lines(12))
        assert (batch.object, batch.status) == ("batch", "validating")
        done = ended(client, batch.id)
        assert (done.status, done.request_counts.total) == ("completed", 12)
        assert (done.request_counts.completed, done.request_counts.failed) == (11, 1)
        good, bad = rows(client, done.output_file_id), rows(client, done.error_file_id)
    assert {row["custom_id"] for row in good} == {f"line-{n}" for n in range(12) if n != 3}
    for row in good:
        assert row["response"]["status_code"] == 200 and row["response"]["request_id"].startswith("req_")
        assert row["response"]["body"]["choices"][0]["message"]["content"] == row["custom_id"]
    assert [(row["custom_id"], row["response"]["status_code"]) for row in bad] == [("line-3", 400)]
    until(lambda: len(rig.spans(team)) == 12, "each line is recorded")
    rig.quiet()
    balance = rig.balance(team)
    assert (balance["spent_nusd"], balance["held_nusd"]) == (11 * COST, 0)
    assert sum(span.get(semconv.SETTLED_NUSD, 0) for span in rig.spans(team)) == 11 * COST


def test_our_own_servers_charge_a_line_as_a_batch_and_a_third_party_as_what_it_is(rig: Rig) -> None:
    own, third = rig.budget(), rig.budget()
    for team, model in ((own, "own"), (third, "gpt-plain")):
        with rig.client(team) as client:
            assert ended(client, begin(client, lines(2, model)).id).request_counts.completed == 2
    rig.quiet()
    assert (rig.balance(own)["spent_nusd"], rig.balance(third)["spent_nusd"]) == (2 * COST // 2, 2 * COST)
    assert {span.get(semconv.SERVICE_TIER) for span in rig.spans(own)} == {"batch"}
    assert {span.get(semconv.SERVICE_TIER) for span in rig.spans(third)} == {None}
    with rig.client(own) as client:  # the same call without a batch has the usual price, whatever tier it names
        client.chat.completions.create(**asked("own"))
        client.chat.completions.create(**asked("own"), service_tier="flex")
    rig.quiet()
    assert rig.balance(own)["spent_nusd"] == 3 * COST


def test_a_line_has_the_batch_s_price_at_the_next_model_of_a_cascade_too(rig: Rig) -> None:
    team = rig.budget()
    rig.policy(team, route={"strategy": "cascade", "models": ["small", "own"]})
    rig.upstream.next(in_turn(answers(answer_of("I'm not sure, sorry.")), answers(answer_of())))
    with rig.client(team) as client:
        assert ended(client, begin(client, lines(1)).id).request_counts.completed == 1
    rig.quiet()
    assert rig.balance(team)["spent_nusd"] == COST + COST // 2


def test_a_batch_stops_at_its_budget_and_says_so_line_by_line(rig: Rig) -> None:
    team = rig.budget("0 USD")
    with rig.client(team) as client:
        done = ended(client, begin(client, lines(3)).id)
        assert (done.status, done.output_file_id, done.request_counts.failed) == ("completed", None, 3)
        errors = [row["response"]["body"]["error"]["code"] for row in rows(client, done.error_file_id)]
    assert errors == ["budget_exceeded"] * 3 and rig.upstream.received == []


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b"{}\n", "invalid_json_line", 1),
        (lines(1) + lines(1), "duplicate_custom_id", 2),
        (lines(1).replace(b"/v1/chat/completions", b"/v1/embeddings"), "invalid_url", 1),
        (lines(1).replace(b"POST", b"GET"), "invalid_method", 1),
        (lines(1, stream=True), "invalid_request", 1),
        (b"\n\n", "empty_file", None),
    ],
    ids=["no request", "a custom_id twice", "another url", "another method", "a stream", "empty"],
)
def test_an_input_with_a_mistake_fails_as_a_whole_and_says_where(
    rig: Rig, content: bytes, code: str, line: int | None
) -> None:
    with rig.client("x") as client:
        done = ended(client, begin(client, content).id)
    assert done.status == "failed" and [(e.code, e.line) for e in done.errors.data] == [(code, line)]
    assert rig.upstream.received == []


def test_files_are_listed_read_and_deleted_by_their_owner_alone(rig: Rig) -> None:
    mine, other = (keyed(rig, make(rig, team=f"team-{uuid.uuid4().hex[:6]}")[1]) for _ in range(2))
    with mine, other:
        content = lines(3)
        made = [mine.files.create(file=("in.jsonl", content), purpose="batch") for _ in range(3)]
        assert (made[0].bytes, made[0].filename, made[0].purpose) == (len(content), "in.jsonl", "batch")
        assert {file.id for file in mine.files.list(limit=2)} == {file.id for file in made}  # over its pages
        assert mine.files.content(made[0].id).content == content
        batch = begin(mine, lines(1))
        for ask in (other.files.retrieve, other.files.content, other.files.delete):
            with pytest.raises(openai.NotFoundError, match=r"there is no file .* of yours"):
                ask(made[0].id)
        for ask in (other.batches.retrieve, other.batches.cancel):
            with pytest.raises(openai.NotFoundError, match=r"there is no batch .* of yours"):
                ask(batch.id)
        assert list(other.files.list()) == list(other.batches.list()) == []
        assert mine.files.delete(made[0].id).deleted
        with pytest.raises(openai.NotFoundError):
            mine.files.retrieve(made[0].id)
        assert [one.id for one in mine.batches.list()] == [batch.id]
        ended(mine, batch.id)


@pytest.mark.parametrize("path", ["../../policies.json", "..%2f..", "file-", "x" * 500])
def test_a_file_s_id_is_never_a_way_through_the_disk(rig: Rig, path: str) -> None:
    for kind in ("files", "batches"):
        with pytest.raises(Exception, match=r"404|there is no"):
            http_json.call("GET", f"{rig.proxy}/v1/{kind}/{path}")


def test_what_is_too_large_or_no_batch_is_refused_with_what_is_allowed(rig: Rig) -> None:
    rig.apply("apiVersion: farthing/v1\nkind: Batch\nmetadata: {name: small}\nscope: {team: tiny}\n"
              "max_file_bytes: 1000\nmax_lines: 2\n")  # fmt: skip
    _, secret = make(rig, team="tiny")
    with keyed(rig, secret) as client:
        with pytest.raises(openai.APIStatusError, match="more than 1000 bytes; split it") as refused:
            client.files.create(file=("in.jsonl", b"x" * 1001), purpose="batch")
        assert refused.value.status_code == 413
        done = ended(client, begin(client, b"".join(lines(4).replace(b" ", b"").splitlines(True)[:3])).id)
        assert [error.code for error in done.errors.data] == ["too_many_requests"]
        with pytest.raises(openai.BadRequestError, match="purpose = 'fine-tune'; allowed is batch"):
            client.files.create(file=("in.jsonl", lines(1)), purpose="fine-tune")
        with pytest.raises(openai.BadRequestError, match="endpoint = '/v1/x'; allowed are /v1/chat/completions"):
            begin(client, b"x", "/v1/x")
    with rig.client("x") as client, pytest.raises(openai.APIStatusError) as refused:
        client.files.create(file=("in.jsonl", b"x" * 40_000_000), purpose="batch")
    assert refused.value.status_code == 413


def test_a_large_file_needs_a_good_key_and_a_request_stays_bounded(rig: Rig) -> None:
    content = lines(1)[:-1] + b" " * 5_000_000 + b"\n"
    with rig.client("x") as client:
        assert client.files.create(file=("in.jsonl", content), purpose="batch").bytes == len(content)
        with pytest.raises(openai.APIStatusError, match="larger than"):
            client.chat.completions.create(**asked(user="x" * 5_000_000))


def upload(rig: Rig, size: int) -> tuple[socket.socket, Iterator[bytes]]:
    """Begin an upload of so many bytes; return its socket and what is to be sent over it."""
    head = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\n' \
        b'content-disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'  # fmt: skip
    blocks, end = [b"x" * 65536] * (size // 65536), b"\r\n--b--\r\n"
    host, _, port = rig.proxy.removeprefix("http://").partition(":")
    sock = socket.create_connection((host, int(port)), timeout=20)
    length = len(head) + sum(map(len, blocks)) + len(end)
    sock.sendall(f"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n"
                 "x-farthing-tags: team=x\r\ncontent-type: multipart/form-data; boundary=b\r\n\r\n".encode())
    return sock, iter((head, *blocks, end))


def test_a_large_upload_lies_on_the_disk_and_not_in_memory(rig: Rig) -> None:
    sock, blocks = upload(rig, 24 * 1024 * 1024)
    tracemalloc.start()
    try:
        with sock:
            for block in blocks:
                sock.sendall(block)
            answer = sock.recv(65536)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.startswith(b"HTTP/1.1 200") and json.loads(answer.partition(b"\r\n\r\n")[2])["bytes"] == 24 * 1024**2
    assert peak < 12 * 1024 * 1024


def test_an_upload_whose_client_goes_away_leaves_nothing(rig: Rig) -> None:
    folder = rig.settings.data_dir / "proxy" / "uploads"
    mine = Path("/proc/self/fd")

    def spooled() -> int:
        count = 0
        for one in mine.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another one was closed meanwhile
                count += str(folder) in os.readlink(one)
        return count

    sock, blocks = upload(rig, 8 * 1024 * 1024)
    sock.sendall(next(blocks))
    sock.sendall(next(blocks))
    until(lambda: spooled() == 1, "the upload is on its way")
    sock.close()
    until(lambda: spooled() == 0, "its bytes are let go")
    assert os.listdir(folder) == []


def test_a_key_that_is_revoked_meanwhile_answers_no_further_line(rig: Rig) -> None:
    name, secret = make(rig)
    rig.apply("apiVersion: farthing/v1\nkind: Batch\nmetadata: {name: one}\nlines_in_flight: 1\n")
    rig.upstream.next(waits(rig.upstream, answers(answer_of())))
    with keyed(rig, secret) as client:
        batch = begin(client, lines(3))
        assert rig.upstream.arrived.wait(120)
        http_json.call("DELETE", f"{rig.policies}/v1/keys/{name}")
        until(lambda: _is_refused(client), "the proxy knows")
    rig.upstream.release.set()
    folder = rig.settings.data_dir / "proxy" / "batches" / batch.id
    until(lambda: json.loads((folder / "batch.json").read_bytes())["status"] == "completed", "it ends")
    record = json.loads((folder / "batch.json").read_bytes())
    http_json.call("DELETE", f"{rig.policies}/v1/objects/Batch/one")
    assert (record["completed"], record["failed"]) == (1, 2)


def _is_refused(client: openai.OpenAI) -> bool:
    try:
        client.models.list()
    except openai.AuthenticationError:
        return True
    return False


def test_a_batch_yields_to_interactive_calls_and_goes_on_after_them(rig: Rig) -> None:
    rig.apply("apiVersion: farthing/v1\nkind: Batch\nmetadata: {name: one}\nlines_in_flight: 1\n")
    rig.upstream.next(waits(rig.upstream, answers(answer_of())))
    with send_only(rig, "people", json.dumps(asked("own")).encode()), rig.client("machines") as client:
        assert rig.upstream.arrived.wait(120)
        batch = begin(client, lines(2, "own"))
        until(lambda: client.batches.retrieve(batch.id).status == "in_progress", "it has begun")
        with pytest.raises(AssertionError, match="never happened"):
            until(lambda: len(rig.upstream.received) > 1, "a line is asked", seconds=0.4)
        rig.upstream.release.set()
        assert ended(client, batch.id).request_counts.completed == 2
    http_json.call("DELETE", f"{rig.policies}/v1/objects/Batch/one")


def test_a_batch_yields_to_interactive_calls_of_other_workers_too(rig: Rig) -> None:
    rig.apply("apiVersion: farthing/v1\nkind: Batch\nmetadata: {name: one}\nlines_in_flight: 1\n")
    rig.upstream.next(waits(rig.upstream, answers(answer_of())))
    body = json.dumps(asked("own")).encode()
    with (
        proxied(rig.settings) as port, rig.client("machines") as client,
        send_only(rig, "people", body, f"http://127.0.0.1:{port}"),
    ):  # fmt: skip
        assert rig.upstream.arrived.wait(120)
        batch = begin(client, lines(2, "own"))
        until(lambda: client.batches.retrieve(batch.id).status == "in_progress", "it has begun")
        with pytest.raises(AssertionError, match="never happened"):
            until(lambda: len(rig.upstream.received) > 1, "a line is asked", seconds=0.4)
        rig.upstream.release.set()
        assert ended(client, batch.id).request_counts.completed == 2
    http_json.call("DELETE", f"{rig.policies}/v1/objects/Batch/one")


def test_a_cancelled_batch_keeps_what_was_answered_and_asks_no_more(rig: Rig) -> None:
    rig.apply("apiVersion: farthing/v1\nkind: Batch\nmetadata: {name: one}\nlines_in_flight: 1\n")
    rig.upstream.next(waits(rig.upstream, answers(answer_of())))
    with rig.client("x") as client:
        batch = begin(client, lines(3))
        assert rig.upstream.arrived.wait(120)
        assert client.batches.cancel(batch.id).status == "cancelling"
        rig.upstream.release.set()
        done = ended(client, batch.id)
        assert (done.status, done.request_counts.completed, len(rig.upstream.received)) == ("cancelled", 1, 1)
        assert done.cancelled_at and len(rows(client, done.output_file_id)) == 1
        with pytest.raises(openai.ConflictError, match="the batch is cancelled"):
            client.batches.cancel(batch.id)
    http_json.call("DELETE", f"{rig.policies}/v1/objects/Batch/one")


def test_a_journal_forgets_what_a_kill_left_of_a_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "answers.jsonl")
    journal.add(Answered(1, True, Raw(b'{"a":1}')))
    journal.close()
    with (tmp_path / "answers.jsonl").open("ab") as file:
        file.write(b'{"line":2,"is_good":true,"rec')
    again = Journal(tmp_path / "answers.jsonl")
    again.add(Answered(3, False, Raw(b"{}")))
    assert again.lines == {1: True, 3: False} and [one.line for one in again.read()] == [1, 3]
    again.close()


FULL = """
import os, resource, sys
from io import BytesIO
from pathlib import Path
from msgspec import Raw
from proxy.batch import Answered, Journal
from proxy.files import Files
folder = Path(sys.argv[1])
journal, files = Journal(folder / "answers.jsonl"), Files(folder / "files")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))  # nothing gets longer: as good as full
for write in (
    lambda: journal.add(Answered(1, True, Raw(b'"' + b"x" * 5000 + b'"'))),
    lambda: files.add("me", "large", BytesIO(b"x" * 5000), 5000, 1),
):
    try:
        write()
    except OSError:
        print("refused")
journal.add(Answered(2, True, Raw(b"{}")))
files.add("me", "small", BytesIO(b"x"), 1, 1)
print([one.line for one in journal.read()], [one.filename for one in files.of("me")], len(os.listdir(folder / "files")))
"""


def test_what_a_full_disk_cuts_short_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.stdout.splitlines() == ["refused", "refused", "[2] ['small'] 1"]


def test_a_batch_that_cannot_be_run_keeps_no_other_from_running(rig: Rig, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(lines(1))
    there = vars(rig.settings)["data_dir"] / "proxy" / "batches"
    there.mkdir(parents=True, exist_ok=True)
    with rig.client("batch-of-others") as client:
        batches, broken = Batches(tmp_path / "made"), [new_id() for _ in range(4)]  # more than may run at once
        for one in broken:
            made = BatchRecord(one, "x", "/v1/chat/completions", "f", 1, 1, "", "default", "t", "", "")
            batches.create(made, source)
            (batches.folder(one) / "answers.jsonl").mkdir()  # where its answers should go
            batches.folder(one).rename(there / one)
        try:
            assert ended(client, begin(client, lines(2)).id).request_counts.completed == 2
        finally:
            for one in broken:
                shutil.rmtree(there / one)


def test_a_batch_survives_kill_9_and_asks_no_answered_line_again(rig: Rig, tmp_path: Path) -> None:
    count, kill_after = 40, 12
    team, port = rig.budget(), free_port()
    seen: Counter[str] = Counter()
    enough, killed = threading.Event(), rig.upstream.release

    async def behave(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen[request.json["user"]] += 1
        if sum(seen.values()) >= kill_after and not killed.is_set():
            enough.set()
            await asyncio.to_thread(killed.wait)
        writer.write(reply(answer_of(request.json["user"])))

    rig.upstream.next(behave)
    headers = {semconv.HEADER_TAGS: f"team={team}"}
    url = f"http://127.0.0.1:{port}/v1"
    with openai.OpenAI(base_url=url, api_key="none", default_headers=headers, max_retries=5) as client:
        with process(rig, tmp_path, port) as first:
            batch = begin(client, lines(count))
            assert enough.wait(120)
            first.kill()
            first.wait()
            killed.set()
        journal = tmp_path / "data" / "proxy" / "batches" / batch.id / "answers.jsonl"
        answered = {json.loads(line)["record"]["custom_id"] for line in journal.read_bytes().splitlines()}
        assert 0 < len(answered) < count
        with process(rig, tmp_path, port):
            done = ended(client, batch.id)
            assert done.request_counts.completed == count
            found = Counter(row["custom_id"] for row in rows(client, done.output_file_id))
    assert found == Counter({f"line-{number}": 1 for number in range(count)})
    assert {seen[custom] for custom in answered} == {1}, "an answered line was asked again"
    assert sum(seen.values()) <= count + 8, "no more than the lines under way were asked twice"


def test_answers_that_the_disk_does_not_take_end_the_run_before_more_are_paid_for(rig: Rig, tmp_path: Path) -> None:
    port = free_port()
    rig.upstream.next(waits(rig.upstream, answers(answer_of())))
    url = f"http://127.0.0.1:{port}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=5) as client, process(rig, tmp_path, port) as run:
        batch = begin(client, lines(30))
        until(lambda: len(rig.upstream.received) == 8, "as many lines as may be are asked")
        resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))  # no file gets longer
        rig.upstream.release.set()
        batches = Batches(tmp_path / "data" / "proxy" / "batches")
        until(lambda: batches.claim(batch.id) is not None, "it breaks off")
        assert batches.get(owner_of(Caller("default")), batch.id).status == "in_progress"
        assert len(rig.upstream.received) == 8


def record(folder: Path, content: bytes, **more: Any) -> tuple[Batches, BatchRecord]:
    """Leave a batch on the disk of a proxy that has not started yet."""
    batches, source = Batches(folder / "data" / "proxy" / "batches"), folder / "in.jsonl"
    source.write_bytes(content)
    made = BatchRecord(new_id(), "default\x1f\x1f", "/v1/chat/completions", "file-x", int(time.time()), 1,
                       "", "default", "", "", "", status="in_progress", total=2)  # fmt: skip
    for name, value in more.items():
        setattr(made, name, value)
    batches.create(made, source)
    return batches, made


def test_what_is_left_when_the_window_closes_is_told_line_by_line(rig: Rig, tmp_path: Path) -> None:
    batches, made = record(tmp_path, lines(2), created_at=int(time.time()) - WINDOW_S - 1)
    settings = Settings(**{**vars(rig.settings), "data_dir": tmp_path / "data"})
    with proxied(settings) as port, openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x") as client:
        done = ended(client, made.id)
        assert (done.status, done.request_counts.failed, done.output_file_id) == ("expired", 2, None)
        codes = [(row["custom_id"], row["error"]["code"]) for row in rows(client, done.error_file_id)]
    assert codes == [("line-0", "batch_expired"), ("line-1", "batch_expired")] and rig.upstream.received == []
    assert batches.read(made.id).status == "expired"  # type: ignore[union-attr]


def test_a_host_runs_no_more_batches_at_once_than_allowed_and_one_in_one_worker_alone(tmp_path: Path) -> None:
    batches, made = record(tmp_path, lines(1))
    slots = [batches.claim_slot(2) for _ in range(3)]
    assert [slot is None for slot in slots] == [False, False, True]
    slots[0].release()  # type: ignore[union-attr]
    assert batches.claim_slot(2) is not None
    assert [batches.claim(made.id) is None for _ in range(2)] == [False, True]


def test_files_and_batches_whose_time_is_over_are_forgotten(tmp_path: Path) -> None:
    now = [time.time()]
    files = Files(tmp_path / "files", lambda: now[0])
    kept, gone = (files.add("me", "a", BytesIO(b"1"), 1, days) for days in (30, 1))
    folder, ended_at = tmp_path / "batches", int(now[0])
    batches = Batches(folder, lambda: now[0])
    _, over = record(tmp_path, lines(1), status="completed", ended_at=ended_at)
    batches.create(over, tmp_path / "in.jsonl")
    now[0] += 2 * 86_400
    assert [file.id for file in files.of("me")] == [kept.id]  # also before anybody sweeps
    with pytest.raises(ApiError, match=gone.id):
        files.get("me", gone.id)
    files.sweep()
    batches.sweep()
    assert [file.id for file in files.of("me")] == [kept.id] and gone.id not in os.listdir(tmp_path / "files")
    assert list(batches.all()) == []
