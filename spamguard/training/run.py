"""A training run from data sets to a version directory: the recipe, in the order it happens.

Read mail, remove what leaks the label, split by group, add our own texts, fit the linear model,
fine-tune the BERT, export to int8, calibrate both into one probability on held-out groups,
choose thresholds there, measure, write the manifest last.
"""

import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import spamguard
from spamguard.errors import ConfigError, TrainingError
from spamguard.model.calibration import Calibration, fit_calibration
from spamguard.model.classifier import Classifier
from spamguard.model.linear import LinearModel, features, fit_linear
from spamguard.model.store import (
    CALIBRATION_FILE,
    LINEAR_FILE,
    MANIFEST,
    WEIGHTS_FILE,
    ModelVersion,
    write_manifest,
)
from spamguard.training import metrics
from spamguard.training.bases import find_base
from spamguard.training.corpus import corpus_examples
from spamguard.training.dataset import (
    Example,
    load_examples,
    select,
    split_by_group,
    without_duplicates,
    without_leaks,
)
from spamguard.training.evaluate import choose_thresholds
from spamguard.training.evaluate import logits as scored_logits
from spamguard.training.export import export_network, load_network
from spamguard.training.loop import Settings, network_logits, train_network
from spamguard.training.network import (
    Pooling,
    SpamClassifier,
    average_weights,
    load_encoder,
    load_tokenizer,
    parameter_count,
    prune_vocabulary,
    round_embeddings,
    small_encoder,
)

