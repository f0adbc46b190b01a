"""Commands about the running daemon."""

import json

import click

from spamguard.cli.common import Context, ask_daemon, show


@click.command()
@click.pass_obj
def serve(context: Context) -> None:
    """Run the daemon in the foreground until SIGTERM; SIGHUP reloads."""
    from spamguard import daemon
    from spamguard.observe import set_up_logging

    config = context.read()
    set_up_logging(config.log.level, config.log.format)
    daemon.serve(config, context.read, context.command("retrain", "--scheduled"))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print what the daemon said.")
@click.pass_obj
def status(context: Context, as_json: bool) -> None:  # noqa: FBT001 - a flag
    """Ask the running daemon how it is."""
    from spamguard.tables import status_table

    answer = ask_daemon(context, "status")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        show(status_table(answer))


@click.command()
@click.pass_obj
def reload(context: Context) -> None:
    """Have the running daemon read its configuration and model again."""
    answer = ask_daemon(context, "reload")
    click.echo(f"reloaded, model {answer['model']}")
    if answer["needs_restart"]:
        click.echo(f"needs a restart to take effect: {', '.join(answer['needs_restart'])}")
