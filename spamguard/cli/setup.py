"""Commands that tell a mail server of SpamGuard: print the lines, write them, take them back."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spamguard.cli.common import Context
from spamguard.wiring.lines import Way

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from spamguard.wiring.changes import FileChange


_Command = Callable[..., Any]


@click.group()
def setup() -> None:
    """Print the lines that a mail server needs; where it is safe, write them and take them back."""


def _changes(file: str, default: str | None = None) -> Callable[[_Command], _Command]:
    """Add the options of a command that can write: where, and the two flags."""
    where = click.option(
        "--config-dir",
        "directory",
        type=click.Path(path_type=Path),
        default=default,
        show_default=True if default else "the default instance's",
        help=f"Where {file} is.",
    )
    write = click.option("--write", is_flag=True, help="Show the difference, back up, write.")
    undo = click.option("--undo", is_flag=True, help="Restore exactly what was before --write.")
    return lambda command: where(write(undo(command)))


@setup.command()
@click.option(
    "--as",
    "way",
    type=click.Choice([str(way) for way in Way]),
    default=str(Way.MILTER),
    show_default=True,
    help="How Postfix hands mail over.",
)
@_changes("main.cf")
@click.pass_obj
def postfix(
    context: Context,
    *,
    way: str,
    directory: Path | None,
    write: bool,
    undo: bool,
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
@_changes("dovecot.conf", "/etc/dovecot")
@click.option(
    "--program-dir",
    type=click.Path(path_type=Path),
    default="/usr/local/lib/spamguard",
    show_default=True,
    help="Where the program goes that takes a report.",
)
@click.pass_obj
def dovecot(
    context: Context,
    *,
    directory: Path,
    program_dir: Path,
    write: bool,
    undo: bool,
) -> None:
    """Have moves into and out of Junk reported."""
    from spamguard.wiring import dovecot as wiring
    from spamguard.wiring.changes import plan

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
        _put_in(plan(wanted, programs=[wiring.PROGRAM]), directory, after)
        return
    click.echo(f"# Dovecot {version}, {directory}; then: {after}")
    _print(wanted)


@setup.command()
@_changes("update-exim4.conf.conf", "/etc/exim4")
@click.pass_obj
def exim(
    context: Context,
    *,
    directory: Path,
    write: bool,
    undo: bool,
) -> None:
    """Have Exim ask by its spam condition; --write for the files of Debian's exim4-config."""
    from spamguard.errors import MailServerError
    from spamguard.wiring import edits, lines, programs

    after = edits.next_step("exim", directory)
    if undo:
        _take_back(directory, after)
        return
    config = context.read()
    program = next((name for name in ("exim4", "exim") if programs.find(name)), None)
    if program and "Content_Scanning" not in programs.run(program, "-bV"):
        raise MailServerError(
            f"{program}: built without content scanning: install exim4-daemon-heavy"
        )
    if write:
        _put_in(edits.exim(config, directory), directory, after)
        return
    click.echo("# main section, then the ACL of acl_smtp_data")
    click.echo(lines.exim(config), nl=False)


@setup.command()
@click.option(
    "--as",
    "way",
    type=click.Choice(["filter", "relay"]),
    default="filter",
    show_default=True,
    help="Ask while the client waits, or judge between two listeners.",
)
@_changes("smtpd.conf", "/etc")
@click.pass_obj
def opensmtpd(
    context: Context,
    *,
    way: str,
    directory: Path,
    write: bool,
    undo: bool,
) -> None:
    """Have OpenSMTPD filter; --write for the filter alone, the relay must be fitted by hand."""
    from spamguard.wiring import edits, lines

    after = edits.next_step("opensmtpd", directory)
    program = shutil.which(sys.argv[0]) or "/opt/spamguard/bin/spamguard"
    if undo:
        _take_back(directory, after)
    elif way == "relay":
        if write:
            raise click.UsageError("--write is for --as filter: a relay has your own domains")
        click.echo("# smtpd.conf: your domains and your action in place of example.org and local")
        click.echo(lines.opensmtpd_relay(context.read()), nl=False)
    elif write:
        _put_in(edits.opensmtpd(context.read(), program, directory), directory, after)
    else:
        click.echo("# smtpd.conf: your listeners in place of 0.0.0.0")
        click.echo(lines.opensmtpd_filter(context.read(), program), nl=False)


@setup.command()
@_changes("sendmail.mc", "/etc/mail")
@click.pass_obj
def sendmail(
    context: Context,
    *,
    directory: Path,
    write: bool,
    undo: bool,
) -> None:
    """Have Sendmail ask by the milter protocol."""
    from spamguard.wiring import edits, lines

    after = edits.next_step("sendmail", directory)
    if undo:
        _take_back(directory, after)
    elif write:
        _put_in(edits.sendmail(context.read(), directory), directory, after)
    else:
        click.echo(f"dnl sendmail.mc, before MAILER(); then {after}")
        click.echo(lines.sendmail(context.read()), nl=False)


@setup.command()
@_changes("the administrator's units", "/etc/systemd/system")
@click.pass_obj
def systemd(
    context: Context,
    *,
    directory: Path,
    write: bool,
    undo: bool,
) -> None:
    """Have systemd start the daemon: service, sockets, timer. A Debian package brings them."""
    from spamguard.wiring import systemd as wiring
    from spamguard.wiring.changes import plan

    if undo:
        _take_back(directory, "systemctl daemon-reload")
        return
    context.read()  # a service that could not start helps nobody
    wanted = wiring.files(Path(shutil.which(sys.argv[0]) or sys.argv[0]).absolute(), directory)
    if write:
        _put_in(plan(wanted), directory, wiring.next_step())
    else:
        click.echo(f"# then: {wiring.next_step()}")
        _print(wanted)


def _print(files: "Mapping[Path, bytes]") -> None:
    for path, data in files.items():
        click.echo(f"\n# {path}\n{data.decode()}", nl=False)


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
