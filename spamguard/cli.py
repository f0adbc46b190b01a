"""The command line: each command parses its arguments and calls one function.

Imports stand inside the commands, so that `spamguard status` does not load a model and
`spamguard serve` no training. Errors are one line without a traceback and end with the exit
code of their class (sysexits.h).
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import spamguard
from spamguard.config import Config, load_config
from spamguard.errors import SpamGuardError, StoreError

if TYPE_CHECKING:
    from spamguard.quarantine import QuarantineStore

_EX_UNAVAILABLE = 69
_EX_TEMPFAIL = 75
_BUG = 70


class _Context:
    """What all commands share: where the configuration is, read once it is needed."""

    def __init__(self, path: Path | None, overrides: dict[str, Any]) -> None:
        self.path = path
        self.overrides = overrides

    def read(self) -> Config:
        """Read the settings; see `load_config`."""
        return load_config(self.path, environment=os.environ, overrides=self.overrides)


def _overrides(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, Any]:
    del context, parameter
    parsed: dict[str, Any] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals:
            raise click.BadParameter(f"{value!r}: expected SECTION.KEY=VALUE")
        try:
            parsed[key.strip()] = json.loads(text)
        except ValueError:
            parsed[key.strip()] = text
    return parsed


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    envvar="SPAMGUARD_CONFIG",
    help="Configuration file [default: /etc/spamguard/spamguard.toml where it exists].",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    callback=_overrides,
    help="Override one setting; the value is JSON or plain text. Repeatable.",
)
@click.version_option(spamguard.__version__, prog_name="spamguard")
@click.pass_context
def cli(context: click.Context, path: Path | None, overrides: dict[str, Any]) -> None:
    """SpamGuard judges mail with a quantized BERT and learns from its users' corrections."""
    context.obj = _Context(path, overrides)


@cli.command()
@click.pass_obj
def serve(context: _Context) -> None:
    """Run the daemon in the foreground until SIGTERM; SIGHUP reloads."""
    from spamguard import daemon
    from spamguard.observe import set_up_logging

    config = context.read()
    set_up_logging(config.log.level, config.log.format)
    daemon.serve(config, context.read)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print what the daemon said.")
@click.pass_obj
def status(context: _Context, as_json: bool) -> None:  # noqa: FBT001 - a flag
    """Ask the running daemon how it is."""
    from spamguard.tables import status_table

    answer = _ask(context, "status")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        _print(status_table(answer))


@cli.command()
@click.pass_obj
def reload(context: _Context) -> None:
    """Have the running daemon read its configuration and model again."""
    answer = _ask(context, "reload")
    click.echo(f"reloaded, model {answer['model']}")
    if answer["needs_restart"]:
        click.echo(f"needs a restart to take effect: {', '.join(answer['needs_restart'])}")


def _ask(context: _Context, command: str) -> dict[str, Any]:
    from spamguard.frontends.control import ask

    path = context.read().paths.control_socket
    try:
        answer = ask(path, command)
    except (OSError, ValueError) as error:
        click.echo(f"spamguard: no daemon answers on {path}: {error}", err=True)
        sys.exit(_EX_UNAVAILABLE)
    if "error" in answer:
        raise StoreError(answer["error"])
    return answer


