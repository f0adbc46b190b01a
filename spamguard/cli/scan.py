"""The command that scores messages by hand."""

import asyncio
import sys

import click

from spamguard.cli.common import EX_TEMPFAIL, Context


@click.command()
@click.argument("paths", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--model", "version", default="", help="A version's name or directory.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes [default: one a core].")
@click.option("--pipe", is_flag=True, help="Message on input, with our fields on output.")
@click.option("--tempfail", is_flag=True, help="With --pipe: 75 in place of an unjudged message.")
@click.pass_obj
def scan(
    context: Context,
    paths: tuple[str, ...],
    *,
    as_json: bool,
    version: str,
    workers: int | None,
    pipe: bool,
    tempfail: bool,
) -> None:
    """Score messages: files, directories, mbox files, Maildirs, or - for standard input.

    Ends with 0 when every message was scored, else with 75. With --pipe it is a filter for
    procmail, maildrop and Sieve: it asks the running daemon, and ends with 0 in any case.
    """
    if pipe != (not paths) or (tempfail and not pipe) or (pipe and (as_json or version)):
        raise click.UsageError("expected PATHS, or --pipe [--tempfail]")
    if pipe:
        _pipe(context, tempfail=tempfail)
        return
    from spamguard import scan as scanning
    from spamguard.model.store import ModelStore
    from spamguard.observe import json_line
    from spamguard.tables import ScanTable

    config = context.read()
    store = ModelStore(config.paths.models)
    model = store.get(version or config.model.version)
    sources = scanning.find_sources(paths)

    async def run() -> bool:
        all_scored = True
        results = scanning.scan(
            sources,
            model,
            workers=min(workers or config.workers, max(1, len(sources))),
            thresholds=config.model.thresholds,
        )
        with ScanTable(len(sources), visible=not as_json) as table:
            async for result in results:
                all_scored = all_scored and result.spam_probability is not None
                if as_json:
                    click.echo(json_line(result.as_json()))
                else:
                    table.add(result)
        return all_scored

    if not asyncio.run(run()):
        sys.exit(EX_TEMPFAIL)


def _pipe(context: Context, *, tempfail: bool) -> None:
    """Put out what came in, judged where that can be had: the delivery agent has no other copy."""
    raw = sys.stdin.buffer.read()
    try:
        from spamguard.pipe import judged

        edited = judged(context.read(), raw)
    except Exception as error:  # noqa: BLE001 - a bug of ours must not cost a message either
        click.echo(f"spamguard: unscored: {error or type(error).__name__}", err=True)
        if tempfail:
            sys.exit(EX_TEMPFAIL)
        edited = raw
    sys.stdout.buffer.write(edited)
    sys.stdout.buffer.flush()
