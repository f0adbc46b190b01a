"""Commands about held messages."""

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from spamguard.cli.common import Context, each, show

if TYPE_CHECKING:
    from spamguard.quarantine import QuarantineStore


@click.group()
def quarantine() -> None:
    """Look at held messages; release, delete or expire them."""


@quarantine.command("list")
@click.option("--recipient", default="", help="Part of a recipient's address.")
@click.option("--sender", default="", help="Part of the reverse path or From field.")
@click.option("--subject", default="", help="Part of the subject.")
@click.option("--days", type=click.FloatRange(min=0), help="Held in the last DAYS days.")
@click.option(
    "--state",
    type=click.Choice(["held", "released", "deleted", "all"]),
    default="held",
    show_default=True,
)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def quarantine_list(
    context: Context,
    /,
    *,
    recipient: str,
    sender: str,
    subject: str,
    days: float | None,
    state: str,
    limit: int,
    as_json: bool,
) -> None:
    """List held messages, newest first."""
    import time
    from dataclasses import asdict

    from spamguard.observe import json_line
    from spamguard.tables import quarantine_table

    since = time.time() - days * 86_400 if days is not None else 0.0
    rows = _open_quarantine(context).find(
        state=None if state == "all" else state,
        recipient=recipient,
        sender=sender,
        subject=subject,
        since=since,
        limit=limit,
    )
    if as_json:
        for row in rows:
            click.echo(json_line(asdict(row)))
    else:
        show(quarantine_table(rows))


@quarantine.command("show")
@click.argument("message_id")
@click.option("--raw", is_flag=True, help="The message as received, byte for byte.")
@click.pass_obj
def quarantine_show(context: Context, message_id: str, raw: bool) -> None:  # noqa: FBT001 - a flag
    """Show one message: envelope, verdict, header and the text the model read."""
    from spamguard.tables import held_message_view

    store = _open_quarantine(context)
    held = store.get(message_id)
    data = store.raw(held.id)
    if raw:
        sys.stdout.buffer.write(data)
    else:
        show(held_message_view(held, data))


@quarantine.command("release")
@click.argument("message_ids", nargs=-1, required=True)
@click.pass_obj
def quarantine_release(context: Context, message_ids: tuple[str, ...]) -> None:
    """Deliver held messages to their recipients through `release_hop`, unjudged."""
    settings = context.read()
    store = _open_quarantine(context)

    def send(raw: bytes, reverse_path: str, recipients: Any) -> list[tuple[str, str]]:
        from spamguard.next_hop import NextHop

        async def deliver() -> list[tuple[str, str]]:
            async with NextHop(settings.release_hop) as hop:
                refused = await hop.deliver(raw, reverse_path=reverse_path, recipients=recipients)
                return [(recipient, str(reply)) for recipient, reply in refused]

        return asyncio.run(deliver())

    def release(message_id: str) -> str:
        held = store.release(message_id, send)
        return f"released {held.id} to {', '.join(held.recipients)}"

    each(message_ids, release)


@quarantine.command("delete")
@click.argument("message_ids", nargs=-1, required=True)
@click.pass_obj
def quarantine_delete(context: Context, message_ids: tuple[str, ...]) -> None:
    """Delete held messages for good."""
    store = _open_quarantine(context)
    each(message_ids, lambda message_id: f"deleted {store.delete(message_id).id}")


@quarantine.command("expire")
@click.option("--days", type=click.FloatRange(min=0), help="[default: retention_days]")
@click.pass_obj
def quarantine_expire(context: Context, days: float | None) -> None:
    """Forget messages older than the retention; the daemon does it by itself."""
    import time

    settings = context.read()
    keep = settings.quarantine.retention_days if days is None else days
    count = _open_quarantine(context).expire(before=time.time() - keep * 86_400)
    click.echo(f"expired {count} messages")


def _open_quarantine(context: Context) -> "QuarantineStore":
    from spamguard.database import migrate
    from spamguard.quarantine import QuarantineStore

    paths = context.read().paths
    migrate(paths.database)
    return QuarantineStore(paths.quarantine, paths.database)