# What a tier changes of the recipe; `spamguard train --tier`.
TIERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "default": {},
    "accurate": {"layers": 6, "window": 128},
}
SPLIT_SALT = "spamguard-1"  # changing it changes which groups are held out
COMPARED_MESSAGES = 1500  # on which int8 is compared with float32
# AdaGrad's larger steps (0.2, 0.5) fit the sources seen better and those left out worse; more
# weight on small groups, dropped features and plain gradient descent were worse too.
_LINEAR_EPOCHS, _LINEAR_RATE = 4, 0.1
_LINEAR_ORDERS = 5  # that the messages are met in


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All choices of a run. The defaults are those of the shipped model; CARD.md says why.

    Attributes:
        base: what to start from, see `bases.find_base`; a version directory goes on from it.
        layers: lower layers of the base to keep; 0 keeps all.
        pooling: cls, mean or attention.
        window: tokens that the version reads of a message; `Settings.max_tokens` are what it is
            trained on.
        prune: whether to keep only the vocabulary that mail uses.
        most_per_cell: messages of one corpus and label the network sees at most.
        linear_per_cell: likewise for the linear model.
        held_out: share of the groups kept for calibration and thresholds.
        class_weights: none, inverse frequency, or effective number of samples (Cui et al.
            2019, with beta 0.999).
        max_class_weight: how much more than one a class may weigh.
        oversample: repeat the rarer class instead of weighting it.
        corpus: whether our own texts are added.
        corpus_copies: how many renderings of each of them.
        teacher: a version to distil from (Hinton, Vinyals, Dean 2015), or "" for none.
        teacher_share: how much of each target is the teacher's probability; at most a half, so
            that no label turns around.
        averaged_with: a version of the same base and layers with which the weights are averaged
            in the end, or "" for none.
        averaged_share: the other version's.
        bert_limit: how far the BERT's logit counts, either way.
        max_false_positive_rate: the spam threshold's target on held-out ham.
        max_flagged_rate: the unsure threshold's.
        prior: share of spam for which scores are probabilities.
        training: see `loop.Settings`.
    """

    base: str = "e5"
    layers: int = 4
    pooling: Pooling = "mean"
    window: int = 64
    prune: bool = True
    most_per_cell: int = 2500
    linear_per_cell: int = 6000
    held_out: float = 0.12
    class_weights: Literal["none", "inverse", "effective"] = "inverse"
    max_class_weight: float = 10.0
    oversample: bool = False
    corpus: bool = True
    corpus_copies: int = 2
    teacher: str = ""
    teacher_share: float = 0.5
    averaged_with: str = ""
    averaged_share: float = 0.3
    bert_limit: float = 4.0
    max_false_positive_rate: float = 0.001
    max_flagged_rate: float = 0.005
    prior: float = 0.5
    training: Settings = field(default_factory=Settings)

    @classmethod
    def read(cls, path: Path | None, **overrides: Any) -> "Recipe":
        """Read a recipe from TOML, with a ``[training]`` table for `Settings`.

        Raises:
            ConfigError: the file cannot be read or names something that is not in a recipe.
        """
        values: dict[str, Any] = {}
        if path is not None:
            try:
                values = tomllib.loads(path.read_text("utf-8"))
            except (OSError, ValueError) as error:
                raise ConfigError(f"{path}: {error}") from error
        values = {**values, **overrides}
        training = values.pop("training", {})
        for known, given in ((cls, values), (Settings, training)):
            names = {f.name for f in fields(known)}
            if unknown := set(given) - names:
                raise ConfigError(
                    f"{path}: no such setting: {', '.join(sorted(unknown))}; "
                    f"expected some of {', '.join(sorted(names))}"
                )
        return cls(**values, training=Settings(**training))


def train_version(
    datasets: Sequence[Path], *, output: Path, name: str, recipe: Recipe
) -> ModelVersion:
    """Run the recipe; ``output`` becomes a version directory.

    Raises:
        DataError: a data set cannot be read.
        TrainingError: there is nothing to train on, or the base cannot be used.
    """
    if (output / MANIFEST).exists():
        raise TrainingError(f"{output}: holds a finished version already")
    output.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True, highlight=False)
    started = time.time()
    training, held_out = read_training_data(datasets, recipe, console)
    fit_linear_model(training, recipe).save(output / LINEAR_FILE)
    chosen = select(training, most_per_cell=recipe.most_per_cell, seed=recipe.training.seed)
    if recipe.oversample:
        chosen = oversampled(chosen, recipe.training.seed)
    console.print(f"training on {len(chosen):,} messages, {len(held_out):,} held out")
    fine_tune(chosen, training, recipe, output, console)
    calibration = _calibrate(output, held_out, recipe, name)
    calibration.save(output / CALIBRATION_FILE)
    measured = _measure(_unfinished(output, name, recipe), held_out, calibration, recipe)
    write_manifest(
        output,
        {
            "version": name,
            "created": time.strftime("%Y-%m-%d", time.gmtime()),
            "spamguard": spamguard.__version__,
            "max_tokens": recipe.window,
            **measured,
            "recipe": asdict(recipe),
            "training_messages": len(chosen),
            "training_seconds": round(time.time() - started),
        },
    )
    console.print(f"wrote {output}")
    return ModelVersion.read(output)


def read_training_data(
    datasets: Sequence[Path], recipe: Recipe, console: Console
) -> tuple[list[Example], list[Example]]:
    """Return (training, held out) examples; what may only be evaluated is left out."""
    examples: list[Example] = []
    with _bar(console, "reading") as (progress, task):
        for directory in datasets:
            examples += load_examples(
                directory,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
    usable = without_duplicates(without_leaks(e) for e in examples if e.use == "train")
    training, held_out = split_by_group(usable, held_out=recipe.held_out, salt=SPLIT_SALT)
    if recipe.corpus:
        training += corpus_examples(copies=recipe.corpus_copies, seed=recipe.training.seed)
    for part, where in ((training, "training"), (held_out, "held-out")):
        if len({example.is_spam for example in part}) < 2:
            raise TrainingError(f"the {where} part of the data has not both ham and spam")
    return training, held_out


def fit_linear_model(training: Sequence[Example], recipe: Recipe) -> LinearModel:
    """Fit the linear model on more messages than the network can see in its time.

    It is the mean of several that met the messages in other orders: what one order happens to
    leave in rare features averages out, and a mean of linear models costs no more than one.
    """
    chosen = select(training, most_per_cell=recipe.linear_per_cell, seed=recipe.training.seed)
    is_spam = [example.is_spam for example in chosen]
    weights = class_weights(np.array(is_spam), recipe)
    found = [features(example.text) for example in chosen]
    fitted = []
    for order in range(_LINEAR_ORDERS):
        *_, model = fit_linear(
            found,
            is_spam,
            weights.tolist(),
            epochs=_LINEAR_EPOCHS,
            learning_rate=_LINEAR_RATE,
            seed=recipe.training.seed + order,
        )
        fitted.append(model)
    mean = np.mean([model.weights for model in fitted], axis=0)
    return LinearModel(mean, float(np.mean([model.bias for model in fitted])))


def class_weights(is_spam: npt.NDArray[np.bool_], recipe: Recipe) -> npt.NDArray[np.float32]:
    """Return each message's weight: mean 1, classes balanced as the recipe says, capped."""
    counts = {value: max(1, int((is_spam == value).sum())) for value in (True, False)}
    match recipe.class_weights:
        case "none":
            raw = dict.fromkeys(counts, 1.0)
        case "inverse":
            raw = {value: 1.0 / count for value, count in counts.items()}
        case "effective":
            raw = {value: (1 - 0.999) / (1 - 0.999**count) for value, count in counts.items()}
    lightest = min(raw.values())
    capped = {value: min(w / lightest, recipe.max_class_weight) for value, w in raw.items()}
    weights = np.where(is_spam, capped[True], capped[False]).astype(np.float32)
    normalised: npt.NDArray[np.float32] = weights / weights.mean()
    return normalised


