from __future__ import annotations

import base64
import json
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy
import openai
import pytest
import torch
from openai import OpenAI

from farthing.errors import EngineError
from farthing.settings import Deployment, Settings
from proxy.engine.embedder import STEP_TOKENS, Embedded, Embedder, EmbedRequest
from proxy.engine.encoder import Encoder, TextTokenizer, load_encoder, locate_encoder
from proxy.engine.fleet import Fleet
from proxy.semantic import as_vector
from tests.until import until

MODEL = "all-minilm-l6-v2"
LONG = " ".join(["the cat sat on the mat"] * 30)
# The first six numbers, the sum and the token count that transformers 5's AutoModel, averaged and normalised, gives
REFERENCE = [
    (
        "How do I reset my password on the mobile app?",
        13,
        [-0.052377, -0.004398, -0.039674, -0.01974, -0.047949, 0.056187],
        -0.175897,
    ),
    ("Hello Wörld, it's 3.5", 11, [0.011942, -0.02671, 0.034602, -0.00104, 0.0542, -0.179895], 0.659425),
    ("猫が好きです — naïve café", 11, [0.017081, 0.012044, 0.039777, 0.069434, -0.078188, 0.068053], 0.104759),
    (LONG, 182, [0.037948, -0.037455, -0.036368, 0.005455, -0.087977, 0.051096], -0.367243),
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.set_num_threads(1)
    return load_encoder(locate_encoder(MODEL))


@pytest.fixture(scope="module")
def tokenizer(encoder: Encoder) -> TextTokenizer:
    return TextTokenizer(locate_encoder(MODEL), encoder.shape)


def vectors(client: OpenAI, texts: Any, **more: Any) -> numpy.ndarray:
    answer = client.embeddings.create(model=MODEL, input=texts, **more)
    assert [one.index for one in answer.data] == list(range(len(answer.data)))
    return numpy.array([one.embedding for one in answer.data], numpy.float32)


@pytest.mark.parametrize(("text", "tokens", "first", "total"), REFERENCE, ids=["plain", "accents", "kana", "long"])
def test_vectors_are_those_of_the_reference_implementation(
    client: OpenAI, text: str, tokens: int, first: list[float], total: float
) -> None:
    answer = client.embeddings.create(model=MODEL, input=text)
    vector = numpy.array(answer.data[0].embedding)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == tokens
    assert vector[:6] == pytest.approx(first, abs=2e-5) and vector.sum() == pytest.approx(total, abs=1e-4)
    assert len(vector) == 384 and numpy.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_what_means_the_same_lies_nearer_than_what_does_not(client: OpenAI) -> None:
    password, forgot, hamlet, plot, boil = vectors(
        client,
        [
            "How do I reset my password?",
            "I forgot my password, what now?",
            "Summarise the plot of Hamlet",
            "Give me a short summary of Hamlet",
            "At what temperature does water boil?",
        ],
    )
    assert password @ forgot > 0.6 and hamlet @ plot > 0.8
    assert max(password @ hamlet, password @ boil, hamlet @ boil, forgot @ plot) < 0.3


def test_a_text_gets_the_same_vector_alone_and_among_others(client: OpenAI) -> None:
    texts = [text for text, *_ in REFERENCE]
    together = vectors(client, texts)
    assert numpy.abs(together - numpy.concatenate([vectors(client, text) for text in texts])).max() < 1e-5
    assert client.embeddings.create(model=MODEL, input=texts).usage.prompt_tokens == 13 + 11 + 11 + 182


def test_base64_holds_the_numbers_that_float_shows(engine_url: str) -> None:
    body = {"model": MODEL, "input": "one text"}
    shown = post(engine_url, body | {"encoding_format": "float"})[1]["data"][0]["embedding"]
    packed = base64.b64decode(post(engine_url, body | {"encoding_format": "base64"})[1]["data"][0]["embedding"])
    assert numpy.frombuffer(packed, "<f4").tolist() == shown and len(shown) == 384
    assert as_vector(packed).tolist() == pytest.approx(shown, abs=1e-6)


def test_tokens_of_ones_own_give_the_vector_of_their_text(client: OpenAI, tokenizer: TextTokenizer) -> None:
    tokens = tokenizer.encode("a quiet river")[1:-1]
    text = vectors(client, "a quiet river")
    assert (vectors(client, list(tokens)) == text).all()
    assert (vectors(client, [list(tokens), list(tokens)]) == text).all()


def test_control_tokens_in_a_text_are_text(tokenizer: TextTokenizer) -> None:
    assert len(tokenizer.encode("[SEP] hi")) == 6  # [CLS] [ sep ] hi [SEP]


def test_dimensions_are_taken_where_they_are_the_models_own(client: OpenAI) -> None:
    assert vectors(client, "one", dimensions=384).shape == (1, 384)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"dimensions": 256}, "dimensions", "unsupported_parameter"),
    ({"input": ""}, "input", "invalid_value"),
    ({"input": []}, "input", "invalid_value"),
    ({"input": ["a", ""]}, "input", "invalid_value"),
    ({"input": ["a", 1]}, "input", "invalid_value"),
    ({"input": {"text": "a"}}, "input", "invalid_value"),
    ({"input": [True]}, "input", "invalid_value"),
    ({"input": [1, -2]}, "input", "invalid_value"),
    ({"input": [30_522]}, "input", "invalid_value"),
    ({"input": ["a"] * 2049}, "input", "invalid_value"),
    ({"input": "word " * 511}, "input", "context_length_exceeded"),
    ({"encoding_format": "hex"}, "encoding_format", "invalid_value"),
    ({"model": "smollm2-135m"}, "model", "invalid_value"),
]


