"""The command line: each command parses its arguments and calls one function.

Imports stand inside the commands, so that `spamguard status` does not load a model and
`spamguard serve` no training. Errors are one line without a traceback and end with the exit
code of their class (sysexits.h).
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

import spamguard
from spamguard.cli import config as config_commands
from spamguard.cli import (
    corrections,
    daemon,
    doctor,
    models,
    opensmtpd,
    quarantine,
    report,
    retrain,
    scan,
    setup,
    training,
)
from spamguard.cli.common import Context
from spamguard.errors import SpamGuardError
from spamguard.observe import journal_prefix


def _overrides(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, Any]:
    del context, parameter
    parsed: dict[str, Any] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals:
            raise click.BadParameter(f"{value!r}: expected SECTION.KEY=VALUE")
        try:
            parsed[key.strip()] = json.loads(text)
        except ValueError:
            parsed[key.strip()] = text
    return parsed


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path, readable=False),  # reading says what is wrong with it
    envvar="SPAMGUARD_CONFIG",
    help="Configuration file [default: /etc/spamguard/spamguard.toml where it exists].",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    callback=_overrides,
    help="Override one setting; the value is JSON or plain text. Repeatable.",
)
@click.version_option(spamguard.__version__, prog_name="spamguard")
@click.pass_context
def cli(context: click.Context, path: Path | None, overrides: dict[str, Any]) -> None:
    """SpamGuard judges mail with a quantized BERT and learns from its users' corrections."""
    context.obj = Context(path, overrides)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a shell's completion script: eval "$(spamguard completion bash)"."""
    from click.shell_completion import get_completion_class

    completion_class = get_completion_class(shell)
    assert completion_class is not None
    click.echo(completion_class(cli, {}, "spamguard", "_SPAMGUARD_COMPLETE").source())


for command in (
    daemon.serve,
    daemon.status,
    daemon.reload,
    setup.setup,
    doctor.doctor,
    scan.scan,
    opensmtpd.filter_opensmtpd,
    config_commands.config,
    models.models,
    quarantine.quarantine,
    report.report,
    corrections.corrections,
    retrain.retrain,
    training.train,
    training.evaluate,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line; the entry point of the package."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("spamguard: interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(64 if isinstance(error, click.UsageError) else error.exit_code)
    except SpamGuardError as error:
        prefix = journal_prefix(logging.ERROR)
        for line in str(error).splitlines():
            click.echo(f"{prefix}spamguard: {line}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
