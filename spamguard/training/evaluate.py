"""How good a model version is on a labelled data set: figures per slice, as table and JSON.

Scores come from the files that the daemon runs (int8, calibrated), not from the network that
was trained. No torch in here: an administrator can evaluate without the training packages.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spamguard.model.calibration import Calibration
from spamguard.model.classifier import Classifier
from spamguard.model.store import CALIBRATION_FILE, ModelVersion
from spamguard.training.dataset import Example
from spamguard.training.metrics import (
    FIXED_FALSE_POSITIVE_RATES,
    Figures,
    bounded_threshold,
    figures,
    ham_needed,
    wilson,
)
from spamguard.verdict import Thresholds

MIN_SLICE = 20  # smaller slices say nothing
_CHUNK = 200

_classifier: Classifier | None = None  # of a worker process


@dataclass(frozen=True, slots=True, kw_only=True)
class TradeOff:
    """What one threshold would do on one data set; rates 0 to 1.

    Attributes:
        threshold: the spam probability.
        false_positives, ham: ham at or above it, and all ham.
        worst_corpus, worst_rate: the source with the highest rate of ham at or above it.
        caught: share of the spam at or above it.
    """

    threshold: float
    false_positives: int
    ham: int
    worst_corpus: str
    worst_rate: float
    caught: float


def trade_offs(
    examples: Sequence[Example], scores: npt.NDArray[np.float64], thresholds: Sequence[float]
) -> list[TradeOff]:
    """Return what each threshold would do, for choosing one.

    Args:
        examples: labelled messages.
        scores: their spam probabilities, shape (messages,).
        thresholds: the candidates.
    """
    is_spam = np.array([example.is_spam for example in examples], dtype=bool)
    corpus = np.array([example.corpus for example in examples])
    sources = {
        name: scores[(corpus == name) & ~is_spam]
        for name in sorted(set(corpus.tolist()))
        if ((corpus == name) & ~is_spam).sum() >= MIN_SLICE
    }
    found = []
    for threshold in thresholds:
        rates = {name: float((ham >= threshold).mean()) for name, ham in sources.items()}
        worst = max(rates, key=rates.__getitem__, default="")
        found.append(
            TradeOff(
                threshold=threshold,
                false_positives=int((scores[~is_spam] >= threshold).sum()),
                ham=int((~is_spam).sum()),
                worst_corpus=worst,
                worst_rate=rates.get(worst, 0.0),
                caught=float((scores[is_spam] >= threshold).mean()),
            )
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenThresholds:
    """Thresholds found by a false-positive target, and whether the ham can show that it holds.

    Attributes:
        thresholds: unsure and spam.
        max_false_positive_rate, max_flagged_rate: the targets.
        ham: how much there was to choose by.
        ham_needed: how much shows the first target when none of it is flagged.
    """

    thresholds: Thresholds
    max_false_positive_rate: float
    max_flagged_rate: float
    ham: int
    ham_needed: int


def choose_thresholds(
    ham: npt.NDArray[np.float64], *, max_false_positive_rate: float, max_flagged_rate: float
) -> ChosenThresholds:
    """Return the lowest thresholds of which 95 % confidence says that they keep the targets.

    Args:
        ham: spam probabilities of good mail, shape (messages,).
        max_false_positive_rate: of the ham at most so much may be called spam.
        max_flagged_rate: and at most so much spam or unsure.
    """
    spam = bounded_threshold(ham, max_false_positive_rate)
    unsure = min(bounded_threshold(ham, max_flagged_rate), spam)
    return ChosenThresholds(
        thresholds=Thresholds(unsure=round(unsure, 6), spam=round(spam, 6)),
        max_false_positive_rate=max_false_positive_rate,
        max_flagged_rate=max_flagged_rate,
        ham=ham.size,
        ham_needed=ham_needed(max_false_positive_rate),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Figures of one model on one data set.

    Attributes:
        model_version: which.
        thresholds: at which labels were given.
        slices: (name, figures) pairs; the first is "all".
    """

    model_version: str
    thresholds: Thresholds
    slices: tuple[tuple[str, Figures], ...]

    def as_json(self) -> dict[str, Any]:
        """Return everything, with 95 % Wilson intervals of the two rates that decide."""
        return {
            "model_version": self.model_version,
            "thresholds": asdict(self.thresholds),
            "fixed_false_positive_rates": FIXED_FALSE_POSITIVE_RATES,
            "slices": {
                name: {
                    **asdict(found),
                    "false_positive_rate_interval": wilson(
                        round(found.false_positive_rate * found.ham), found.ham
                    ),
                    "recall_interval": wilson(round(found.recall * found.spam), found.spam),
                }
                for name, found in self.slices
            },
        }


