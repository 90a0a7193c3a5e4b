"""The models that this process serves: one instance per (weights, dtype), loaded in the background."""
from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from farthing.errors import EngineError
from farthing.settings import Deployment, Settings
from proxy.engine.chat import ChatTokenizer
from proxy.engine.embedder import Embedder
from proxy.engine.encoder import ENCODERS, TextTokenizer, load_encoder, locate_encoder
from proxy.engine.model import DTYPES, load_model
from proxy.engine.scheduler import Scheduler
from proxy.engine.weights import ENGINES, ensure_weights, is_complete, locate_gguf
from proxy.engine.worker import Worker, warm_up

DEFAULT_DTYPE = "float32"


@dataclass(frozen=True)
class Served:
    """One loaded model."""

    engine: str  # name of the weights
    dtype: str
    device: str  # cpu | cuda
    names: tuple[str, ...]  # model names that clients ask for
    worker: Worker
    chat: ChatTokenizer


@dataclass(frozen=True)
class ServedEncoder:
    """One loaded model that embeds."""

    engine: str  # name of the weights
    device: str  # cpu | cuda
    names: tuple[str, ...]  # model names that clients ask for
    embedder: Embedder
    tokenizer: TextTokenizer


@dataclass
class Fleet:
    """All models of the process; `state` and `error` tell how loading went."""

    settings: Settings
    state: str = "loading"  # loading | ready | failed | closed
    error: str = ""
    served: list[Served] = field(default_factory=list)
    encoders: list[ServedEncoder] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._names = names_by_instance(self.settings.deployments)
        self._closing = threading.Lock()
        self._loading = threading.Thread(target=self._load, name="engine-load", daemon=True)

    @property
    def names(self) -> list[str]:
        """The model names that clients may ask for, loaded or not."""
        return [name for names in self._names.values() for name in names]

    @property
    def encoder_names(self) -> list[str]:
        """Those of `names` that embed."""
        return [name for (engine, _), names in self._names.items() if engine in ENCODERS for name in names]

    def find(self, model: str) -> Served | None:
        """Return the loaded instance that serves `model`, or None while it is not there."""
        return next((served for served in self.served if model in served.names), None)

    def check(self) -> None:
        """Refuse a start that cannot succeed.

        Raises:
            EngineError: no deployment names an engine, one names an unknown one, or the weight package is missing.
        """
        if not self._names:
            raise EngineError(f"no deployment is served by the engine; set engine to {ENGINES[0]} in one")
        for engine, dtype in self._names:
            if engine in ENCODERS:
                _check_encoder(engine, dtype)
                continue
            if dtype not in DTYPES:
                raise EngineError(f"{engine}: dtype {dtype!r} is not supported; allowed are {', '.join(DTYPES)}")
            if not is_complete(self.settings.cache_dir.expanduser() / engine):
                locate_gguf(engine)

    def load_in_background(self) -> None:
        """Start loading; `state` tells when it is over."""
        self._loading.start()

    def close(self) -> None:
        """End all requests and threads; the loading one too, as torch aborts a process that exits under it."""
        with self._closing:
            self.state = "closed"
        if self._loading.is_alive():
            self._loading.join()
        for served in self.served:
            served.worker.close()
        for encoder in self.encoders:
            encoder.embedder.close()

    def _load(self) -> None:
        try:
            self.check()
            torch.set_num_threads(max(1, self.settings.engine_threads))
            for (engine, dtype), names in self._names.items():
                if self.state != "loading":
                    break
                if engine in ENCODERS:
                    self._add_encoder(_load_encoder(engine, names, self.settings.engine_threads))
                else:
                    self._add(self._load_one(engine, dtype, names))
        except Exception as error:  # noqa: BLE001 - whatever it is, /healthz must tell it instead of `loading` for ever
            self.error = str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
            print(f"engine: {self.error}", file=sys.stderr)
        with self._closing:
            if self.state == "loading":
                self.state = "failed" if self.error else "ready"

    def _load_one(self, engine: str, dtype: str, names: tuple[str, ...]) -> Served:
        folder = ensure_weights(self.settings.cache_dir, engine)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_model(folder, dtype, device)
        scheduler = Scheduler(model, max(1, self.settings.engine_slots), self.settings.engine_max_tokens)
        worker = Worker(scheduler, self.settings.engine_threads, f"{engine}-{dtype}")
        chat = ChatTokenizer(folder)
        warm_up(worker, chat)
        return Served(engine, dtype, device, names, worker, chat)

    def _add(self, served: Served) -> None:
        with self._closing:
            if self.state == "loading":
                served.worker.start()
                self.served.append(served)

    def _add_encoder(self, served: ServedEncoder) -> None:
        with self._closing:
            if self.state == "loading":
                served.embedder.start()
                self.encoders.append(served)


def _check_encoder(engine: str, dtype: str) -> None:
    if dtype != DEFAULT_DTYPE:
        raise EngineError(f"{engine}: dtype {dtype!r} is not supported for an encoder; allowed is {DEFAULT_DTYPE}")
    locate_encoder(engine)


def _load_encoder(engine: str, names: tuple[str, ...], threads: int) -> ServedEncoder:
    folder = locate_encoder(engine)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = load_encoder(folder, device)
    tokenizer = TextTokenizer(folder, encoder.shape)
    encoder.encode([tokenizer.encode("warm up")])  # so that no client pays for what torch sets up once
    return ServedEncoder(engine, device, names, Embedder(encoder, threads, engine), tokenizer)


def names_by_instance(deployments: Iterable[Deployment]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the names under which each (weights, dtype) is served, from the deployments that name an engine."""
    names: dict[tuple[str, str], tuple[str, ...]] = {}
    for deployment in deployments:
        if deployment.engine:
            instance = (deployment.engine, deployment.dtype or DEFAULT_DTYPE)
            name = deployment.upstream_model or deployment.model
            names[instance] = tuple(dict.fromkeys((*names.get(instance, ()), name)))
    return names
