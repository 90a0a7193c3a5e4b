"""farthing/token_owners.py: who was good to look goes on looking while the control plane is away, and nobody else."""
from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from farthing.access import Principal
from farthing.errors import AccessError
from farthing.http_json import call
from farthing.serving import Asgi
from farthing.settings import Settings
from farthing.token_owners import LOOKING_ON_S, REMEMBERED_S, TokenOwners
from policies.main import app


def test_while_the_control_plane_is_away_only_a_viewer_known_before_is_good(
    serve: Callable[[Asgi], AbstractContextManager[int]], tmp_path: Path
) -> None:
    now = [0.0]
    with serve(app(Settings(data_dir=tmp_path))) as port:
        url = f"http://127.0.0.1:{port}"
        made = {
            name: call("POST", f"{url}/v1/tokens?name={name}&role={role}")["token"]
            for name, role in (("grafana", "viewer"), ("late", "viewer"), ("ops", "operator"))
        }
        owners = TokenOwners(Settings(policies_url=url), lambda: now[0])
        assert owners.find(made["grafana"]) == Principal("grafana", "viewer")
        assert owners.find(made["ops"]) == Principal("ops", "operator")
        assert owners.find(made["ops"] + "x") is None and owners.find("fth_key") is None
    now[0] = REMEMBERED_S
    assert owners.find(made["grafana"]) == Principal("grafana", "viewer")
    now[0] += LOOKING_ON_S
    for name in made:
        with pytest.raises(AccessError) as refused:
            owners.find(made[name])
        assert (refused.value.status, refused.value.code) == (503, "access_unavailable")
