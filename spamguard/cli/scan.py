"""The command that scores messages by hand."""

import asyncio
import sys

import click

from spamguard.cli.common import EX_TEMPFAIL, Context


@click.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--model", "version", default="", help="A version's name or directory.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes [default: one a core].")
@click.pass_obj
def scan(
    context: Context,
    paths: tuple[str, ...],
    as_json: bool,  # noqa: FBT001 - a flag
    version: str,
    workers: int | None,
) -> None:
    """Score messages: files, directories, mbox files, Maildirs, or - for standard input.

    Ends with 0 when every message was scored, else with 75.
    """
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
