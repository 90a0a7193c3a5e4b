"""The command `farthing`: one line per outcome, one line per error, never a traceback for what a user can mend."""
from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from farthing import cli_alerts, cli_budget, cli_keys, cli_policy, cli_prices, cli_propose, cli_slo, cli_tokens, parts
from farthing.cli_audit import audit
from farthing.cli_backup import add_commands
from farthing.errors import FarthingError, SettingsError
from farthing.settings import PREFIX, Settings, child_environ, read_settings

app = typer.Typer(
    name="farthing",
    help="Every farthing of the inference bill: seen, explained, governed, and proved saved.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(cli_alerts.app, name="alert")
app.add_typer(cli_budget.app, name="budget")
app.add_typer(cli_keys.app, name="key")
app.add_typer(cli_prices.app, name="prices")
app.add_typer(cli_policy.app, name="policy")
app.add_typer(cli_tokens.app, name="token")
app.command()(audit)
app.command()(cli_prices.reprice)
app.command()(cli_policy.apply)
app.command()(cli_propose.propose)
app.command()(cli_slo.slo)

_set: dict[str, str] = {}  # FARTHING_… variables that the command line gives


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings; default farthing.toml.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, such as --set proxy_port=7402; may be repeated.")
    ] = None,
) -> None:
    """Read what holds for every command."""
    context.obj = _settings
    if config is not None:
        _set[PREFIX + "CONFIG"] = str(config)
    for pair in setting or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"--set {pair!r}: write name=value, such as --set proxy_port=7402")
        _set[PREFIX + name.strip().upper()] = value.strip()


def _settings() -> Settings:
    return read_settings(child_environ(_set))


def _serve(part: str, parent: int) -> None:
    if parent:
        parts.die_with(parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    parts.serve(part, _settings())


_Parent = Annotated[int, typer.Option(hidden=True)]


@app.command()
def up() -> None:
    """Start the whole platform on this machine and keep it running until Ctrl-C."""
    from farthing.supervisor import Supervisor

    supervisor = Supervisor(_settings(), _set, say=_say)
    supervisor.start()
    _say("ready; Ctrl-C stops")
    supervisor.wait()
    _say("stopping")
    supervisor.stop()


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Exit at the end, non-zero where something did not hold.")
    ] = False,
    data_dir: Annotated[Path, typer.Option(help="Where the demo keeps its data; emptied first.")] = Path(
        ".farthing/demo"
    ),
) -> None:
    """Run simulated teams against the real model, find their repeated work, govern it, and prove what it saved."""
    from farthing.demo.story import run_demo

    raise typer.Exit(run_demo(data_dir, once=once, say=_say))


@app.command()
def collector(parent: _Parent = 0) -> None:
    """Run the collector alone: spans in, rows out."""
    _serve("collector", parent)


@app.command()
def analyzer(parent: _Parent = 0) -> None:
    """Run the analyzer alone: rows in, findings and reports out."""
    _serve("analyzer", parent)


@app.command()
def policies(parent: _Parent = 0) -> None:
    """Run the control plane alone: policies, budgets and the ledger."""
    _serve("policies", parent)


@app.command()
def dashboard(parent: _Parent = 0) -> None:
    """Run the dashboard alone."""
    _serve("dashboard", parent)


@app.command()
def proxy(parent: _Parent = 0) -> None:
    """Run one proxy worker alone."""
    _serve("proxy", parent)


@app.command()
def engine(parent: _Parent = 0) -> None:
    """Run the bundled inference engine alone."""
    _serve("engine", parent)


@app.command(hidden=True)
def station(parent: _Parent = 0) -> None:
    """Run collector, analyzer and dashboard in one process, as `up` does."""
    _serve("station", parent)


@app.command()
def report(
    hours: Annotated[float, typer.Option(help="How far back the report reaches, hours.")] = 24.0,
) -> None:
    """Write a report over the last hours and print its path; asks the running analyzer."""
    from farthing.control import analyzer

    answer = analyzer(_settings(), "POST", f"/v1/reports?hours={hours:g}")
    _say(f"html      {answer['html']}")
    _say(f"markdown  {answer['markdown']}")


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="Azure LLM CSV, Mooncake JSONL or BurstGPT CSV, plain or .gz.")],
    provider: Annotated[str, typer.Option(help="Whose price book the calls are priced from.")] = "openai",
    model: Annotated[str, typer.Option(help="The model that the calls are priced as.")] = "gpt-4o-mini",
    team: Annotated[str, typer.Option(help="The team that the calls are booked on.")] = "replay",
    as_recorded: Annotated[
        bool, typer.Option("--as-recorded", help="Keep the trace's own dates instead of moving its end to now.")
    ] = False,
) -> None:
    """Book a public serving trace as priced requests, so that the analysis can be tried on real traffic."""
    from farthing.replay import replay_file

    booked = replay_file(file, _settings().url("collector"), (provider, model, team), keep_dates=as_recorded)
    _say(json.dumps(booked))


app.command("budgets", hidden=True)(cli_budget.list_budgets)  # what it was called first


@app.command()
def doctor() -> None:
    """Say what is installed, reachable and missing, and how to get it."""
    from farthing.doctor import examine

    checks = examine(_settings())
    for check in checks:
        _say(check.line())
    raise typer.Exit(1 if any(check.is_bad for check in checks) else 0)


add_commands(app, _settings)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; what a user can mend ends as one line and exit code 2."""
    result: Any = 0
    try:
        result = app(arguments, standalone_mode=False)
    except FarthingError as error:
        _fail(str(error))
    except typer.Abort:
        _fail("stopped")
    except Exception as error:  # noqa: BLE001 - typer brings its own click, whose errors have no public name
        _usage(error)
    sys.exit(result if isinstance(result, int) else 0)


def _usage(error: Exception) -> None:
    """Show a usage error of the command line in one line; anything else is a defect and keeps its traceback."""
    format_message = getattr(error, "format_message", None)
    if format_message is None:
        raise error
    message = format_message()
    if not message:  # a group without a command, which has shown its help
        sys.exit(2)
    _fail(f"{message} (see {_named(getattr(error, 'ctx', None))} --help)")


def _named(context: Any) -> str:
    """Return the command that an error is about, as it is written."""
    names: list[str] = []
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    return " ".join(["farthing", *names])


def _fail(message: str) -> None:
    sys.stderr.write(f"farthing: {message}\n")
    sys.stderr.flush()
    sys.exit(2)
