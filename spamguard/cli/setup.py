"""Commands that tell a mail server of SpamGuard: print the lines, write them, take them back."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spamguard.cli.common import Context
from spamguard.wiring.lines import Way

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spamguard.wiring.changes import FileChange


@click.group()
def setup() -> None:
    """Print the lines that a mail server needs; where it is safe, write them and take them back."""


_WRITE = click.option("--write", is_flag=True, help="Show the difference, back up, write.")
_UNDO = click.option("--undo", is_flag=True, help="Restore exactly what was before --write.")


@setup.command()
@click.option(
    "--as",
    "way",
    type=click.Choice([str(way) for way in Way]),
    default=str(Way.MILTER),
    show_default=True,
    help="How Postfix hands mail over.",
)
@click.option(
    "--config-dir",
    "directory",
    type=click.Path(path_type=Path),
    help="Where main.cf is [default: the default instance's].",
)
@_WRITE
@_UNDO
@click.pass_obj
def postfix(
    context: Context,
    way: str,
    directory: Path | None,
    write: bool,  # noqa: FBT001 - a flag
    undo: bool,  # noqa: FBT001 - a flag
) -> None:
    """Wire Postfix: as a milter, a content filter or a before-queue filter."""
    from spamguard.wiring.postfix import PostfixConfig

    server = PostfixConfig(directory)
    after = f"postfix -c {server.directory} reload && spamguard doctor"
    if undo:
        _take_back(server.directory, after)
        return
    lines = server.lines(context.read(), Way(way))
    if write:
        _put_in(server.plan(lines), server.directory, after)
    else:
        click.echo(f"# Postfix {server.version}, {server.directory}\n{lines.text}")


@setup.command()
@click.option(
    "--config-dir",
    "directory",
    type=click.Path(path_type=Path),
    default="/etc/dovecot",
    show_default=True,
    help="Where dovecot.conf is.",
)
@click.option(
    "--program-dir",
    type=click.Path(path_type=Path),
    default="/usr/local/lib/spamguard",
    show_default=True,
    help="Where the program goes that takes a report.",
)
@_WRITE
@_UNDO
@click.pass_obj
def dovecot(
    context: Context,
    directory: Path,
    program_dir: Path,
    write: bool,  # noqa: FBT001 - a flag
    undo: bool,  # noqa: FBT001 - a flag
) -> None:
    """Have moves into and out of Junk reported."""
    from spamguard.wiring import dovecot as wiring

    scripts = " ".join(str(directory / "sieve" / name) for name in wiring.SCRIPTS)
    after = f"sievec {scripts.replace(' ', ' && sievec ')} && doveadm reload"
    if undo:
        _take_back(directory, "doveadm reload")
        return
    version = wiring.check_version()
    user = wiring.mail_user(directory)
    wanted = wiring.files(
        context.read(),
        directory=directory,
        program_directory=program_dir,
        mail_user=user or "vmail",
    )
    if write:
        if not user:
            snippet = directory / "conf.d" / wiring.SNIPPET
            click.echo(f'mail_uid is not set: fit "user = vmail" in {snippet}', err=True)
        _put_in(wiring.plan(wanted), directory, after)
        return
    click.echo(f"# Dovecot {version}, {directory}; then: {after}")
    for path, data in wanted.items():
        click.echo(f"\n# {path}\n{data.decode()}", nl=False)


@setup.command()
@click.pass_obj
def exim(context: Context) -> None:
    """Print Exim's lines; Debian has several places for them, so the hand must be yours."""
    from spamguard.errors import MailServerError
    from spamguard.wiring import lines, programs

    wanted = lines.exim(context.read())
    program = next((name for name in ("exim4", "exim") if programs.find(name)), None)
    if program and "Content_Scanning" not in programs.run(program, "-bV"):
        raise MailServerError(
            f"{program}: built without content scanning: install exim4-daemon-heavy"
        )
    click.echo("# main section, then the ACL of acl_smtp_data")
    click.echo(wanted, nl=False)


@setup.command()
@click.option(
    "--as",
    "way",
    type=click.Choice(["filter", "relay"]),
    default="filter",
    show_default=True,
    help="Ask while the client waits, or judge between two listeners.",
)
@click.pass_obj
def opensmtpd(context: Context, way: str) -> None:
    """Print the lines for smtpd.conf, to be fitted to your listeners, domains and actions."""
    from spamguard.wiring import lines

    if way == "filter":
        click.echo("# smtpd.conf: your listeners in place of 0.0.0.0")
        program = shutil.which(sys.argv[0]) or "/opt/spamguard/bin/spamguard"
        click.echo(lines.opensmtpd_filter(context.read(), program), nl=False)
        return
    click.echo("# smtpd.conf: your domains and your action in place of example.org and local")
    click.echo(lines.opensmtpd_relay(context.read()), nl=False)


@setup.command()
@click.pass_obj
def sendmail(context: Context) -> None:
    """Print the line for sendmail.mc."""
    from spamguard.wiring import lines

    click.echo("dnl sendmail.mc, before MAILER(); then make in /etc/mail and restart")
    click.echo(lines.sendmail(context.read()), nl=False)


def _put_in(changes: "Sequence[FileChange]", directory: Path, after: str) -> None:
    from spamguard.wiring.changes import diff, write

    if not changes:
        click.echo("nothing to change: all is there")
        return
    click.echo(diff(changes))
    write(changes, directory)
    click.echo(f"wrote {', '.join(str(change.path) for change in changes)}; now: {after}", err=True)


def _take_back(directory: Path, after: str) -> None:
    from spamguard.wiring.changes import diff, plan_undo, undo

    changes = plan_undo(directory)
    click.echo(diff(changes))
    undo(changes, directory)
    click.echo(f"restored {', '.join(str(c.path) for c in changes)}; now: {after}", err=True)
