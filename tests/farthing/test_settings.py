"""farthing/settings.py: one table, read once; what cannot be understood stops the start and is named."""
from __future__ import annotations

from pathlib import Path

import pytest

from farthing.errors import SettingsError
from farthing.settings import read_settings


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "farthing.toml"
    file.write_text('proxy_port = 1111\npolicies_port = 2222\ndata_dir = "~/there"\n')
    settings = read_settings({"FARTHING_CONFIG": str(file), "FARTHING_PROXY_PORT": "3333"})
    assert (settings.proxy_port, settings.policies_port, settings.engine_port) == (3333, 2222, 7303)
    assert settings.data_dir == Path("~/there").expanduser()


def test_tables_of_the_file_become_records(tmp_path: Path) -> None:
    file = tmp_path / "farthing.toml"
    file.write_text(
        '[[deployments]]\nmodel = "gpt"\nurl = "https://up.example/v1/"\nprovider = "openai"\nmetered = true\n'
    )
    (deployment,) = read_settings({"FARTHING_CONFIG": str(file)}).served()
    assert (deployment.model, deployment.url, deployment.metered) == ("gpt", "https://up.example/v1", True)


def test_a_price_of_the_file_may_have_size_tiers(tmp_path: Path) -> None:
    file = tmp_path / "farthing.toml"
    file.write_text(
        '[[prices]]\nprovider = "x"\nmodel = "y"\ninput = 1\noutput = "2"\nservice_tier = "flex"\n'
        'tiers = [{ over = 1000, input = "2", output = "4" }]\n'
    )
    (price,) = read_settings({"FARTHING_CONFIG": str(file)}).prices
    assert (price.input, price.service_tier) == ("1", "flex")
    assert price.tiers == ({"over": 1000, "input": "2", "output": "4"},)


def test_the_bundled_engine_s_deployments_follow_its_port() -> None:
    served = read_settings({"FARTHING_ENGINE_PORT": "9999"}).served()
    assert {deployment.url for deployment in served} == {"http://127.0.0.1:9999/v1"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("proxxy_port = 1", "unknown setting proxxy_port = 1; known: .*proxy_port"),
        ("proxy_port = 'x'", "proxy_port='x': allowed is a whole number, such as 7302"),
        ("proxy_port = 99999", "allowed is a port from 0 to 65535"),
        ("require_ingest_key = 'maybe'", "allowed are true and false"),
        ("[[deployments]]\nurl = 'x'", "lacks model"),
        ("[[deployments]]\nmodel = 'x'\ncolour = 'red'", "unknown key colour = 'red'; known: model, url"),
        ("deployments = 3", "write it as"),
        ('[[prices]]\nprovider="x"\nmodel="y"\ninput="1"\noutput="1"\ntiers=3', "tiers=3: write a list of tables"),
        ("= nonsense", "not valid TOML"),
    ],
)
def test_a_bad_file_stops_the_start_and_names_the_key(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "farthing.toml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=says):
        read_settings({"FARTHING_CONFIG": str(file)})


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("FLUSH_INTERVAL_S", "nan", "'nan': allowed is 0 or more"),
        ("REQUEST_TIMEOUT_S", "inf", "'inf': allowed is 0 or more"),
        ("HOST", "", "FARTHING_HOST is empty; write a value, or leave it out for the default, 127.0.0.1"),
        ("DATA_DIR", " ", "FARTHING_DATA_DIR is empty"),
        ("DATA_DIR", f"{__file__}/below", r"data_dir='.*below': .*test_settings.py is a file; name a folder"),
        ("ENGINE_SLOTS", "0", "engine_slots=0: allowed is more than 0"),
        ("APPROVAL_SHARE", "7", "approval_share=7: allowed is 0 to 1"),
        ("POLICIES_URL", "127.0.0.1:7301", "policies_url='127.0.0.1:7301': write an address, such as http://"),
        ("ANALYZER_URL", "http://127.0.0.1:abc", "analyzer_url='http://127.0.0.1:abc': write an address"),
        ("WAREHOUSE", "localhost", "warehouse does not begin with chdb://, clickhouse://"),
    ],
)
def test_a_value_that_means_nothing_stops_the_start(name: str, value: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        read_settings({f"FARTHING_{name}": value})


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ([("", "shop")], "the key of entry 1 is empty"),
        ([("k", "shop"), ("other", "")], "the tenant of entry 2 is empty"),
        ([("two words", "shop")], "the key of entry 1 cannot stand in a header; use ASCII, no blanks"),
        ([("schlüssel", "shop")], "cannot stand in a header"),
        ([("k", "shop"), ("k", "bank")], "entry 2 has the key of another tenant"),
    ],
)
def test_an_ingest_key_that_lets_in_nobody_or_everybody_stops_the_start(
    tmp_path: Path, keys: list[tuple[str, str]], says: str
) -> None:
    path = tmp_path / "farthing.toml"
    path.write_text("".join(f'[[ingest_keys]]\nkey = "{key}"\ntenant = "{tenant}"\n' for key, tenant in keys), "utf-8")
    with pytest.raises(SettingsError, match=says) as caught:
        read_settings({"FARTHING_CONFIG": str(path)})
    assert not any(key and f"{key!r}" in str(caught.value) for key, _ in keys)


def test_an_unknown_variable_stops_the_start() -> None:
    with pytest.raises(SettingsError, match="unknown setting FARTHING_PROXI='1'"):
        read_settings({"FARTHING_PROXI": "1"})


def test_a_named_file_that_is_missing_stops_the_start() -> None:
    with pytest.raises(SettingsError, match="no such file"):
        read_settings({"FARTHING_CONFIG": "/nowhere.toml"})
