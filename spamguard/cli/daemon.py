"""Commands about the running daemon."""

import json
import os
import time
from contextlib import suppress

import click

from spamguard.cli.common import Context, ask_daemon, show

REFRESH_SECONDS = 1.0


@click.command()
@click.pass_obj
def serve(context: Context) -> None:
    """Run the daemon in the foreground until SIGTERM; SIGHUP reloads."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: see model/process.py
    from spamguard import daemon
    from spamguard.observe import set_up_logging

    config = context.read()
    set_up_logging(config.log.level, config.log.format, addresses=config.log.addresses)
    daemon.serve(config, context.read, context.command("retrain", "--scheduled"))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print what the daemon said.")
@click.option("--live", is_flag=True, help="Show it anew every second, with rates, until Ctrl-C.")
@click.pass_obj
def status(context: Context, *, as_json: bool, live: bool) -> None:
    """Ask the running daemon how it is."""
    from spamguard.tables import status_table

    if live:
        _watch(context)
        return
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


def _watch(context: Context) -> None:
    """Show rates and state every second until interrupted."""
    from rich.live import Live

    from spamguard.tables import live_table

    before = ask_daemon(context, "status")
    first = live_table(before, before)
    with Live(first, screen=True, auto_refresh=False) as page, suppress(KeyboardInterrupt):
        while True:
            time.sleep(REFRESH_SECONDS)
            now = ask_daemon(context, "status")
            page.update(live_table(before, now), refresh=True)
            before = now
