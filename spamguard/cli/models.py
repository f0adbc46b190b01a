"""Commands about model versions."""

import getpass
import json
from pathlib import Path

import click

from spamguard.cli.common import Context, show


@click.group()
def models() -> None:
    """List, compare, promote and roll back model versions."""


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
        show(models_table(versions, current, store.candidates()))


@models.command("show")
@click.argument("name", default="")
@click.pass_obj
def models_show(context: Context, name: str) -> None:
    """Print a version's manifest, after checking its files, and what the gate said of it."""
    from spamguard.model.store import GATE_FILE, ModelStore
    from spamguard.tables import gate_table
    from spamguard.training.gate import Rule

    settings = context.read()
    version = ModelStore(settings.paths.models).get(name or settings.model.version)
    version.verify()
    click.echo(json.dumps(dict(version.manifest), indent=2, ensure_ascii=False))
    if (gate := version.path / GATE_FILE).exists():
        decision = json.loads(gate.read_text("utf-8"))
        show(gate_table([Rule(**rule) for rule in decision["rules"]], version.name))


@models.command("promote")
@click.argument("name")
@click.option("--force", is_flag=True, help="Although the gate refused it.")
@click.option("--reason", default="", help="For the history; needed with --force.")
@click.pass_obj
def models_promote(context: Context, name: str, force: bool, reason: str) -> None:  # noqa: FBT001
    """Make a version or candidate the one in use; the running daemon takes it over."""
    from spamguard.errors import ModelError
    from spamguard.model.store import CANDIDATES, GATE_FILE

    store = context.models()
    version = store.get(name)
    gate = version.path / GATE_FILE
    if gate.exists() and not json.loads(gate.read_text("utf-8"))["promoted"]:
        if not force:
            raise ModelError(f"{name}: refused by the gate (see `models show {name}`); --force")
        if not reason:
            raise click.UsageError("--force: give a --reason for the history")
    if version.path.parent.name == CANDIDATES:
        store.adopt(version.path, version.name)
    store.promote(version.name, by=getpass.getuser(), reason=reason)
    click.echo(f"{version.name} is in use")


@models.command("rollback")
@click.option("--reason", default="by hand", show_default=True, help="For the history.")
@click.pass_obj
def models_rollback(context: Context, reason: str) -> None:
    """Go back to the version before; the running daemon takes it over within seconds."""
    name = context.models().roll_back(by=getpass.getuser(), reason=reason)
    click.echo(f"{name} is in use again")


@models.command("history")
@click.pass_obj
def models_history(context: Context) -> None:
    """Show every promotion and rollback, oldest first."""
    from spamguard.tables import history_table

    show(history_table(context.models().history()))


@models.command("diff")
@click.argument("before")
@click.argument("after", default="")
@click.pass_obj
def models_diff(context: Context, before: str, after: str) -> None:
    """Compare two versions' manifests; AFTER is the one in use when not given."""
    from spamguard.tables import manifest_diff

    store = context.models()
    show(manifest_diff(store.get(before), store.get(after)))


@models.command("prune")
@click.option("--keep", type=click.IntRange(min=1), default=5, show_default=True)
@click.pass_obj
def models_prune(context: Context, keep: int) -> None:
    """Delete old versions; never the one in use or the one before it."""
    for name in context.models().prune(keep=keep):
        click.echo(f"deleted {name}")


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
