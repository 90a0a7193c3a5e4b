"""What stands beside the proxy: nginx (Debian) as a bare relay, and LiteLLM's proxy (PyPI) with its key check.

LiteLLM's virtual keys and budgets need a Postgres, so it has neither here, and its access log is off: both in its
favour. It lives in a virtual environment of its own, made on the first run.
"""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy_load import Server
from servers import free_port, pin, process

LITELLM = "1.106.2"
LITELLM_KEY = "sk-bench"
SETTLE_S = 0.3
_ENVIRONMENT = Path(__file__).parent / ".cache" / f"litellm-{LITELLM}"
_PATH = os.environ.get("PATH", "") + ":/usr/sbin"
_NGINX = """
worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log; daemon off;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; keepalive_requests 1000000;
  upstream model {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""
_LITELLM = """
model_list:
  - model_name: gpt-4o
    litellm_params: {{model: openai/gpt-4o, api_base: "http://127.0.0.1:{upstream}/v1", api_key: sk-upstream}}
general_settings: {{master_key: {key}}}
litellm_settings: {{drop_params: true}}
"""
_QUIET = {"version": 1, "disable_existing_loggers": False, "loggers": {"uvicorn.access": {"level": "WARNING"}}}


def find_nginx() -> tuple[str, str]:
    """Return nginx's path, else why there is none; installs the Debian package where that is allowed."""
    if not shutil.which("nginx", path=_PATH) and shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "install", "-y", "-qq", "nginx-light"], capture_output=True, check=False)
    found = shutil.which("nginx", path=_PATH)
    return found or "", "" if found else "it is not installed (apt-get install nginx-light)"


@contextmanager
def nginx_before(folder: Path, nginx: str, model: int) -> Iterator[Server]:
    """Run nginx as a bare relay."""
    own = free_port()
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, upstream=model, port=own))
    with process([nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")], own, core=1) as master:
        worker = int(Path(f"/proc/{master}/task/{master}/children").read_text().split()[0])
        pin(worker, 1)
        yield Server(own, worker, lambda: time.sleep(SETTLE_S))


def find_litellm() -> tuple[str, str]:
    """Return the path of LiteLLM's command, else why there is none; installs it where it is not there yet."""
    program, finished = _ENVIRONMENT / "bin" / "litellm", _ENVIRONMENT / "installed"
    if not finished.exists():
        print(f"installing litellm[proxy] {LITELLM} into {_ENVIRONMENT}", file=sys.stderr)
        venv.create(_ENVIRONMENT, with_pip=True)
        install = [_ENVIRONMENT / "bin" / "pip", "install", "-q", f"litellm[proxy]=={LITELLM}"]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            return "", (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        finished.touch()
    return str(program), ""


@contextmanager
def litellm_before(folder: Path, litellm: str, model: int) -> Iterator[Server]:
    """Run LiteLLM's proxy with one worker."""
    own = free_port()
    (folder / "litellm.yaml").write_text(_LITELLM.format(upstream=model, key=LITELLM_KEY))
    (folder / "quiet.json").write_text(json.dumps(_QUIET))
    command = [litellm, "--config", str(folder / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(own),
               "--num_workers", "1", "--log_config", str(folder / "quiet.json")]  # fmt: skip
    environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "PYTHONPATH": ""}
    with process(command, own, 1, environ, folder / "litellm.log") as pid:
        yield Server(own, pid, lambda: time.sleep(SETTLE_S))
