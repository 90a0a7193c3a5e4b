"""A control plane with a token for each role, for the tests of the parts that ask it whose a token is."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest

from farthing import http_json
from farthing.serving import Asgi
from farthing.settings import Settings
from policies.main import app
from policies.tokens import ROLES

ROOT = "root-token-of-the-settings"


@dataclass(frozen=True)
class Roles:
    """Where the control plane answers, and its tokens by role."""

    url: str
    tokens: dict[str, str]

    def revoke(self, role: str) -> None:
        http_json.call("DELETE", f"{self.url}/v1/tokens/of-{role}", token=ROOT)


@pytest.fixture(scope="module")
def roles_of(
    serve: Callable[[Asgi], AbstractContextManager[int]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Roles]:
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("roles"), control_auth="tokens", control_token=ROOT,
        control_requests_per_s=0, guardrail_interval_s=0,
    )  # fmt: skip
    with serve(app(settings)) as port:
        url = f"http://127.0.0.1:{port}"
        made = {
            role: http_json.call("POST", f"{url}/v1/tokens?name=of-{role}&role={role}", token=ROOT)["token"]
            for role in ROLES
        }
        yield Roles(url, made)
