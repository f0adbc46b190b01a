"""Commands about model versions."""

import getpass
import json
from pathlib import Path

import click

from spamguard.cli.common import Context, needs, show, warn_if_pinned


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
    warn_if_pinned(context.read())


@models.command("rollback")
@click.option("--reason", default="by hand", show_default=True, help="For the history.")
@click.pass_obj
def models_rollback(context: Context, reason: str) -> None:
    """Go back to the version before; the running daemon takes it over within seconds."""
    name = context.models().roll_back(by=getpass.getuser(), reason=reason)
    click.echo(f"{name} is in use again")
    warn_if_pinned(context.read())


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
@click.option(
    "--max-false-positive-rate",
    "false_positives",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.001,
    show_default=True,
    help="Of the ham at most so much may be called spam.",
)
@click.option(
    "--max-flagged-rate",
    "flagged",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.005,
    show_default=True,
    help="Of the ham at most so much may be called spam or unsure.",
)
@click.option("--unsure", type=click.FloatRange(0, 1), help="With --spam: your own choice.")
@click.option("--spam", type=click.FloatRange(0, 1), help="With --unsure: your own choice.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw it: FILE.svg or FILE.png.")
@click.option("--store", is_flag=True, help="Store the thresholds with the version.")
@click.pass_obj
def models_thresholds(
    context: Context,
    /,
    *,
    datasets: tuple[Path, ...],
    name: str,
    false_positives: float,
    flagged: float,
    unsure: float | None,
    spam: float | None,
    plot: Path | None,
    store: bool,
) -> None:
    """Choose thresholds by a false-positive target; show what others would do.

    The targets hold with 95 % confidence on the labelled mail given, or the command says how much
    ham is missing. Give mail that the version was not trained on.
    """
    import numpy as np

    from spamguard.tables import progress_bar, trade_off_table
    from spamguard.training.dataset import load_examples
    from spamguard.training.evaluate import choose_thresholds, probabilities, trade_offs
    from spamguard.verdict import Thresholds

    if (unsure is None) != (spam is None):
        raise click.UsageError("--unsure and --spam: give both or neither")
    if unsure is not None and spam is not None and unsure > spam:
        raise click.UsageError("--unsure: expected at most --spam")
    if flagged < false_positives:
        raise click.UsageError("--max-flagged-rate: expected at least --max-false-positive-rate")
    if plot is not None:
        if plot.suffix not in {".svg", ".png"}:
            raise click.UsageError("--plot: expected a name ending in .svg or .png")
        needs("matplotlib")
    settings = context.read()
    models = context.models()
    version = models.get(name or settings.model.version)
    with progress_bar(visible=True) as bar:
        examples = [
            example
            for directory in datasets
            for example in load_examples(
                directory, workers=settings.workers, progress=bar("reading")
            )
        ]
        scores = probabilities(examples, version, workers=settings.workers, progress=bar("scoring"))
    is_spam = np.array([example.is_spam for example in examples], dtype=bool)
    found = choose_thresholds(
        scores[~is_spam], max_false_positive_rate=false_positives, max_flagged_rate=flagged
    )
    chosen = found.thresholds
    how = {"max_false_positive_rate": false_positives, "max_flagged_rate": flagged}
    if unsure is not None and spam is not None:
        chosen, how = Thresholds(unsure=unsure, spam=spam), {}
    marks = {version.thresholds.unsure: "unsure now", version.thresholds.spam: "spam now"}
    marks |= {chosen.unsure: "unsure", chosen.spam: "spam"}
    usual = {0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999}
    show(trade_off_table(trade_offs(examples, scores, sorted(usual | marks.keys())), marks))
    if found.ham < found.ham_needed and how:
        click.echo(
            f"{found.ham:,} good messages are too few to show at most "
            f"{100 * false_positives:g} %: {found.ham_needed:,} are needed. "
            "The spam threshold lies above all of them."
        )
    if plot is not None:
        from spamguard.training.plots import write_trade_off

        title = f"{version.name} on {len(examples):,} messages"
        write_trade_off(plot, scores, is_spam, chosen=chosen, title=title)
    if store:
        record = {**how, "ham": int((~is_spam).sum()), "spam": int(is_spam.sum())}
        models.set_thresholds(version, chosen, chosen=record)
        click.echo(
            f"stored with {version.name}: unsure from {chosen.unsure}, spam from {chosen.spam}"
        )
    else:
        click.echo(f"unsure from {chosen.unsure}, spam from {chosen.spam}; --store keeps them")
