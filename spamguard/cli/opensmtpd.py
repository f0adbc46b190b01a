"""The command that OpenSMTPD runs as its filter."""

import sys

import click

from spamguard.cli.common import Context


@click.command("filter-opensmtpd")
@click.pass_obj
def filter_opensmtpd(context: Context) -> None:
    """Be a filter of OpenSMTPD: ask the running daemon about each of its messages.

    Started by smtpd, from a line of smtpd.conf that `spamguard setup opensmtpd` prints.
    """
    from spamguard.client import Client
    from spamguard.observe import set_up_logging
    from spamguard.opensmtpd import Bridge

    config = context.read()
    set_up_logging(config.log.level, config.log.format, addresses=config.log.addresses)
    bridge = Bridge(
        Client.of(config), sys.stdout.buffer, max_message_bytes=config.max_message_bytes
    )
    bridge.run(sys.stdin.buffer)
