"""What the proxy's tests share: the engine's real weights, converted once per machine, and a real engine server."""
from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import uvicorn
from openai import OpenAI

from farthing.settings import Settings
from proxy.engine.chat import ChatTokenizer
from proxy.engine.main import app
from proxy.engine.model import Llama, load_model
from proxy.engine.weights import ensure_weights
from tests.proxy.rig import HOST_SECRET, SECRET, Errors, Rig, answer_of, answers, rig_in
from tests.until import until

ENGINE_CACHE = Path("~/.cache/farthing").expanduser()

Serve = Callable[[Settings], contextlib.AbstractContextManager[str]]


@pytest.fixture(scope="session")
def weights() -> Path:
    torch.set_num_threads(1)
    return ensure_weights(ENGINE_CACHE, "smollm2-135m")


@pytest.fixture(scope="session")
def model(weights: Path) -> Llama:
    return load_model(weights, "float32")


@pytest.fixture(scope="session")
def chat(weights: Path) -> ChatTokenizer:
    return ChatTokenizer(weights)


@contextlib.contextmanager
def serve(settings: Settings) -> Iterator[str]:
    """Serve the engine on a free port of this machine; yield its base URL."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        server = uvicorn.Server(uvicorn.Config(app(settings), log_level="warning", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def serve_engine() -> Serve:
    return serve


@pytest.fixture(scope="session")
def engine_url(weights: Path) -> Iterator[str]:
    settings = Settings(cache_dir=ENGINE_CACHE, engine_slots=4, engine_max_tokens=512, max_request_bytes=100_000)
    with serve(settings) as url:
        until(lambda: is_ready(url), "the engine is loaded")
        yield url


def is_ready(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/healthz") as answer:
        return answer.status == 200
    return False


@pytest.fixture(scope="session")
def client(engine_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{engine_url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def shared_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    os.environ |= {"UPSTREAM_KEY": SECRET, "OTHER_KEY": HOST_SECRET}
    with rig_in(tmp_path_factory.mktemp("rig")) as rig:
        handler = Errors(rig.wrong)
        loggers = [logging.getLogger(name) for name in ("uvicorn.error", "asyncio")]
        for logger in loggers:
            logger.addHandler(handler)
        yield rig
        for logger in loggers:
            logger.removeHandler(handler)
    del os.environ["UPSTREAM_KEY"], os.environ["OTHER_KEY"]


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    """The rig; nothing may go wrong in it that no caller hears of."""
    shared_rig.wrong.clear()
    shared_rig.upstream.next(answers(answer_of()))
    yield shared_rig
    shared_rig.clients.close()
    shared_rig.upstream.release.set()
    shared_rig.quiet()
    assert shared_rig.wrong == []
