"""Commands that train and measure models."""

import json
from pathlib import Path

import click

from spamguard.cli.common import Context, needs, show


@click.command()
@click.argument("datasets", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="New directory.")
@click.option("--name", required=True, help="The version's name.")
@click.option(
    "--tier",
    type=click.Choice(["default", "accurate"]),
    default="default",
    show_default=True,
    help="accurate: six layers that read 128 tokens, at three times the cost a message.",
)
@click.option(
    "--base",
    help="e5 (if nothing is said), minilm, default (go on from the shipped version), a directory, "
    "or a hub's name.",
)
@click.option("--recipe", type=click.Path(path_type=Path), help="TOML with other settings.")
@click.option("--corpus/--no-corpus", default=None, help="Add the texts shipped for training.")
def train(
    datasets: tuple[Path, ...],
    *,
    output: Path,
    name: str,
    tier: str,
    base: str | None,
    recipe: Path | None,
    corpus: bool | None,
) -> None:
    """Fine-tune a model on labelled data sets and write a version directory.

    Needs the training packages: pip install 'spamguard[train]'. A run that was stopped goes on
    at its last checkpoint when started again with the same arguments.
    """
    needs("torch", "transformers", "onnx")
    from spamguard.training.run import TIERS, Recipe, train_version

    said = {"base": base, "corpus": corpus}
    given = {key: value for key, value in said.items() if value is not None}
    settings = Recipe.read(recipe, **TIERS[tier], **given)
    train_version(datasets, output=output, name=name, recipe=settings)


@click.command()
@click.argument("datasets", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", "version", default="", help="A version's name or directory.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON, with intervals.")
@click.option("--use", type=click.Choice(["train", "eval", "all"]), default="all")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many, drawn evenly.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with curves and the worst mistakes (HTML, quotes mail).",
)
@click.pass_obj
def evaluate(
    context: Context,
    datasets: tuple[Path, ...],
    *,
    version: str,
    as_json: bool,
    use: str,
    limit: int | None,
    report: Path | None,
) -> None:
    """Measure a model on labelled data sets: figures per source, kind and language."""
    import time

    from spamguard.errors import DataError
    from spamguard.tables import evaluation_table, progress_bar
    from spamguard.training.dataset import load_examples, thin_out
    from spamguard.training.evaluate import calibrated, evaluate_scores, logits

    if report is not None:
        needs("matplotlib", "jinja2")
    settings = context.read()
    model = context.models().get(version or settings.model.version)
    thresholds = settings.model.thresholds or model.thresholds
    with progress_bar(visible=not as_json) as bar:
        examples = [
            example
            for directory in datasets
            for example in load_examples(
                directory, workers=settings.workers, progress=bar("reading")
            )
            if use in {example.use, "all"}
        ]
        examples = thin_out(examples, limit)
        found = logits(examples, model, workers=settings.workers, progress=bar("scoring"))
        if report is not None:
            if len({example.is_spam for example in examples}) < 2:
                raise DataError("--report: expected both ham and spam in the data set")
            from spamguard.training.report import write_report

            write_report(
                report,
                examples,
                found,
                model,
                thresholds=thresholds,
                datasets=[directory.resolve().name for directory in datasets],
                day=time.strftime("%Y-%m-%d"),
                progress=bar("explaining"),
            )
    measured = evaluate_scores(
        examples, calibrated(found, model), model_version=model.name, thresholds=thresholds
    )
    if as_json:
        click.echo(json.dumps(measured.as_json(), indent=2))
    else:
        show(evaluation_table(measured))
