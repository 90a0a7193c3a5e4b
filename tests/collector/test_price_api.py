"""collector/price_api.py and farthing/cli_prices.py: prices are shown, added and kept, and the past is priced anew."""
from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from collector.main import Collector
from collector.pricing import Pricing
from farthing import otlp, semconv
from farthing.prices import PriceBook
from farthing.settings import IngestKey, Settings
from farthing.warehouse import Warehouse

REPOSITORY = Path(__file__).resolve().parents[2]
AT = datetime.now(timezone.utc) - timedelta(hours=1)
TODAY = AT.date().isoformat()
Serve = Callable[[Collector], AbstractContextManager[int]]


@dataclass
class Rig:
    port: int
    tenant: str
    folder: Path

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        given = {semconv.HEADER_TENANT_KEY: "key", "content-type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        payload = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        connection.request(method, path, payload, given)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, json.loads(content) if content else None

    def command(self, *arguments: str) -> tuple[int, list[str]]:
        """Run the command line as a user would; return its exit code and lines."""
        config = self.folder / "farthing.toml"
        config.write_text(f'collector_port = {self.port}\n[[ingest_keys]]\nkey = "key"\ntenant = "{self.tenant}"\n')
        done = subprocess.run(
            [sys.executable, "-m", "farthing", "--config", str(config), *arguments], capture_output=True, text=True,
            timeout=300, check=False, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, cwd=self.folder,
        )  # fmt: skip
        return done.returncode, (done.stdout + done.stderr).strip().splitlines()

    def send(self, model: str, provider: str = "vllm", tier: str = "", calls: int = 2) -> None:
        start = int(AT.timestamp()) * 10**9
        attributes = otlp.attributes([
            (semconv.OPERATION_NAME, "chat"), (semconv.PROVIDER_NAME, provider), (semconv.REQUEST_MODEL, model),
            (semconv.USAGE_INPUT_TOKENS, 1000), (semconv.USAGE_OUTPUT_TOKENS, 100),
            *([(semconv.OPENAI_RESPONSE_SERVICE_TIER, tier)] if tier else []),
        ])  # fmt: skip
        spans = [
            otlp.span(uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b"", "chat", (start, start + 1), attributes)
            for _ in range(calls)
        ]
        body = otlp.traces([("service.name", "shop")], "test", "1", spans)
        assert self.ask("POST", "/v1/traces", body, content_type="application/x-protobuf")[0] == 200
        assert self.ask("POST", "/v1/flush")[0] == 200


@pytest.fixture
def rig(warehouse: Warehouse, serve: Serve, tmp_path: Path) -> Iterator[Rig]:
    tenant = f"tenant-{uuid.uuid4().hex[:12]}"
    settings = Settings(data_dir=tmp_path, ingest_keys=(IngestKey("key", tenant),), collector_grpc_port=0,
                        require_ingest_key=True)  # fmt: skip
    with serve(Collector(settings, warehouse)) as port:
        yield Rig(port, tenant, tmp_path)


def costs(warehouse: Warehouse, rig: Rig) -> list[tuple[Any, ...]]:
    found = warehouse.query(
        "SELECT cost_usd, price_state, price_version FROM requests WHERE tenant = {tenant:String} ORDER BY span_id",
        tenant=rig.tenant,
    )
    return [tuple(row.values()) for row in found]


def test_a_model_without_a_price_is_listed_given_one_and_its_past_priced(rig: Rig, warehouse: Warehouse) -> None:
    model = f"house-{uuid.uuid4().hex[:8]}"
    rig.send(model)
    code, lines = rig.command("prices", "missing")
    assert code == 0 and lines[0] == f"vllm/{model}"
    assert "2 calls, 2,000 tokens in, 200 out" in lines[1]
    assert lines[2].strip() == f"farthing prices add vllm {model} --input USD --output USD --from {TODAY}"
    code, lines = rig.command(*lines[2].replace("USD", "2").split()[1:], "--reason", "power and rent")
    assert code == 0 and lines[-1].endswith(f"`farthing reprice --since {TODAY} --model {model}`")
    assert costs(warehouse, rig) == [(None, "unpriced", "")] * 2
    code, lines = rig.command("reprice", "--since", TODAY, "--model", model, "--dry-run")
    assert code == 0 and lines[-1].endswith("nothing was written")
    assert costs(warehouse, rig) == [(None, "unpriced", "")] * 2
    code, lines = rig.command("reprice", "--since", TODAY, "--model", model)
    assert code == 0 and lines[1].split() == [f"vllm/{model}", "2", "2", "$0.00", "$0.004400000", "+$0.004400000"]
    assert costs(warehouse, rig) == [(Decimal("0.0022"), "priced", "own")] * 2
    none = ["every call of the last 168 hours whose usage is known has a price"]
    assert rig.command("prices", "missing")[1] == none  # the sums of its hour follow at once
    rig.send(model)
    assert costs(warehouse, rig) == [(Decimal("0.0022"), "priced", "own")] * 4
    code, lines = rig.command("prices", "history", "vllm", model)
    assert code == 0 and f"from {TODAY}" in lines[0] and lines[-1].endswith(": power and rent")
    assert rig.command("prices", "missing")[1] == none


def test_an_added_price_outlives_the_collector(rig: Rig, warehouse: Warehouse) -> None:
    model = f"house-{uuid.uuid4().hex[:8]}"
    price = {"provider": "vllm", "model": model, "input": "0.5", "output": "1", "valid_from": TODAY, "by": "ann",
             "tiers": [{"over": 100, "input": "0.7", "output": "1"}]}  # fmt: skip
    assert rig.ask("POST", "/v1/prices", price)[0] == 200
    again = Pricing(warehouse, PriceBook())
    again.start()
    (found,) = again.book.every("vllm", model)
    assert (found.rates.input, found.tiers[0].over, found.tiers[0].rates.input) == (5 * 10**8, 100, 7 * 10**8)
    rig.send(model)
    assert costs(warehouse, rig) == [(Decimal("0.0008"), "priced", "own")] * 2


def test_an_added_price_is_found_under_each_name_of_its_provider(rig: Rig) -> None:
    model = f"house-{uuid.uuid4().hex[:8]}"
    price = {"provider": "gemini", "model": model, "input": "1", "output": "2", "by": "ann", "valid_from": TODAY}
    assert rig.ask("POST", "/v1/prices", price)[0] == 200
    for name in ("gemini", "gcp.gemini", "Gemini"):
        told = rig.ask("GET", f"/v1/prices/history?provider={name}&model={model}")[1]
        assert (len(told["prices"]), [one["by"] for one in told["added"]]) == (1, ["ann"])
        assert [one["model"] for one in rig.ask("GET", f"/v1/prices?provider={name}")[1]["prices"]].count(model) == 1


def test_a_service_tier_first_seen_in_a_batch_is_priced_in_it_or_is_unpriced(rig: Rig, warehouse: Warehouse) -> None:
    rig.send("gpt-5-mini", provider="openai", tier="flex", calls=1)
    (flex,) = costs(warehouse, rig)
    book = PriceBook().at("openai", "gpt-5-mini", AT.date(), "flex")
    assert book is not None
    assert flex[:2] == (Decimal(book.rates.input * 1000 + book.rates.output * 100) / 10**15, "priced")
    rig.send("gpt-5-mini", provider="openai", tier="scale", calls=1)
    assert (None, "unpriced", "") in costs(warehouse, rig)
    _, lines = rig.command("prices", "missing")
    assert lines[0] == "openai/gpt-5-mini (scale)" and lines[2].endswith("--service-tier scale")
    tenant_rows = warehouse.ask("unpriced_models", tenant=rig.tenant, part="test", since=AT - timedelta(hours=1),
                                until=AT + timedelta(hours=1), limit=9)  # fmt: skip
    assert [row["model"] for row in tenant_rows] == ["gpt-5-mini (scale)"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"input": "cheap"}, "input = 'cheap'; write USD per million tokens"),
        ({"input": ""}, "input is missing"),
        ({"input": "-1"}, "input = '-1'"),
        ({"output": "9999999"}, "output = '9999999'"),
        ({"valid_from": "soon"}, "valid_from = 'soon'; write a date"),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"tiers": [{"over": "many", "input": "1", "output": "1"}]}, "over = 'many'; write the input tokens"),
        ({"tiers": [{"over": 5}]}, "lacks input, output"),
        ({"tiers": "none"}, "tiers: write a list of tables"),
    ],
)
def test_a_bad_price_is_refused_with_the_value_and_changes_nothing(
    rig: Rig, change: dict[str, Any], says: str
) -> None:
    model = f"house-{uuid.uuid4().hex[:8]}"
    price = {"provider": "vllm", "model": model, "input": "1", "output": "1", "valid_from": TODAY} | change
    status, answer = rig.ask("POST", "/v1/prices", price)
    assert status == 400 and says in answer["error"]["message"]
    assert rig.ask("GET", f"/v1/prices/history?provider=vllm&model={model}")[1] == {"prices": [], "added": []}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/prices"), ("GET", "/v1/prices/own"), ("GET", "/v1/prices/missing"), ("POST", "/v1/prices"),
     ("POST", "/v1/prices/reprice")],
)  # fmt: skip
def test_prices_are_for_those_with_a_key(rig: Rig, method: str, path: str) -> None:
    status, answer = rig.ask(method, path, {}, x_farthing_key="wrong")
    assert status == 401 and "unknown" in answer["error"]["message"]


