"""proxy/azure.py: Azure's spelling of the API, towards us by its real client and towards a deployment there."""
from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from farthing import semconv
from farthing.errors import SettingsError
from farthing.settings import Deployment, Settings
from proxy.azure import _named  # pyright: ignore[reportPrivateUsage]
from proxy.dispatch import Deployments
from tests.proxy.rig import EVENTS, SECRET, Rig, answers, streams
from tests.proxy.test_formats import EMBEDDING, RESPONSE

HI: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.fixture
def team(rig: Rig) -> str:
    return rig.budget()


@pytest.fixture
def azure(rig: Rig, team: str) -> Iterator[openai.AzureOpenAI]:
    """The official client, pointed at the proxy instead of at Azure."""
    with openai.AzureOpenAI(
        azure_endpoint=rig.proxy, api_version="2024-10-21", api_key="of-the-client", max_retries=0,
        default_headers={semconv.HEADER_TAGS: f"team={team}"},
    ) as client:  # fmt: skip
        yield client


def test_the_azure_client_chats_and_streams_through_the_one_admission_path(
    rig: Rig, team: str, azure: openai.AzureOpenAI
) -> None:
    answer = azure.chat.completions.create(model="dated", messages=HI, max_tokens=20)
    assert answer.choices[0].message.content == "hello"
    (received,) = rig.upstream.received
    assert received.path == "/azure/openai/deployments/of%20ours/chat/completions?api-version=2024-10-21"
    assert received.headers["api-key"] == SECRET and "authorization" not in received.headers
    assert rig.span(team)[semconv.PROVIDER_NAME] == "azure.ai.openai"  # held, settled and recorded as any other
    rig.upstream.next(streams(EVENTS))
    stream = azure.chat.completions.create(model="dated", messages=HI, max_tokens=20, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == "hello"


def test_what_azure_asks_of_the_resource_has_no_deployment_in_its_path(rig: Rig, azure: openai.AzureOpenAI) -> None:
    rig.upstream.next(answers(json.dumps(RESPONSE).encode()))
    assert azure.responses.create(model="dated", input="hi", max_output_tokens=20).output_text == "hello"
    assert rig.upstream.received[0].path == "/azure/openai/responses?api-version=2024-10-21"
    rig.upstream.next(answers(json.dumps(EMBEDDING).encode()))
    assert azure.embeddings.create(model="dated", input="hi").data[0].embedding == [0.5, -0.5]
    assert rig.upstream.received[0].path.startswith("/azure/openai/deployments/of%20ours/embeddings?")
    assert "dated" in [model.id for model in azure.models.list()]
    file = azure.files.create(file=("lines.jsonl", b'{"custom_id": "1"}\n'), purpose="batch")
    assert azure.files.content(file.id).read() == b'{"custom_id": "1"}\n'


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b'{"messages": [], "seed":1}', b'{"model":"gpt-plain","messages": [], "seed":1}'),
        (b'{"model": "gpt-plain", "n":1}', b'{"model": "gpt-plain", "n":1}'),
        (b'{"model":"of the body","n":1}', b'{"model":"gpt-plain","n":1}'),
        (b"{}", b'{"model":"gpt-plain"}'),
        (b"[1]", b"[1]"),
        (b'{"model": ', b'{"model": '),
    ],
    ids=["missing", "same", "another", "empty", "no object", "no JSON"],
)
def test_the_deployment_in_the_path_is_the_model_and_the_rest_of_the_body_stays(body: bytes, sent: bytes) -> None:
    assert _named(body, "gpt-plain") == sent


def test_a_refusal_reaches_the_azure_client_as_an_error_of_its_own(rig: Rig) -> None:
    team = rig.budget("0.00000001 USD")
    with openai.AzureOpenAI(
        azure_endpoint=rig.proxy, api_version="2024-10-21", api_key="x", max_retries=0,
        default_headers={semconv.HEADER_TAGS: f"team={team}"},
    ) as client:  # fmt: skip
        with pytest.raises(openai.RateLimitError, match=f"budget '{team}'"):
            client.chat.completions.create(model="dated", messages=HI, max_tokens=20)
        with pytest.raises(openai.NotFoundError, match="the model 'nowhere' is not served here"):
            client.chat.completions.create(model="nowhere", messages=HI, max_tokens=20)


def test_only_azure_has_versions() -> None:
    with pytest.raises(SettingsError, match=r"api_version = '2024-10-21'; only api = 'azure'"):
        Deployments(Settings(deployments=(Deployment("m", "http://x/v1", "openai", api_version="2024-10-21"),)))