@pytest.mark.parametrize(("change", "param", "code"), REFUSED)
def test_what_cannot_be_embedded_is_refused_by_name(
    engine_url: str, change: dict[str, Any], param: str, code: str
) -> None:
    status, body = post(engine_url, {"model": MODEL, "input": "x"} | change)
    assert status == 400 and body["error"]["type"] == "invalid_request_error"
    assert (body["error"]["param"], body["error"]["code"]) == (param, code)


def test_the_longest_text_that_fits_is_embedded(client: OpenAI) -> None:
    assert client.embeddings.create(model=MODEL, input="word " * 510).usage.prompt_tokens == 512


def test_the_clients_own_errors_name_what_embeds_and_what_writes(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=f"those that embed: {MODEL}"):
        client.embeddings.create(model="text-embedding-3-small", input="x")
    with pytest.raises(openai.BadRequestError, match="embeds and does not write"):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])


def test_callers_at_the_same_time_share_steps_and_get_their_own_vectors(client: OpenAI, engine_url: str) -> None:
    texts = [f"sentence number {i}" for i in range(24)]
    alone = vectors(client, texts)
    before = totals(engine_url)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: vectors(client, text)[0], texts))
    after = totals(engine_url)
    assert numpy.abs(numpy.array(found) - alone).max() < 1e-5
    assert after["rows"] - before["rows"] == 24 > after["steps"] - before["steps"]
    assert after["busy_s"] > before["busy_s"]


def test_a_step_takes_rows_up_to_its_bound_of_padded_tokens(encoder: Encoder) -> None:
    embedder = Embedder(encoder, 1, "t")
    found: list[Embedded] = []
    rows = [tuple(range(1000, 1200))] * 7 + [(101, 102)]
    embedder.submit(EmbedRequest(rows, found.append))
    steps = 0
    while embedder.step():
        steps += 1
    assert STEP_TOKENS["cpu"] == 1024 and steps == 2  # the short one and four of 200 tokens, then three
    assert embedder.totals.tokens == 1402 and embedder.totals.padded_tokens == 1600 and embedder.waiting_tokens == 0
    assert len(found) == 1 and len(found[0].vectors) == 8 and found[0].vectors[0] == found[0].vectors[6]
    assert 0 < found[0].engine_ns <= embedder.totals.busy_ns


def test_a_request_that_is_cancelled_is_not_embedded(encoder: Encoder) -> None:
    embedder = Embedder(encoder, 1, "t")
    found: list[str] = []
    first = EmbedRequest([(101, 102)], lambda one: found.append("first"))
    embedder.submit(first)
    embedder.submit(EmbedRequest([(101, 103)], lambda one: found.append("second")))
    embedder.cancel(first)
    embedder.cancel(first)
    while embedder.step():
        pass
    assert found == ["second"] and (embedder.totals.rows, embedder.totals.cancelled) == (1, 1)


def test_requests_that_wait_when_the_engine_closes_get_an_error(encoder: Encoder) -> None:
    embedder = Embedder(encoder, 1, "t")
    found: list[Embedded] = []
    embedder.submit(EmbedRequest([(101, 102)], found.append))
    embedder.close()
    assert [one.error for one in found] == ["the engine is shutting down"]


def test_a_step_that_fails_ends_its_requests_and_not_the_thread(encoder: Encoder) -> None:
    embedder = Embedder(encoder, 1, "t")
    embedder.start()
    done = threading.Event()
    found: list[Embedded] = []
    embedder.submit(EmbedRequest([(10**9,)], found.append))  # past the vocabulary, which the tokenizer would refuse

    def last(one: Embedded) -> None:
        found.append(one)
        done.set()

    embedder.submit(EmbedRequest([(101, 102)], last))
    try:
        assert done.wait(120)
    finally:
        embedder.close()
    assert any("the engine failed" in one.error for one in found) and len(found) == 2


def test_an_encoder_in_bfloat16_is_refused_at_the_start() -> None:
    deployment = Deployment("e", engine=MODEL, dtype="bfloat16")
    with pytest.raises(EngineError, match="'bfloat16' is not supported for an encoder; allowed is float32"):
        Fleet(Settings(deployments=(deployment,))).check()


def test_an_engine_that_only_embeds_starts_and_says_so(serve_engine: Any) -> None:
    with serve_engine(Settings(deployments=(Deployment("mine", engine=MODEL),))) as url:
        until(lambda: get(f"{url}/healthz")[0] == 200, "it is loaded")
        assert get(f"{url}/healthz")[1] == {"status": "ok", "models": ["mine"]}
        assert post(url, {"model": "mine", "input": "x"})[1]["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


def totals(url: str) -> dict[str, Any]:
    return next(one for one in get(f"{url}/v1/steps")[1]["encoders"] if MODEL in one["names"])["totals"]


def get(url: str) -> tuple[int, dict[str, Any]]:
    return _open(urllib.request.Request(url))


def post(url: str, body: Any) -> tuple[int, dict[str, Any]]:
    return _open(urllib.request.Request(f"{url}/v1/embeddings", json.dumps(body).encode()))


def _open(request: urllib.request.Request) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
