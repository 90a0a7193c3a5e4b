"""`farthing policy …`: what may be written in a policy file, and what became of it."""
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from farthing import parts

app = typer.Typer(help="Write, check and follow policy documents.", no_args_is_help=True)


@app.command()
def schema() -> None:
    """Print the JSON Schema of policy files, for editors that complete and check them."""
    from farthing.policy.envelope import json_schema

    _say(json.dumps(json_schema(), indent=2))


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="YAML files.", exists=True, dir_okay=False)],
) -> None:
    """Check policy files together, without a running platform: every problem with its line, and what never acts."""
    checked = parts.load("policies", "check").check([(str(path), path.read_text("utf-8")) for path in files])
    for warning in checked.warnings:
        _say(f"warning: {warning}")
    counted = ", ".join(f"{number} {kind}" for kind, number in checked.counts.items())
    _say(f"good: {counted}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