@cli.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--model", "version", default="", help="A version's name or directory.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes [default: one a core].")
@click.pass_obj
def scan(
    context: _Context,
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
                    click.echo(json.dumps(result.as_json(), ensure_ascii=False))
                else:
                    table.add(result)
        return all_scored

    if not asyncio.run(run()):
        sys.exit(_EX_TEMPFAIL)


# -- config ----------------------------------------------------------------------------------


@cli.group()
def config() -> None:
    """Check, show or create the configuration."""


@config.command("check")
@click.pass_obj
def config_check(context: _Context) -> None:
    """Check the configuration and the model it names; name every mistake."""
    from spamguard.model.store import ModelStore

    settings = context.read()
    store = ModelStore(settings.paths.models)
    version = store.get(settings.model.version)
    version.verify()
    click.echo(f"configuration is good; model {version.name} is intact")


@config.command("show")
@click.pass_obj
def config_show(context: _Context) -> None:
    """Print the settings in force, as JSON, after file, environment and --set."""
    click.echo(context.read().model_dump_json(indent=2))


@config.command("init")
@click.argument("target", type=click.Path(path_type=Path), default="/etc/spamguard/spamguard.toml")
def config_init(target: Path) -> None:
    """Write a commented configuration file with the defaults; never overwrites."""
    from spamguard.config import template

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as stream:
            stream.write(template())
    except OSError as error:
        raise StoreError(f"{target}: {error.strerror or error}") from error
    click.echo(f"wrote {target}")


# -- models ----------------------------------------------------------------------------------


@cli.group()
def models() -> None:
    """List and inspect model versions."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_obj
def models_list(context: _Context, as_json: bool) -> None:  # noqa: FBT001 - a flag
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
        _print(models_table(versions, current))


@models.command("show")
@click.argument("name", default="")
@click.pass_obj
def models_show(context: _Context, name: str) -> None:
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
    context: _Context,
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
    _print(trade_off_table(trade_offs(examples, scores, candidates)))
    if unsure is not None and spam is not None:
        if unsure > spam:
            raise click.UsageError("--unsure: expected at most --spam")
        store.set_thresholds(version, Thresholds(unsure=unsure, spam=spam))
        click.echo(f"stored with {version.name}: unsure from {unsure}, spam from {spam}")


# -- quarantine ------------------------------------------------------------------------------


@cli.group()
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
    context: _Context,
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
            click.echo(json.dumps(asdict(row), ensure_ascii=False))
    else:
        _print(quarantine_table(rows))


@quarantine.command("show")
@click.argument("message_id")
@click.option("--raw", is_flag=True, help="The message as received, byte for byte.")
@click.pass_obj
def quarantine_show(context: _Context, message_id: str, raw: bool) -> None:  # noqa: FBT001 - a flag
    """Show one message: envelope, verdict, header and the text the model read."""
    from spamguard.tables import held_message_view

    store = _open_quarantine(context)
    held = store.get(message_id)
    data = store.raw(held.id)
    if raw:
        sys.stdout.buffer.write(data)
    else:
        _print(held_message_view(held, data))


@quarantine.command("release")
@click.argument("message_ids", nargs=-1, required=True)
@click.pass_obj
def quarantine_release(context: _Context, message_ids: tuple[str, ...]) -> None:
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

    _each(message_ids, release)


@quarantine.command("delete")
@click.argument("message_ids", nargs=-1, required=True)
@click.pass_obj
def quarantine_delete(context: _Context, message_ids: tuple[str, ...]) -> None:
    """Delete held messages for good."""
    store = _open_quarantine(context)
    _each(message_ids, lambda message_id: f"deleted {store.delete(message_id).id}")


def _each(message_ids: tuple[str, ...], act: Callable[[str], str]) -> None:
    """Act on every id, report each, and end with the code of the first failure."""
    code = 0
    for message_id in message_ids:
        try:
            click.echo(act(message_id))
        except SpamGuardError as error:
            click.echo(f"spamguard: {error}", err=True)
            code = code or error.exit_code
    if code:
        sys.exit(code)


@quarantine.command("expire")
@click.option("--days", type=click.FloatRange(min=0), help="[default: retention_days]")
@click.pass_obj
def quarantine_expire(context: _Context, days: float | None) -> None:
    """Forget messages older than the retention; the daemon does it by itself."""
    import time

    settings = context.read()
    keep = settings.quarantine.retention_days if days is None else days
    count = _open_quarantine(context).expire(before=time.time() - keep * 86_400)
    click.echo(f"expired {count} messages")


def _open_quarantine(context: _Context) -> "QuarantineStore":
    from spamguard.database import migrate
    from spamguard.quarantine import QuarantineStore

    paths = context.read().paths
    migrate(paths.database)
    return QuarantineStore(paths.quarantine, paths.database)


# -- training --------------------------------------------------------------------------------


@cli.command()
@click.argument("datasets", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="New directory.")
@click.option("--name", required=True, help="The version's name.")
@click.option(
    "--base",
    default="minilm",
    show_default=True,
    help="minilm, default (go on from the shipped version), a directory, or a hub's name.",
)
@click.option("--recipe", type=click.Path(path_type=Path), help="TOML with other settings.")
@click.option("--corpus/--no-corpus", default=True, help="Add the texts shipped for training.")
def train(
    datasets: tuple[Path, ...],
    *,
    output: Path,
    name: str,
    base: str,
    recipe: Path | None,
    corpus: bool,
) -> None:
    """Fine-tune a model on labelled data sets and write a version directory.

    Needs the training packages: pip install 'spamguard[train]'. A run that was stopped goes on
    at its last checkpoint when started again with the same arguments.
    """
    _needs("torch", "transformers", "onnx")
    from spamguard.training.run import Recipe, train_version

    settings = Recipe.read(recipe, base=base, corpus=corpus)
    train_version(datasets, output=output, name=name, recipe=settings)


@cli.command()
@click.argument("datasets", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", "version", default="", help="A version's name or directory.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON, with intervals.")
@click.option("--use", type=click.Choice(["train", "eval", "all"]), default="all")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many, drawn evenly.")
@click.pass_obj
def evaluate(
    context: _Context,
    datasets: tuple[Path, ...],
    *,
    version: str,
    as_json: bool,
    use: str,
    limit: int | None,
) -> None:
    """Measure a model on labelled data sets: figures per source, kind and language."""
    from spamguard.model.store import ModelStore
    from spamguard.tables import evaluation_table, progress_bar
    from spamguard.training.dataset import load_examples, thin_out
    from spamguard.training.evaluate import evaluate as measure

    settings = context.read()
    store = ModelStore(settings.paths.models)
    model = store.get(version or settings.model.version)
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
        found = measure(
            examples,
            model,
            workers=settings.workers,
            thresholds=settings.model.thresholds,
            progress=bar("scoring"),
        )
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
    else:
        _print(evaluation_table(found))


def _needs(*modules: str) -> None:
    """End with a hint when packages of an extra are not installed."""
    from importlib.util import find_spec

    if missing := [name for name in modules if find_spec(name) is None]:
        click.echo(
            f"spamguard: {', '.join(missing)} not installed: pip install 'spamguard[train]'",
            err=True,
        )
        sys.exit(_EX_UNAVAILABLE)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a shell's completion script: eval "$(spamguard completion bash)"."""
    from click.shell_completion import get_completion_class

    completion_class = get_completion_class(shell)
    assert completion_class is not None
    click.echo(completion_class(cli, {}, "spamguard", "_SPAMGUARD_COMPLETE").source())


def _print(renderable: Any) -> None:
    from rich.console import Console

    # A pipe has no width: give tables room instead of rich's 80 columns.
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(renderable)


def main() -> None:
    """Run the command line; the entry point of the package."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("spamguard: interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(64 if isinstance(error, click.UsageError) else error.exit_code)
    except SpamGuardError as error:
        for line in str(error).splitlines():
            click.echo(f"spamguard: {line}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
