"""The part of a retraining that needs torch: fine-tune the incumbent's BERT a little.

Each function is a step for `alone.run_alone`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from spamguard.model.calibration import Calibration
from spamguard.model.classifier import Classifier
from spamguard.model.store import ModelVersion
from spamguard.training.alone import Say
from spamguard.training.export import export_engine, load_network, save_network
from spamguard.training.loop import Settings, network_logits, train_network
from spamguard.training.plan import Stage
from spamguard.verdict import Thresholds

_SAY_EVERY = 50  # steps
UPPER_LAYERS = 2  # that "upper" lets learn
LEARNING_RATE = 5e-5
HEAD_FASTER = 10  # a head alone learns with a rate for one layer
EPOCHS = 2.0


def fine_tune(  # noqa: PLR0917 - a step takes what can be pickled, in order
    incumbent: ModelVersion,
    texts: Sequence[str],
    targets: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    stage: Stage,
    output: Path,
    threads: int,
    seed: int,
    *,
    say: Say,
) -> None:
    """Go on from the incumbent's weights and write the candidate's; `export` makes the engine's.

    Args:
        incumbent: what to start from.
        texts: model inputs of corrections and replayed texts.
        targets: 0 to 1 for each of them.
        weights: of each one's loss.
        stage: "head" learns the last unit alone, "upper" the upper layers too, "whole" all
            but the embedding table.
        output: the candidate's directory.
        threads: of the processor.
        seed: of everything drawn.
        say: told about the progress.

    Raises:
        TrainingError: the incumbent has no weights.
    """
    torch.set_num_threads(threads)
    network, tokenizer = load_network(incumbent.path)
    layers = int(network.encoder.config.num_hidden_layers)
    frozen = {"head": layers, "upper": max(0, layers - UPPER_LAYERS)}.get(stage, 0)
    settings = Settings(
        epochs=EPOCHS,
        max_tokens=incumbent.max_tokens,
        learning_rate=LEARNING_RATE * (HEAD_FASTER if stage == "head" else 1),
        freeze_layers=frozen,
        seed=seed,
    )
    steps = train_network(network, tokenizer, texts, targets, weights, settings=settings)
    for now in steps:
        if now.step % _SAY_EVERY == 0 or now.step == now.steps:
            say(
                f"step {now.step}/{now.steps}, loss {now.loss:.3f}, "
                f"{now.messages_per_second:.0f} messages/s, {now.seconds_left:.0f} s left"
            )
    save_network(network, tokenizer, output)


def export(directory: Path, threads: int) -> None:
    """Write the engine's file for the network in a directory.

    Raises:
        TrainingError: the exported graph does not compute what the network does.
    """
    torch.set_num_threads(threads)
    network, _ = load_network(directory)
    export_engine(network, directory)


def int8_differences(
    version: ModelVersion,
    texts: Sequence[str],
    calibration: Calibration,
    thresholds: Thresholds,
    threads: int,
) -> tuple[int, int]:
    """Return how many messages are spam by only one of int8 and float32, and of how many."""
    torch.set_num_threads(threads)
    network, tokenizer = load_network(version.path)
    classifier = Classifier(version)
    quantized, linear = np.array([classifier.logits(text) for text in texts]).reshape(-1, 2).T
    read = [classifier.read(text)[1] for text in texts]
    full = network_logits(network, tokenizer, read, max_tokens=version.max_tokens)
    called = [
        calibration.probabilities(logits, linear) >= thresholds.spam for logits in (quantized, full)
    ]
    return int((called[0] != called[1]).sum()), len(texts)
