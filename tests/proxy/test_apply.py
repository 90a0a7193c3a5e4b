"""proxy/apply.py: the last good document stays in force whatever the control plane or the disk come up with."""
from __future__ import annotations

import asyncio
from hashlib import sha256
from pathlib import Path

import pytest

from farthing.policy import Document, Policy
from proxy.apply import PolicyFeed
from proxy.upstream import Client
from tests.proxy.test_upstream import Handler, server

AWAY = "http://127.0.0.1:1"


def document(version: int) -> bytes:
    return Document(version=version).to_json()


def keep(path: Path, body: bytes, checksum: str = "") -> Path:
    path.write_bytes((checksum or sha256(body).hexdigest()).encode() + b"\n" + body)
    return path


def started(kept: Path, url: str = AWAY) -> PolicyFeed:
    async def main() -> PolicyFeed:
        client = Client()
        feed = PolicyFeed(client, url, kept)
        await feed.start()
        await feed.stop()
        client.close()
        return feed

    return asyncio.run(main())


def test_the_last_good_document_is_used_while_the_control_plane_is_away(tmp_path: Path) -> None:
    feed = started(keep(tmp_path / "kept.json", document(7)))
    assert feed.document.version == 7 and "cannot connect" in feed.last_error and feed.fetched_at == 0


@pytest.mark.parametrize("damage", ["", "cut", "a bit", "of another version", "not JSON", "a folder"])
def test_a_kept_file_that_cannot_be_trusted_is_ignored_and_the_proxy_starts(tmp_path: Path, damage: str) -> None:
    kept = tmp_path / "kept.json"
    good = document(7)
    if damage == "a folder":
        kept.mkdir()
    elif damage == "cut":
        keep(kept, good[:-3], sha256(good).hexdigest())
    elif damage == "a bit":
        keep(kept, good.replace(b"7", b"8"), sha256(good).hexdigest())
    elif damage:
        keep(kept, b'{"version": 7, "surprises": []}' if damage == "of another version" else b"\xff\xfe")
    assert started(kept).document.version == 0


def answering(*answers: tuple[int, bytes, str]) -> Handler:
    """Answer with (status, body, etag) in turn, the last one for ever."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            status, body, etag = left.pop(0) if len(left) > 1 else left[0]
            head = f"HTTP/1.1 {status} X\r\netag: {etag}\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()

    return serve


@pytest.mark.parametrize("bad", [b'{"version": 9, "policies": [{"name": "x"}]}', b'{"version": 9, "new": 1}', b"<p>"])
def test_a_document_that_cannot_be_read_is_rejected_whole_and_the_one_in_use_stays(tmp_path: Path, bad: bytes) -> None:
    async def main() -> None:
        async with server(answering((200, document(8), '"a"'), (200, bad, '"b"'))) as url:
            client = Client()
            feed = PolicyFeed(client, url, tmp_path / "kept.json")
            await feed.start()
            while not feed.last_error:
                await asyncio.sleep(0.01)
            assert feed.document.version == 8
            await feed.stop()
            client.close()

    asyncio.run(main())
    assert started(tmp_path / "kept.json").document.version == 8


def test_a_bad_first_answer_does_not_stop_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        for status, body in ((200, b"{}"), (500, b"no"), (404, b"")):
            async with server(answering((status, body, ""))) as url:
                client = Client()
                feed = PolicyFeed(client, url, keep(tmp_path / "kept.json", document(3)))
                await feed.start()
                assert feed.document.version == 3 and feed.last_error and feed.fetched_at == 0
                await feed.stop()
                client.close()

    asyncio.run(main())


def test_a_document_that_cannot_be_kept_is_used_all_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "file").write_text("in the way")
        async with server(answering((200, document(8), '"a"'))) as url:
            client = Client()
            feed = PolicyFeed(client, url, tmp_path / "file" / "kept.json")
            await feed.start()
            assert feed.document.version == 8
            await feed.stop()
            client.close()

    asyncio.run(main())


def test_the_control_plane_gets_the_proxys_token_and_nobody_else_does(tmp_path: Path) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 304 X\r\ncontent-length: 0\r\n\r\n")

    async def main() -> None:
        async with server(serve) as control, server(serve) as elsewhere:
            client = Client(tokens={control: "ftc_ours"})
            feed = PolicyFeed(client, control, tmp_path / "kept.json")
            await feed.start()
            await feed.stop()
            await (await client.request("GET", f"{elsewhere}/v1/models")).read()
            client.close()

    asyncio.run(main())
    assert b"\r\nauthorization: Bearer ftc_ours\r\n" in heads[0] and b"x-farthing-follower: " in heads[0]
    assert b"authorization" not in heads[-1]


def test_a_long_document_is_read_beside_the_calls_and_taken_whole(tmp_path: Path) -> None:
    matches = ({"name": f"p{n}", "match": {"user": [f"u{n}"]}, "action": {"cache": {}}} for n in range(300))
    long = Document(version=8, policies=tuple(Policy.model_validate(one) for one in matches)).to_json()
    assert len(long) > 100_000

    async def main() -> None:
        async with server(answering((200, long, '"a"'), (304, b"", '"a"'))) as url:
            client = Client()
            feed = PolicyFeed(client, url, tmp_path / "kept.json")
            await feed.start()
            assert (feed.document.version, len(feed.document.policies)) == (8, 300)
            await feed.stop()
            client.close()

    asyncio.run(main())
