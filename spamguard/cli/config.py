"""Commands about the configuration."""

from pathlib import Path

import click

from spamguard.cli.common import Context
from spamguard.errors import StoreError


@click.group()
def config() -> None:
    """Check, show or create the configuration."""


@config.command("check")
@click.pass_obj
def config_check(context: Context) -> None:
    """Check the configuration and the model it names; name every mistake."""
    from spamguard.model.store import ModelStore

    settings = context.read()
    store = ModelStore(settings.paths.models)
    version = store.get(settings.model.version)
    version.verify()
    click.echo(f"configuration is good; model {version.name} is intact")


@config.command("show")
@click.pass_obj
def config_show(context: Context) -> None:
    """Print the settings in force, as JSON, after file, environment and --set."""
    click.echo(context.read().model_dump_json(indent=2))


@config.command("init")
@click.argument("target", type=click.Path(path_type=Path), default="/etc/spamguard/spamguard.toml")
def config_init(target: Path) -> None:
    """Write a commented configuration file with the defaults; never overwrites."""
    from spamguard.config import template

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as stream:
            stream.write(template())
    except OSError as error:
        raise StoreError(f"{target}: {error.strerror or error}") from error
    click.echo(f"wrote {target}")
