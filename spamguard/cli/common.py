"""What all commands share: reading the settings, asking the daemon, printing, failing.

Not the commands themselves: each group of them has a module of its own beside this one.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spamguard.config import Config, load_config
from spamguard.errors import SpamGuardError, StoreAccessError, StoreError

if TYPE_CHECKING:
    from spamguard.model.store import ModelStore

EX_UNAVAILABLE = 69
EX_TEMPFAIL = 75


class Context:
    """What all commands share: where the configuration is, read once it is needed."""

    def __init__(self, path: Path | None, overrides: dict[str, Any]) -> None:
        self.path = path
        self.overrides = overrides

    def read(self) -> Config:
        """Read the settings; see `load_config`."""
        return load_config(self.path, environment=os.environ, overrides=self.overrides)

    def command(self, *arguments: str) -> list[str]:
        """Return the argv of another command with this one's settings."""
        command = [sys.executable, "-m", "spamguard"]
        if self.path is not None:
            command += ["--config", str(self.path)]
        for key, value in self.overrides.items():
            command += ["--set", f"{key}={json.dumps(value)}"]
        return [*command, *arguments]

    def models(self) -> "ModelStore":
        """Return the model versions of the configured state directory."""
        from spamguard.model.store import ModelStore

        return ModelStore(self.read().paths.models)


def ask_daemon(context: Context, command: str) -> dict[str, Any]:
    """Send one command to the running daemon; end with 69 when none answers.

    What it refuses ends as it would have ended here: a mistake in the configuration with 78.
    """
    from spamguard.frontends.control import ask

    path = context.read().paths.control_socket
    try:
        answer = ask(path, command)
    except PermissionError as error:
        raise StoreAccessError(f"{path}: run it as root, or as the daemon's user") from error
    except (OSError, ValueError) as error:
        click.echo(f"spamguard: no daemon answers on {path}: {error}", err=True)
        sys.exit(EX_UNAVAILABLE)
    if "error" in answer:
        for line in str(answer["error"]).splitlines():
            click.echo(f"spamguard: {line}", err=True)
        sys.exit(answer.get("exit_code", StoreError.exit_code))
    return answer


def warn_if_pinned(settings: Config) -> None:
    """Say so when the daemon does not follow promotions."""
    if pinned := settings.model.version:
        click.echo(
            f"spamguard: model.version = {pinned!r}: the daemon goes on with it; "
            'set it to "" to follow promotions',
            err=True,
        )


def each(message_ids: tuple[str, ...], act: Callable[[str], str]) -> None:
    """Act on every id, report each, and end with the code of the first failure."""
    code = 0
    for message_id in message_ids:
        try:
            click.echo(act(message_id))
        except SpamGuardError as error:
            click.echo(f"spamguard: {error}", err=True)
            code = code or error.exit_code
    if code:
        sys.exit(code)


def needs(*modules: str) -> None:
    """End with a hint when packages of an extra are not installed."""
    from importlib.util import find_spec

    if missing := [name for name in modules if find_spec(name) is None]:
        click.echo(
            f"spamguard: {', '.join(missing)} not installed: pip install 'spamguard[train]'",
            err=True,
        )
        sys.exit(EX_UNAVAILABLE)


def show(renderable: Any) -> None:
    """Print a table or picture."""
    from rich.console import Console

    # A pipe has no width: give tables room instead of rich's 80 columns.
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(renderable)
