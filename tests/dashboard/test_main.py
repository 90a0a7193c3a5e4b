from __future__ import annotations

import gzip
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message

import pytest

from dashboard.main import app
from farthing.settings import Settings
from farthing.supervisor import is_ready
from farthing.warehouse import Warehouse

SEEDED, EMPTY = "dash-seeded", "dash-empty"
PLOTLY = "/_dash-component-suites/plotly/package_data/plotly.min.js"

Serve = Callable[[str], str]


@dataclass(frozen=True)
class Answer:
    headers: Message
    body: bytes


def get(address: str, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with urllib.request.urlopen(urllib.request.Request(address, headers=named), timeout=120) as answer:
        return Answer(answer.headers, answer.read())


def test_every_answer_forbids_foreign_scripts_and_frames(serve: Serve) -> None:
    address = serve(EMPTY)
    for path in ("/", "/assets/base.css", "/_dash-layout"):
        headers = get(address + path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "'unsafe-eval'" not in policy
        script = next(part for part in policy.split("; ") if part.startswith("script-src"))
        assert "'unsafe-inline'" not in script
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_it_says_that_it_is_there_as_every_part_does(serve: Serve) -> None:
    assert is_ready(serve(EMPTY) + "/healthz")


def test_the_index_page_says_its_language(serve: Serve) -> None:
    assert b'<html lang="en">' in get(serve(EMPTY) + "/").body


def test_plotlys_basic_bundle_stands_in_the_place_of_the_full_one(serve: Serve) -> None:
    answer = get(serve(EMPTY) + PLOTLY, Accept_Encoding="gzip")
    assert answer.headers["content-encoding"] == "gzip"
    assert len(answer.body) < 410_000
    assert b"plotly.js (basic - minified)" in gzip.decompress(answer.body)[:200]


def test_a_file_that_the_browser_has_is_not_sent_again(serve: Serve) -> None:
    address = serve(EMPTY) + "/assets/base.css"
    etag = get(address).headers["etag"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(address, If_None_Match=etag)
    assert refused.value.code == 304
    refused.value.close()


def test_a_client_without_gzip_gets_plain_text(serve: Serve) -> None:
    answer = get(serve(EMPTY) + "/assets/base.css", Accept_Encoding="identity")
    assert answer.headers["content-encoding"] is None
    assert b":root" in answer.body


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/no-such-page", "/assets/none.css", "/assets/../main.py"])
def test_what_does_not_exist_is_not_found(serve: Serve, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(serve(EMPTY) + path)
    assert refused.value.code == 404
    refused.value.close()


def test_two_dashboards_of_one_process_do_not_know_each_other(dash_warehouse: Warehouse, serve: Serve) -> None:
    first = serve(SEEDED)
    app(Settings(tenant=EMPTY), dash_warehouse)
    second = serve(EMPTY)
    assert b"Farthing" in get(first + "/").body
    assert b"Farthing" in get(second + "/").body
    assert get(first + "/_dash-dependencies").body == get(second + "/_dash-dependencies").body
