"""The command that learns from corrections."""

import json
import logging
import os
import sys
import time

import click

from spamguard.cli.common import Context, needs, show, warn_if_pinned
from spamguard.cli.corrections import open_corrections
from spamguard.errors import TrainingError


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what it would train on; change nothing.")
@click.option("--no-promote", is_flag=True, help="Leave an accepted candidate a candidate.")
@click.option(
    "--scheduled", is_flag=True, help="Do nothing below minimum_corrections new ones; log lines."
)
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
@click.pass_obj
def retrain(
    context: Context,
    *,
    dry_run: bool,
    no_promote: bool,
    scheduled: bool,
    as_json: bool,
) -> None:
    """Learn from users' corrections; promote the new model when it is measurably better.

    Runs at the lowest priority and within a memory limit; one run at a time. The running daemon
    takes a promoted model over by itself. Ends with 0 when the run went through, whether or not
    a model was promoted; with 75 when another run is under way.
    """
    from spamguard.observe import set_up_logging
    from spamguard.tables import gate_table, plan_table
    from spamguard.training.retrain import Retraining, newer_corrections, training_lock

    settings = context.read()
    set_up_logging(settings.log.level, settings.log.format, addresses=settings.log.addresses)
    log = logging.getLogger("spamguard.retrain")
    store, corrections = context.models(), open_corrections(context)
    _be_modest(settings.retrain.memory_megabytes)

    def say(text: str) -> None:
        if scheduled:
            log.info("retraining", extra={"progress": text})
        elif not as_json:
            click.echo(text, err=True)

    with training_lock(settings.paths.state):
        if scheduled:
            new = newer_corrections(store, corrections)
            if new < settings.retrain.minimum_corrections:
                log.info("nothing to retrain on", extra={"new_corrections": new})
                return
        run = Retraining(
            store,
            corrections,
            replay=settings.retrain.replay,
            never_flag=settings.retrain.never_flag,
            threads=settings.retrain.threads,
            clock=time.time,
            say=say,
        )
        if dry_run:
            plan = run.plan()
            if as_json:
                click.echo(json.dumps(plan.as_json(), indent=2))
            else:
                show(plan_table(plan))
            return
        if run.wants_torch():
            needs("torch", "transformers", "onnx")
        try:
            result = run.run(promote=settings.retrain.promote and not no_promote)
        except MemoryError as error:
            raise TrainingError(
                f"retrain.memory_megabytes = {settings.retrain.memory_megabytes}: not enough; "
                "nothing was changed"
            ) from error
    log.info("retrained", extra=result.as_fields())
    store.note_retraining(result.in_words(), at=time.time())
    if as_json:
        click.echo(json.dumps(result.as_json(), indent=2))
    elif not scheduled:
        show(plan_table(result.plan))
        if result.decision is not None:
            show(gate_table(result.decision.rules, result.version))
        click.echo(result.in_words())
    if result.promoted:
        warn_if_pinned(settings)
    sys.stdout.flush()


def _be_modest(megabytes: int) -> None:
    """Let everything else on the machine go first, and never take more memory than allowed."""
    import resource

    os.nice(19)
    limit = megabytes * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
