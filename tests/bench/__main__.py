"""`python -m tests.bench [NAME…]`: run benches, print their tables, write JSON on request."""

import json
from pathlib import Path

import click

from tests.bench import load, overload, process, retraining, trouble
from tests.bench.cascade import cascade, repeats
from tests.bench.chaos import chaos
from tests.bench.compare import compare
from tests.bench.disguise import disguise
from tests.bench.report import console, machine

BENCHES = {
    "start": process.start,
    "scorer": process.scorer,
    "cascade": cascade,
    "repeats": repeats,
    "memory": process.memory,
    "milter": load.milter,
    "postfix": load.postfix,
    "hostile": trouble.hostile,
    "custody": trouble.custody,
    "chaos": chaos,
    "compare": compare,
    "overload": overload.overload,
    "growth": overload.growth,
    "scaling": overload.scaling,
    "retrain": retraining.retrain,
    "disguise": disguise,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHES)))
@click.option("--model", default="default", show_default=True, help="Version directory.")
@click.option("--count", type=int, help="Messages, where a bench takes a number.")
@click.option(
    "--dataset",
    type=click.Path(path_type=Path),
    help="Labelled mail, for the benches that take some.",
)
@click.option("--use", type=click.Choice(["eval", "train", "all"]), help="Rows of the data set.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw them here, PNG or SVG.")
def main(names, model, count, dataset, use, output, plot):
    """Run all benches, or those named; each prints what it measured beside its target."""
    figures = {"machine": machine()}
    console.print(machine())
    for name in names or BENCHES:
        bench = BENCHES[name]
        takes = bench.__code__.co_varnames[: bench.__code__.co_argcount]
        given = {"count": count, "dataset": dataset, "use": use}
        options = {key: value for key, value in given.items() if value and key in takes}
        figures[name] = bench(model, **options)
    if output:
        output.write_text(json.dumps(figures, indent=2) + "\n")
    if plot:
        from tests.bench.plot import draw

        draw(figures, plot)


if __name__ == "__main__":
    main()
