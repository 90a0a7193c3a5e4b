"""The gain models that this worker predicts with: fetched once a version, checked, kept on the disk, swapped in whole.

The document names them by checksum; the weights lie beside it, because a change of a policy must not carry them. Until
a new one is here, and where it is refused, the one before stays in use.
"""
from __future__ import annotations

import asyncio
import logging
import os
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import msgspec

from farthing.errors import DocumentError, UpstreamError
from farthing.policy import CompiledDocument
from farthing.policy.facts import Facts
from farthing.policy.features import Features, Reader
from farthing.policy.gain import GainModel
from farthing.policy.route import Pair
from farthing.policy.trained import Trained
from proxy.prompt import text_of
from proxy.request import Asked
from proxy.upstream import Client, Timeouts

log = logging.getLogger(__name__)

_RETRY_S = 5.0
_TIMEOUTS = Timeouts(connect=2.0, headers=10.0, between=10.0)
_BODY_BYTES = 2 * 1024 * 1024
_SHOWN = 200  # characters that a header tells of all models


_About = tuple[str, Pair]  # a tenant, and two of its models


class Predicted(msgspec.Struct, frozen=True):
    """What a prompt looked like, and what a stronger model would gain by it."""

    features: Features
    key: str  # names the key that its words were hashed with
    gain: float | None = None  # None: there is no model yet
    version: int = 0  # of the model that predicted it
    tenant: str = ""  # whose prompt it is, where that is not the proxy's own tenant

    def stored(self) -> str:
        """Return what a row keeps, to train with."""
        return f"{self.key}:{b64encode(self.features.to_bytes()).decode()}"


class Gains:
    """The gain models of one worker: each tenant's own, and for one that has none there is none.

    A call's tenant is its key's; `tenant` is the proxy's own, whose calls are those of keys that name none.
    """

    def __init__(self, client: Client, policies_url: str, folder: Path, hash_key: bytes, tenant: str) -> None:
        self._client = client
        self._url = f"{policies_url}/v1/gains/"
        self._folder = folder
        self._tenant = tenant
        own = blake2b(hash_key, digest_size=32, person=b"features").digest()
        self.key = blake2b(own, digest_size=4).hexdigest()
        self._reader = Reader(own)
        self._in_use: Mapping[_About, tuple[Trained, GainModel]] = {}
        self._refused: dict[str, str] = {}  # checksum -> why
        self._wanted: Sequence[Trained] = ()
        self._task: asyncio.Task[None] | None = None
        self.report: Callable[[], Awaitable[None]] | None = None  # told once all that can be had is here

    def predict(self, facts: Facts, pair: Pair, asked: Asked) -> Predicted:
        """Return what is known of a prompt, by the model of its own tenant."""
        features = self._reader.read(text_of(asked), facts.feature)
        tenant = "" if facts.tenant == self._tenant else facts.tenant
        found = self._in_use.get((facts.tenant, pair)) or self._in_use.get((tenant, pair))
        if found is None:
            return Predicted(features, self.key, tenant=tenant)
        return Predicted(features, self.key, found[1].predict(features).gain, found[0].version, tenant)

    def follow(self, compiled: CompiledDocument) -> None:
        """Take the models that a document names: those on the disk at once, the others when they are here."""
        if compiled.document.trained == self._wanted:
            return
        self._wanted = compiled.document.trained
        self._forget()
        for one in self._missing():
            if body := self._kept(one):
                self._use(one, self._checked(one, body))
        if self._missing() and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._fetch())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def status(self) -> list[dict[str, object]]:
        """Return what is used of each pair that the document names."""
        return [self._line(one) for one in self._wanted]

    def told(self) -> str:
        """Return the same in one line of ASCII, for the control plane; empty where there is nothing to tell."""
        lines = [
            str(one) if self._uses(one) else f"{one} missing ({self._refused.get(one.checksum, 'on its way')})"
            for one in self._wanted
        ]
        return " ".join(", ".join(lines).split()).encode("ascii", "replace").decode()[:_SHOWN]

    def _line(self, one: Trained) -> dict[str, object]:
        used = self._in_use.get(_about(one))
        return {
            "tenant": one.tenant or self._tenant, "weak": one.weak, "strong": one.strong, "grade": one.grade,
            "version": one.version, "version_in_use": used[0].version if used else None,
            "refused": self._refused.get(one.checksum, ""),
        }  # fmt: skip

    def _uses(self, one: Trained) -> bool:
        used = self._in_use.get(_about(one))
        return used is not None and used[0].checksum == one.checksum

    def _missing(self) -> list[Trained]:
        return [one for one in self._wanted if not self._uses(one) and one.checksum not in self._refused]

    def _forget(self) -> None:
        """Let go of the models that are named no longer."""
        wanted, checksums = {_about(one) for one in self._wanted}, {one.checksum for one in self._wanted}
        self._in_use = {about: used for about, used in self._in_use.items() if about in wanted}
        self._refused = {checksum: why for checksum, why in self._refused.items() if checksum in checksums}
        used = checksums | {used[0].checksum for used in self._in_use.values()}
        for path in self._folder.glob("*.json") if self._folder.exists() else ():
            if path.stem not in used:
                path.unlink(missing_ok=True)

    async def _fetch(self) -> None:
        while missing := self._missing():
            for one in missing:
                try:
                    response = await self._client.request("GET", self._url + one.checksum, timeouts=_TIMEOUTS)
                    body = await response.read(_BODY_BYTES)
                except UpstreamError as error:
                    log.warning("gain model %s: %s", one, error)
                    continue
                if response.status == 200:
                    await asyncio.to_thread(self._keep, one, body)
                    self._use(one, await asyncio.to_thread(self._checked, one, body))
                elif response.status == 404:
                    self._refused[one.checksum] = "the control plane has it no more"
            if self._missing():
                await asyncio.sleep(_RETRY_S)
        if self.report is not None:
            await self.report()

    def _checked(self, one: Trained, body: bytes) -> GainModel | str:
        """Return a model that is what the document names and fits this proxy, else why it is not."""
        try:
            model = GainModel.from_json(body)
        except DocumentError as error:
            return str(error)
        if model.checksum != one.checksum:
            return f"its checksum is {model.checksum[:12]}, the document names {one.checksum[:12]}"
        if model.trained.get("key") != self.key:
            return "it was trained with another hash_key; set one hash_key for all proxies"
        return model

    def _use(self, one: Trained, model: GainModel | str) -> None:
        if isinstance(model, str):
            self._refused[one.checksum] = model
            log.error("gain model %s is not used: %s", one, model)
        else:
            self._in_use = {**self._in_use, _about(one): (one, model)}
            log.info("gain model %s is in use", one)

    def _kept(self, one: Trained) -> bytes:
        """Return the model that lies on the disk, empty for none; its checksum is looked at where it is taken."""
        try:
            return (self._folder / f"{one.checksum}.json").read_bytes()
        except OSError:
            return b""

    def _keep(self, one: Trained, body: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f"{one.checksum}.{os.getpid()}"
        temporary.write_bytes(body)
        temporary.rename(self._folder / f"{one.checksum}.json")


def _about(one: Trained) -> _About:
    return one.tenant, one.pair
