"""What a retraining learns from and is judged on: corrections, replayed texts, never-flag mail.

Every message belongs to one part for good, by a hash of its campaign: what the gate judges on
was in no training, this time or earlier. Replay keeps feedback from erasing what was known
(Rolnick et al. 2019, "Experience Replay for Continual Learning"): the texts that ship with the
package, which stand on both sides of every theme, and data sets that the administrator names.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from spamguard.errors import DataError, StoreError
from spamguard.feedback.corrections import CorrectionStore
from spamguard.feedback.trust import Correction
from spamguard.message import parse_message
from spamguard.model.calibration import Calibration
from spamguard.model.linear import LinearModel, features, fit_linear
from spamguard.model_input import build_model_input
from spamguard.report import Standing
from spamguard.training.corpus import corpus_examples
from spamguard.training.dataset import Example, load_examples

Part = Literal["train", "validation", "holdout"]
_SALT = "feedback-1"  # changing it would let the gate judge on what was trained
_VALIDATION_FROM, _HOLDOUT_FROM = 0.60, 0.75
REPLAYED_PER_CORRECTION = 8  # so much replay beside the corrections …
MIN_REPLAYED, MAX_REPLAYED = 1200, 3000  # … within these bounds
CONTRADICTED = 0.005  # a lone report is held when the rest of the evidence gives it less
_FOLDS = 3
BY_RETRAINING = "retraining"  # who held a correction


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackData:
    """The data of one retraining.

    Attributes:
        corrections: what counts, as examples; `part_of` says which part each is of.
        replay: known texts of both classes.
        never_flag: ham that no candidate may call spam.
        held: (correction id, reason) of lone reports that everything else contradicts.
        standings: how many corrections are of which standing.
    """

    corrections: tuple[Example, ...]
    replay: tuple[Example, ...]
    never_flag: tuple[Example, ...]
    held: tuple[tuple[int, str], ...]
    standings: dict[str, int]

    def part(self, wanted: Part) -> list[Example]:
        """Return the corrections and replayed texts of one part."""
        return [e for e in (*self.corrections, *self.replay) if part_of(e.group) == wanted]


def part_of(group: str) -> Part:
    """Return the part a campaign, or a replayed text, belongs to; for good."""
    share = hashlib.sha256(f"{_SALT}:{group}".encode()).digest()[0] / 256
    if share < _VALIDATION_FROM:
        return "train"
    return "validation" if share < _HOLDOUT_FROM else "holdout"


def read_feedback(
    store: CorrectionStore,
    *,
    replay: Sequence[Path],
    never_flag: Sequence[Path],
    seed: int,
) -> FeedbackData:
    """Read the record and everything it is learned and judged beside.

    Args:
        store: the record.
        replay: the administrator's own data sets (`dataset.load_examples`), or none.
        never_flag: directories of the administrator's own good mail, or none.
        seed: of the renderings and draws.

    Raises:
        DataError: a directory is not what it should be.
        StoreError: the record cannot be read.
    """
    rows, worth = store.all()
    counted = [row for row in rows if worth[row.id][0] is Standing.COUNTED]
    examples = tuple(filter(None, (_example(store, row) for row in counted)))
    own = corpus_examples(copies=1, seed=seed)
    never = [replace(e, corpus="never-flag") for e in own if not e.is_spam and _is_judged(e)]
    texts = [e for e in own if not _is_judged(e) or e.is_spam]
    for directory in replay:
        texts += [replace(e, corpus="replay") for e in load_examples(directory, workers=1)]
    for directory in never_flag:
        never += _read_mail(directory)
    wanted = int(np.clip(REPLAYED_PER_CORRECTION * len(examples), MIN_REPLAYED, MAX_REPLAYED))
    order = np.random.default_rng(seed).permutation(len(texts))
    return FeedbackData(
        corrections=examples,
        replay=tuple(texts[i] for i in order[:wanted]),
        never_flag=tuple(never),
        held=(),
        standings=dict(Counter(str(standing) for standing, _ in worth.values())),
    )


def _is_judged(example: Example) -> bool:
    return part_of(example.group) == "holdout"


def _example(store: CorrectionStore, row: Correction) -> Example | None:
    """Return a correction as an example, or None when its message was erased."""
    try:
        raw = store.raw(row.fingerprint)
    except StoreError:
        return None
    built = build_model_input(parse_message(raw))
    return Example(
        path=str(row.id),
        label=row.label,
        kind=row.source,
        corpus="corrections",
        group=row.campaign,
        text=built.text,
        fingerprint=row.fingerprint,
    )


def _read_mail(directory: Path) -> list[Example]:
    """Read a directory of good mail: every file in it and below is one message."""
    if not directory.is_dir():
        raise DataError(f"{directory}: expected a directory of good mail, one message a file")
    examples = []
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        built = build_model_input(parse_message(path.read_bytes()))
        examples.append(
            Example(
                path=str(path),
                label="ham",
                corpus="never-flag",
                group=built.fingerprint,
                text=built.text,
                fingerprint=built.fingerprint,
            )
        )
    return examples


def without_contradicted(
    data: FeedbackData,
    *,
    linear: LinearModel,
    calibration: Calibration,
    bert_logits: npt.NDArray[np.float64],
) -> FeedbackData:
    """Set lone reports aside that the incumbent and the other corrections both contradict.

    Each correction is judged by a linear model that has learned all others but not it (by
    folds over campaigns), beside the incumbent's BERT. A campaign that two reporters agree on
    is never set aside.

    Args:
        data: with all corrections.
        linear: the incumbent's linear model.
        calibration: the incumbent's.
        bert_logits: the incumbent's, of ``data.corrections``, shape (corrections,).
    """
    supported = Counter(e.group for e in data.corrections)
    fold = np.array([_fold(e.group) for e in data.corrections])
    found = [features(e.text, linear.bits) for e in data.corrections]
    truth = np.array([e.is_spam for e in data.corrections])
    logits = np.zeros(len(found))
    for held_out in range(_FOLDS):
        rows = np.flatnonzero(fold != held_out)
        model = linear
        if len(rows):
            *_, model = fit_linear(
                [found[i] for i in rows],
                truth[rows].tolist(),
                [1.0] * len(rows),
                epochs=2,
                start=linear,
            )
        for i in np.flatnonzero(fold == held_out):
            logits[i] = model.logit_of(found[i])
    spam = calibration.probabilities(bert_logits, logits) if found else np.zeros(0)
    held, kept = [], []
    for example, probability in zip(data.corrections, spam, strict=True):
        own = probability if example.is_spam else 1 - probability
        if own < CONTRADICTED and supported[example.group] < 2:
            held.append((int(example.path), f"all other evidence gives it {own:.4f}"))
        else:
            kept.append(example)
    return replace(data, corrections=tuple(kept), held=tuple(held))


def _fold(group: str) -> int:
    return hashlib.sha256(f"fold:{group}".encode()).digest()[0] % _FOLDS


def counts(examples: Iterable[Example]) -> dict[str, int]:
    """Return how many ham and spam there are."""
    found = Counter("spam" if example.is_spam else "ham" for example in examples)
    return {"ham": found["ham"], "spam": found["spam"]}