def oversampled(examples: Sequence[Example], seed: int) -> list[Example]:
    """Repeat messages of the rarer class until both classes are alike in number."""
    generator = np.random.default_rng(seed)
    by_class = {value: [e for e in examples if e.is_spam == value] for value in (True, False)}
    rarer, commoner = sorted(by_class.values(), key=len)
    extra = generator.integers(0, len(rarer), len(commoner) - len(rarer))
    return [*examples, *(rarer[i] for i in extra)]


def fine_tune(
    chosen: Sequence[Example],
    vocabulary_from: Sequence[Example],
    recipe: Recipe,
    output: Path,
    console: Console,
) -> None:
    """Build the network, train it and write its files."""
    base = find_base(recipe.base)
    if Path(base, WEIGHTS_FILE).exists() and Path(base, MANIFEST).exists():
        network, tokenizer = load_network(Path(base))
    else:
        encoder = small_encoder(load_encoder(base), recipe.layers)
        tokenizer = load_tokenizer(base)
        if recipe.prune:
            texts = [example.text for example in vocabulary_from]
            tokenizer = prune_vocabulary(encoder, tokenizer, texts)
        round_embeddings(encoder)
        network = SpamClassifier(encoder, pooling=recipe.pooling)
    console.print(f"network: {parameter_count(network.encoder.config)}, {recipe.pooling} pooling")
    is_spam = np.array([example.is_spam for example in chosen])
    texts = [example.text for example in chosen]
    targets = is_spam.astype(np.float32)
    if recipe.teacher:
        targets = with_teacher(targets, texts, recipe, console)
    steps = train_network(
        network,
        tokenizer,
        texts,
        targets,
        class_weights(is_spam, recipe),
        settings=recipe.training,
        checkpoint=output / "checkpoint.safetensors",
    )
    last = 0.0
    with _bar(console, "training") as (progress, task):
        for now in steps:
            text = f"training, loss {now.loss:.3f}, rate {now.learning_rate:.1e}"
            progress.update(task, completed=now.step, total=now.steps, description=text)
            if not console.is_terminal and time.monotonic() - last > 30:
                last = time.monotonic()
                console.print(
                    f"step {now.step}/{now.steps} {text}, {now.messages_per_second:.0f} "
                    f"messages/s, {now.seconds_left:.0f} s left"
                )
    if recipe.averaged_with:
        other, _ = load_network(Path(find_base(recipe.averaged_with)))
        average_weights(network, other, recipe.averaged_share)
    export_network(network, tokenizer, output)


