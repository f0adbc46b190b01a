"""Commands about users' corrections."""

import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spamguard.cli.common import Context, show
from spamguard.report import Standing

if TYPE_CHECKING:
    from spamguard.feedback.corrections import CorrectionStore


@click.group()
def corrections() -> None:
    """Look at users' corrections; review, export or erase them."""


@corrections.command("list")
@click.option("--reporter", default="", help="Only this reporter's.")
@click.option(
    "--standing", type=click.Choice([str(s) for s in Standing]), help="Only those of this standing."
)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def corrections_list(
    context: Context, *, reporter: str, standing: str | None, limit: int, as_json: bool
) -> None:
    """List corrections, newest first, with what each is worth and why."""
    from dataclasses import asdict

    from spamguard.observe import json_line
    from spamguard.tables import corrections_table

    rows, worth = open_corrections(context).all()
    chosen = [
        (row, *worth[row.id])
        for row in reversed(rows)
        if reporter.lower() in {"", row.reporter} and standing in {None, worth[row.id][0]}
    ][:limit]
    if as_json:
        for row, found, reason in chosen:
            entry = {**asdict(row), "standing": found, "reason": reason}
            click.echo(json_line(entry))
    else:
        show(corrections_table(chosen))


@corrections.command("show")
@click.argument("correction_id", type=int)
@click.option("--raw", is_flag=True, help="The reported message, byte for byte.")
@click.pass_obj
def corrections_show(context: Context, correction_id: int, raw: bool) -> None:  # noqa: FBT001 - a flag
    """Show one correction and the text the model reads of its message."""
    from spamguard.tables import correction_view

    store = open_corrections(context)
    correction, standing, reason = store.get(correction_id)
    data = store.raw(correction.fingerprint)
    if raw:
        sys.stdout.buffer.write(data)
    else:
        show(correction_view(correction, standing, reason, data))


@corrections.command("review")
@click.argument("correction_id", type=int)
@click.argument("decision", type=click.Choice(["accept", "reject"]))
@click.option("--reason", default="", help="For whoever asks later.")
@click.pass_obj
def corrections_review(context: Context, correction_id: int, decision: str, reason: str) -> None:
    """Accept or reject a correction, whatever the rules say of it."""
    store = open_corrections(context)
    store.review(correction_id, decision, by=getpass.getuser(), reason=reason)
    _, standing, why = store.get(correction_id)
    click.echo(f"correction {correction_id}: {standing} ({why})")


@corrections.command("export")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--all", "everything", is_flag=True, help="Also those that do not count.")
@click.pass_obj
def corrections_export(context: Context, directory: Path, everything: bool) -> None:  # noqa: FBT001
    """Write corrections as a data set that `train` and `evaluate` read."""
    count = open_corrections(context).export(directory, everything=everything)
    click.echo(f"wrote {count} messages to {directory}")


@corrections.command("forget")
@click.argument("person")
@click.pass_obj
def corrections_forget(context: Context, person: str) -> None:
    """Erase what PERSON (address or user name) reported, and reported mail of that sender."""
    count = open_corrections(context).forget(person)
    click.echo(f"erased {count} corrections of or from {person}")


def open_corrections(context: Context) -> "CorrectionStore":
    """Open the record of the configured state directory."""
    from spamguard.database import migrate
    from spamguard.feedback.corrections import CorrectionStore

    settings = context.read()
    migrate(settings.paths.database)
    return CorrectionStore(
        settings.paths.database,
        settings.paths.corrections,
        subject_prefix=settings.policy.subject_prefix,
    )
