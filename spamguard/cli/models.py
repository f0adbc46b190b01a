"""Commands about model versions."""

import json
from pathlib import Path

import click

from spamguard.cli.common import Context, show


@click.group()
def models() -> None:
    """List and inspect model versions."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_obj
def models_list(context: Context, as_json: bool) -> None:  # noqa: FBT001 - a flag
    """List the versions; * marks the one in use."""
    from spamguard.model.store import ModelStore
    from spamguard.tables import models_table

    settings = context.read()
    store = ModelStore(settings.paths.models)
    current = store.get(settings.model.version)
    versions = store.versions()
    if as_json:
        click.echo(json.dumps([dict(v.manifest) for v in versions], indent=2))
    else:
        show(models_table(versions, current))


@models.command("show")
@click.argument("name", default="")
@click.pass_obj
def models_show(context: Context, name: str) -> None:
    """Print a version's manifest, after checking its files."""
    from spamguard.model.store import ModelStore

    settings = context.read()
    version = ModelStore(settings.paths.models).get(name or settings.model.version)
    version.verify()
    click.echo(json.dumps(dict(version.manifest), indent=2, ensure_ascii=False))


@models.command("thresholds")
@click.argument("datasets", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", "name", default="", help="A version's name or directory.")
@click.option("--unsure", type=click.FloatRange(0, 1), help="With --spam: store it.")
@click.option("--spam", type=click.FloatRange(0, 1), help="With --unsure: store it.")
@click.pass_obj
def models_thresholds(
    context: Context,
    /,
    *,
    datasets: tuple[Path, ...],
    name: str,
    unsure: float | None,
    spam: float | None,
) -> None:
    """Show what thresholds would do on labelled mail; store those you choose."""
    from spamguard.model.store import ModelStore
    from spamguard.tables import progress_bar, trade_off_table
    from spamguard.training.dataset import load_examples
    from spamguard.training.evaluate import probabilities, trade_offs
    from spamguard.verdict import Thresholds

    if (unsure is None) != (spam is None):
        raise click.UsageError("--unsure and --spam: give both or neither")
    settings = context.read()
    store = ModelStore(settings.paths.models)
    version = store.get(name or settings.model.version)
    with progress_bar(visible=True) as bar:
        examples = [
            example
            for directory in datasets
            for example in load_examples(
                directory, workers=settings.workers, progress=bar("reading")
            )
        ]
        scores = probabilities(examples, version, workers=settings.workers, progress=bar("scoring"))
    own = [version.thresholds.unsure, version.thresholds.spam]
    chosen = [value for value in (unsure, spam) if value is not None]
    candidates = sorted({0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, *own, *chosen})
    show(trade_off_table(trade_offs(examples, scores, candidates)))
    if unsure is not None and spam is not None:
        if unsure > spam:
            raise click.UsageError("--unsure: expected at most --spam")
        store.set_thresholds(version, Thresholds(unsure=unsure, spam=spam))
        click.echo(f"stored with {version.name}: unsure from {unsure}, spam from {spam}")