def with_teacher(
    targets: npt.NDArray[np.float32], texts: Sequence[str], recipe: Recipe, console: Console
) -> npt.NDArray[np.float32]:
    """Mix the labels with what the teacher's BERT says of the same messages, in its own window.

    Raises:
        ModelLoadError: the teacher cannot be read.
        TrainingError: its weights cannot, or its share is too large.
    """
    version = ModelVersion.read(Path(find_base(recipe.teacher)))
    network, tokenizer = load_network(version.path)
    console.print(f"asking the teacher {version.name} about {len(texts):,} messages")
    logits = network_logits(network, tokenizer, texts, max_tokens=version.max_tokens, exact=False)
    return soft_targets(targets, logits, recipe.teacher_share)


def soft_targets(
    targets: npt.NDArray[np.float32], teacher_logits: npt.NDArray[np.float64], share: float
) -> npt.NDArray[np.float32]:
    """Return the targets with ``share`` of them replaced by the teacher's probabilities.

    Raises:
        TrainingError: with so large a share a label could turn around.
    """
    if not 0 < share <= 0.5:
        raise TrainingError(f"teacher_share {share}: expected more than 0, at most 0.5")
    probabilities = 1 / (1 + np.exp(-teacher_logits))
    return ((1 - share) * targets + share * probabilities).astype(np.float32)


def _calibrate(output: Path, held_out: Sequence[Example], recipe: Recipe, name: str) -> Calibration:
    """Fit the two logits' weights on held-out groups; each corpus counts alike per class."""
    both = Calibration(bert=1.0, linear=1.0, bias=0.0)
    both.save(output / CALIBRATION_FILE)
    version = _unfinished(output, name, recipe)
    found = scored_logits(held_out, version, workers=2)
    is_spam = np.array([example.is_spam for example in held_out])
    return fit_calibration(
        found,
        is_spam,
        _corpus_weights(held_out),
        prior=recipe.prior,
        bert_limit=recipe.bert_limit,
    )


def _unfinished(output: Path, name: str, recipe: Recipe) -> ModelVersion:
    """Write a manifest for the files so far, so that the daemon's own classifier reads them."""
    thresholds = {"unsure": 0.5, "spam": 0.9}
    fields = {"version": name, "max_tokens": recipe.window, "thresholds": thresholds}
    write_manifest(output, fields)
    return ModelVersion.read(output)


def _corpus_weights(examples: Sequence[Example]) -> npt.NDArray[np.float64]:
    """Weigh messages so that each corpus has the same say within its class."""
    cells = [(example.corpus, example.is_spam) for example in examples]
    counts = {cell: cells.count(cell) for cell in set(cells)}
    return np.array([1.0 / counts[cell] ** 0.5 for cell in cells])


def _measure(
    version: ModelVersion, held_out: Sequence[Example], calibration: Calibration, recipe: Recipe
) -> dict[str, Any]:
    """Choose thresholds and compare int8 with float32, on held-out mail."""
    found = scored_logits(held_out, version, workers=2)
    is_spam = np.array([example.is_spam for example in held_out])
    scores = calibration.probabilities(found[:, 0], found[:, 1])
    ham = scores[~is_spam]
    chosen = choose_thresholds(
        ham,
        max_false_positive_rate=recipe.max_false_positive_rate,
        max_flagged_rate=recipe.max_flagged_rate,
    ).thresholds
    measured = metrics.figures(
        scores, is_spam, unsure_threshold=chosen.unsure, spam_threshold=chosen.spam
    )
    network, tokenizer = load_network(version.path)
    part = slice(0, COMPARED_MESSAGES)
    classifier = Classifier(version)
    texts = [classifier.read(example.text)[1] for example in held_out[part]]
    full = network_logits(network, tokenizer, texts, max_tokens=recipe.window)
    full_scores = calibration.probabilities(full, found[part, 1])
    flips = (full_scores >= chosen.spam) != (scores[part] >= chosen.spam)
    return {
        "thresholds": asdict(chosen),
        "measured": {"on": "held-out groups of the training data", **asdict(measured)},
        "int8": {
            "messages": len(texts),
            "label_flips": float(flips.mean()),
            "mean_logit_difference": float(np.abs(full - found[part, 0]).mean()),
        },
    }


@contextmanager
def _bar(console: Console, description: str) -> Iterator[tuple[Progress, Any]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield progress, progress.add_task(description, total=None)
