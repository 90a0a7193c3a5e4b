"""`farthing policy …`: what may be written in a policy file, and what became of it."""
from __future__ import annotations

import json
import sys

import typer

app = typer.Typer(help="Write, check and follow policy documents.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep the commands below one name, however many there are."""


@app.command()
def schema() -> None:
    """Print the JSON Schema of policy files, for editors that complete and check them."""
    from farthing.policy.envelope import json_schema

    _say(json.dumps(json_schema(), indent=2))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