def logits(
    examples: Sequence[Example],
    version: ModelVersion,
    *,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.float64]:
    """Return the BERT's and the linear model's logits, shape (messages, 2)."""
    texts = [example.text for example in examples]
    chunks = [texts[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK)]
    found: list[npt.NDArray[np.float64]] = []
    with ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=_start,
        initargs=(str(version.path),),
    ) as executor:
        for part in executor.map(_logits, chunks):
            found.append(part)
            if progress:
                progress(sum(map(len, found)), len(texts))
    return np.concatenate(found) if found else np.zeros((0, 2))


def probabilities(
    examples: Sequence[Example],
    version: ModelVersion,
    *,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.float64]:
    """Return the calibrated spam probabilities, shape (messages,)."""
    return calibrated(logits(examples, version, workers=workers, progress=progress), version)


def calibrated(both: npt.NDArray[np.float64], version: ModelVersion) -> npt.NDArray[np.float64]:
    """Return the spam probabilities, shape (messages,), for what `logits` returned."""
    calibration = Calibration.load(version.path / CALIBRATION_FILE)
    return calibration.probabilities(both[:, 0], both[:, 1])


def _start(path: str) -> None:
    global _classifier  # noqa: PLW0603 - a process pool's initializer
    _classifier = Classifier(ModelVersion.read(Path(path)))


def _logits(texts: list[str]) -> npt.NDArray[np.float64]:
    assert _classifier is not None
    return np.array([_classifier.logits(text) for text in texts])


def evaluate_scores(
    examples: Sequence[Example],
    scores: npt.NDArray[np.float64],
    *,
    model_version: str,
    thresholds: Thresholds,
) -> Evaluation:
    """Compute the figures of every slice for given scores, shape (messages,).

    Slices of one class alone are compared with the whole other class: a source of nothing but
    phishing has no ham of its own.
    """
    is_spam = np.array([example.is_spam for example in examples], dtype=bool)
    everything = np.ones(len(examples), dtype=bool)
    slices = [("all", everything, everything)]
    for attribute in ("corpus", "kind", "lang"):
        values = np.array([getattr(example, attribute) for example in examples])
        for value in sorted(set(values.tolist()) - {""}):
            members = values == value
            if members.sum() < MIN_SLICE:
                continue
            compared = members.copy()
            if not (members & ~is_spam).any():
                compared |= ~is_spam
            elif not (members & is_spam).any():
                compared |= is_spam
            slices.append((f"{attribute} {value}", members, compared))
    found = []
    for name, members, compared in slices:
        own = _figures(scores[members], is_spam[members], thresholds)
        if own.one_minus_roca_percent is None and compared.sum() > members.sum():
            wide = _figures(scores[compared], is_spam[compared], thresholds)
            own = _with_separation(own, wide)
        found.append((name, own))
    return Evaluation(model_version=model_version, thresholds=thresholds, slices=tuple(found))


def _figures(
    scores: npt.NDArray[np.float64], is_spam: npt.NDArray[np.bool_], thresholds: Thresholds
) -> Figures:
    return figures(
        scores, is_spam, unsure_threshold=thresholds.unsure, spam_threshold=thresholds.spam
    )


def _with_separation(own: Figures, wide: Figures) -> Figures:
    return replace(
        own, one_minus_roca_percent=wide.one_minus_roca_percent, caught_at=wide.caught_at
    )
