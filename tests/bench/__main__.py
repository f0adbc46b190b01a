"""`python -m tests.bench [NAME…]`: run benches, print their tables, write JSON on request."""

import json
from pathlib import Path

import click

from tests.bench import load, process, trouble
from tests.bench.report import console, machine

BENCHES = {
    "start": process.start,
    "scorer": process.scorer,
    "memory": process.memory,
    "milter": load.milter,
    "postfix": load.postfix,
    "hostile": trouble.hostile,
    "custody": trouble.custody,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHES)))
@click.option("--model", default="default", show_default=True, help="Version directory.")
@click.option("--count", type=int, help="Messages, where a bench takes a number.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the figures here.")
def main(names, model, count, output):
    """Run all benches, or those named; each prints what it measured beside its target."""
    figures = {"machine": machine()}
    console.print(machine())
    for name in names or BENCHES:
        bench = BENCHES[name]
        takes_count = "count" in bench.__code__.co_varnames[: bench.__code__.co_argcount]
        options = {"count": count} if count and takes_count else {}
        figures[name] = bench(model, **options)
    if output:
        output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
