"""The command that looks at everything and says what to do."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spamguard.cli.common import Context, show

if TYPE_CHECKING:
    from spamguard.doctor.findings import Finding

_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option(
    "--postfix-config",
    type=click.Path(path_type=Path),
    help="Where Postfix's main.cf is [default: the default instance's].",
)
@click.option(
    "--send",
    "address",
    metavar="ADDRESS",
    help="Send an ordinary message and GTUBE from and to this address, and look for the verdicts.",
)
@click.option(
    "--smtp",
    "server",
    default="127.0.0.1:25",
    show_default=True,
    metavar="HOST:PORT",
    help="Where --send hands them in.",
)
@click.option(
    "--mailbox",
    type=click.Path(path_type=Path),
    help="The Maildir or mbox of that address: look there for our header field too.",
)
@click.pass_obj
def doctor(
    context: Context,
    *,
    as_json: bool,
    postfix_config: Path | None,
    address: str | None,
    server: str,
    mailbox: Path | None,
) -> None:
    """Look at configuration, files, daemon and mail server; say what is wrong and what to do.

    Ends with 0 when all is well, 1 when something should be mended, 2 when it must be.
    """
    from spamguard.config import DEFAULT_PATH
    from spamguard.doctor import findings
    from spamguard.doctor.examination import examine
    from spamguard.doctor.probe import send_and_look
    from spamguard.errors import ConfigError

    found: list[Finding] = []
    host, _, port = server.rpartition(":")
    if not host or not port.isdigit():
        raise click.BadParameter(f"{server!r}: expected HOST:PORT", param_hint="--smtp")
    if mailbox and not address:
        raise click.UsageError("--mailbox looks for what --send has sent")
    try:
        config = context.read()
    except ConfigError as error:
        advice = "spamguard config check; every setting is described in spamguard.toml"
        found += [findings.error("configuration", line, advice) for line in str(error).splitlines()]
    else:
        settings = context.path or DEFAULT_PATH
        found += examine(config, settings, clock=time.time, postfix_directory=postfix_config)
        if address:
            where = (host.strip("[]"), int(port))
            database = config.paths.database
            found += send_and_look(address, server=where, database=database, mailbox=mailbox)
    severity = findings.worst(found)
    if as_json:
        answer = {"severity": severity, "findings": [finding.as_json() for finding in found]}
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        _show(found)
    sys.exit(findings.EXIT_CODES[severity])


def _show(found: "list[Finding]") -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "check", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in found:
        style = _STYLES[finding.severity]
        table.add_row(
            Text(finding.severity, style=style),
            finding.check,
            Text(finding.found),
            Text(finding.advice),
        )
    show(table)
