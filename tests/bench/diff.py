"""`python -m tests.bench.diff BEFORE.json AFTER.json`: the figures of two runs side by side."""

import json
from pathlib import Path

import click
from rich.table import Table

from tests.bench.report import console, measured

NOTEWORTHY = 0.1  # a change by so much is shown in colour; less is noise on a small machine


def rows(before, after):
    """Yield (bench, what, unit, value before, value after) for what both runs have."""
    later = {(bench, what): figure for bench, what, figure in measured(after)}
    for bench, what, figure in measured(before):
        if (bench, what) in later:
            yield bench, what, figure["unit"], figure["value"], later[bench, what]["value"]


@click.command()
@click.argument("before", type=click.Path(path_type=Path, exists=True))
@click.argument("after", type=click.Path(path_type=Path, exists=True))
def main(before, after):
    """Print what changed, as ratios."""
    first, second = (json.loads(path.read_text()) for path in (before, after))
    table = Table("bench", "what", before.stem, after.stem, "ratio")
    for bench, what, unit, old, new in rows(first, second):
        ratio = new / old if old else float("nan")
        shown = f"{ratio:.2f}"
        if not abs(ratio - 1) < NOTEWORTHY:
            shown = f"[bold]{shown}[/]"
        table.add_row(bench, what, f"{old:.2f} {unit}", f"{new:.2f} {unit}", shown)
    console.print(first["machine"], second["machine"], table, sep="\n")


if __name__ == "__main__":
    main()