def test_a_form_of_another_site_changes_no_price(rig: Rig) -> None:
    price = {"provider": "vllm", "model": "m", "input": "1", "output": "1"}
    assert rig.ask("POST", "/v1/prices", price, content_type="text/plain")[0] == 415


def test_one_tenant_of_several_cannot_change_the_prices_of_all(
    warehouse: Warehouse, serve: Serve, tmp_path: Path
) -> None:
    keys = (IngestKey("key", "shop"), IngestKey("operator", "default"))
    settings = Settings(data_dir=tmp_path, ingest_keys=keys, collector_grpc_port=0)
    with serve(Collector(settings, warehouse)) as port:
        rig = Rig(port, "shop", tmp_path)
        price = {"provider": "vllm", "model": f"m-{uuid.uuid4().hex}", "input": "1", "output": "1"}
        status, answer = rig.ask("POST", "/v1/prices", price)
        assert status == 403 and "send a key of the tenant 'default'" in answer["error"]["message"]
        assert rig.ask("POST", "/v1/prices", price, x_farthing_key="operator")[0] == 200


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("prices", "show", "no-such-model"), "no price for no-such-model; add one with"),
        (("prices", "show", "gpt-4o", "--date", "soon"), "date='soon': write a date"),
        (("reprice", "--since", "soon"), "since='soon': write a date or a time"),
        (("reprice", "--since", "2026-11-02", "--until", "2026-11-01"), "is not before until"),
        (("prices", "add", "a", "b", "--input", "1", "--output", "1", "--from", TODAY, "--tier", "{"), "write JSON"),
    ],
)
def test_a_wrong_word_is_one_line(rig: Rig, arguments: tuple[str, ...], says: str) -> None:
    code, lines = rig.command(*arguments)
    assert code == 2 and len(lines) == 1 and says in lines[0]


def test_show_says_what_holds_on_a_date(rig: Rig) -> None:
    code, lines = rig.command("prices", "show", "claude-sonnet-4-5", "--provider", "anthropic", "--date", "2026-11-01")
    assert code == 0
    assert lines[0].startswith("anthropic/claude-sonnet-4-5") and "genai-prices" in lines[0]
    assert "cache_write 3.75" in lines[1] and "cache_write_1h 6" in lines[1]
    assert "over 200,000 input tokens: input 6" in lines[2]
    assert any("(batch)" in line for line in lines)
