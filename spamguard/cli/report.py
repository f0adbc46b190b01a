"""The command that reports a mistake by hand, and takes a report back."""

import getpass
import sys
from typing import TYPE_CHECKING

import click

from spamguard.cli.common import Context
from spamguard.errors import DataError, SpamGuardError, StoreError
from spamguard.report import Report, ReportSource
from spamguard.verdict import Label

if TYPE_CHECKING:
    from spamguard.scan import Source


@click.command()
@click.argument("label", type=click.Choice([str(Label.SPAM), str(Label.HAM)]))
@click.argument("files", nargs=-1, required=True)
@click.option("--reporter", default="", help="Whose word it is [default: who runs this].")
@click.option(
    "--source",
    type=click.Choice([str(source) for source in ReportSource]),
    default=str(ReportSource.CLI),
    show_default=True,
    help="How the report came about.",
)
@click.option("--undo", is_flag=True, help="Take back what this reporter said of the messages.")
@click.pass_obj
def report(
    context: Context, label: str, files: tuple[str, ...], *, reporter: str, source: str, undo: bool
) -> None:
    """Report messages as spam or ham: FILES, directories, mbox files, Maildirs, or -.

    Ends with 0 when all were recorded (again is as good as once), 65 when one is no message, 74
    when the record cannot be written, 75 when it was busy for too long: then try again.
    """
    from spamguard.cli.corrections import open_corrections

    store = open_corrections(context)
    name = reporter or getpass.getuser()
    code = 0
    for message in _messages(files):
        try:
            raw = _read(message)
            if undo:
                said = "taken back" if store.undo(name, raw) else "nothing to take back"
            else:
                receipt = store.record(
                    Report(label=Label(label), reporter=name, source=ReportSource(source), raw=raw)
                )
                said = f"correction {receipt.correction_id}: {receipt.standing}"
                said += f" ({receipt.reason})" if receipt.reason else ""
            click.echo(f"{message.name}: {said}")
        except SpamGuardError as error:
            click.echo(f"spamguard: {message.name}: {error}", err=True)
            code = code or error.exit_code
            if isinstance(error, StoreError):
                break  # it will not go better with the next
    if code:
        sys.exit(code)


def _messages(files: tuple[str, ...]) -> "list[Source]":
    from spamguard.scan import find_sources

    try:
        found = find_sources(files)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror or error}") from error
    if not found:
        raise DataError(f"{' '.join(files)}: no messages")
    return found


def _read(message: "Source") -> bytes:
    try:
        return message.read()
    except OSError as error:
        raise DataError(error.strerror or str(error)) from error
