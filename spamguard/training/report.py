"""What `evaluate --report` writes: one HTML page with figures, curves and the worst mistakes.

Self-contained and closed: pictures are embedded, no script runs, nothing is fetched (the page
forbids it itself, by its Content-Security-Policy). It quotes messages, which are hostile: all
text is escaped by the template, control and direction characters are shown as what they are,
and every text is cut. For the same reason the file is readable by its owner alone.
"""

import base64
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from spamguard.errors import StoreError
from spamguard.model.calibration import Calibration
from spamguard.model.classifier import Classifier
from spamguard.model.store import CALIBRATION_FILE, ModelVersion
from spamguard.training import metrics, plots
from spamguard.training.dataset import Example
from spamguard.training.evaluate import Evaluation, evaluate_scores
from spamguard.training.occlusion import MAX_WORDS, Explanation, explain
from spamguard.verdict import Thresholds

WORST = 8  # false positives and misses that are shown
SHADES = 5  # of red and of blue
FULL_SHADE = 2.0  # log-odds from which a word is shown in the darkest shade
_BOTH, _BERT, _LINEAR = "both, as shipped", "BERT alone", "linear alone"
# Direction and other control characters would rearrange the page's own text.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")

Scores = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One classifier's figures; rates 0 to 1, intervals at 95 %."""

    name: str
    roca: float
    roca_interval: tuple[float, float]
    caught: tuple[tuple[float, tuple[float, float]], ...]
    figures: metrics.Figures
    ece: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One message that was judged wrong, taken apart."""

    example: Example
    score: float
    verdict: str
    explanation: Explanation


def write_report(
    path: Path,
    examples: Sequence[Example],
    logits: npt.NDArray[np.float64],
    version: ModelVersion,
    *,
    thresholds: Thresholds,
    datasets: Sequence[str],
    day: str,
    progress: Progress | None = None,
) -> None:
    """Write the report; the file is for its owner alone, since it quotes mail.

    Args:
        path: the page.
        examples: labelled messages of both classes.
        logits: the BERT's and the linear model's, shape (messages, 2).
        version: the model.
        thresholds: at which labels are given.
        datasets: names of what was measured on.
        day: shown as the date.
        progress: called with (done, of how many) while mistakes are taken apart.

    Raises:
        StoreError: the file cannot be written.
    """
    page = render_report(
        examples,
        logits,
        version,
        thresholds=thresholds,
        datasets=datasets,
        day=day,
        progress=progress,
    )
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(page)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from error


def render_report(
    examples: Sequence[Example],
    logits: npt.NDArray[np.float64],
    version: ModelVersion,
    *,
    thresholds: Thresholds,
    datasets: Sequence[str],
    day: str,
    progress: Progress | None = None,
) -> str:
    """Return the page; see `write_report`."""
    is_spam = np.array([example.is_spam for example in examples], dtype=bool)
    calibration = Calibration.load(version.path / CALIBRATION_FILE)
    scores = calibration.probabilities(logits[:, 0], logits[:, 1])
    models = {_BOTH: scores}
    if calibration.bert and calibration.linear:
        models |= {_BERT: _sigmoid(logits[:, 0]), _LINEAR: _sigmoid(logits[:, 1])}
    weights = metrics.prior_weights(is_spam, calibration.prior)
    ece = metrics.expected_calibration_error(scores, is_spam, weights)
    found = evaluate_scores(examples, scores, model_version=version.name, thresholds=thresholds)
    promised = f"Promised and found, prior {100 * calibration.prior:.0f} %, ECE {100 * ece:.1f} %"
    pictures = [
        ("ROC curve", plots.roc(models, is_spam, marks=thresholds, kind="svg")),
        ("Precision and recall", plots.precision_recall(models, is_spam, kind="svg")),
        (
            "Calibration",
            plots.calibration(scores, is_spam, weights, title=promised, kind="svg"),
        ),
        ("Histogram", plots.histogram(scores, is_spam, marks=thresholds, kind="svg")),
    ]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "interval": _interval,
        "safe_text": _safe_text,
        "shade": _shade,
        "signed": lambda value: f"{value:+.2f}",
    }
    return environment.get_template("report.html").render(
        version=version,
        thresholds=thresholds,
        datasets=datasets,
        day=day,
        rows=_rows(models, is_spam, thresholds, ece),
        slices=_slices(found),
        rates=metrics.FIXED_FALSE_POSITIVE_RATES,
        ham=int((~is_spam).sum()),
        spam=int(is_spam.sum()),
        parts=len(models) > 1,
        prior=calibration.prior,
        pictures=[(name, base64.b64encode(svg).decode("ascii")) for name, svg in pictures],
        mistakes=_mistakes(examples, scores, version, thresholds, progress),
        full_shade=FULL_SHADE,
        max_words=MAX_WORDS,
    )


def _sigmoid(logits: Scores) -> Scores:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -40, 40))))


# -- tables --------------------------------------------------------------------------------------


def _rows(
    models: Mapping[str, Scores], is_spam: Truth, thresholds: Thresholds, ece: float
) -> list[Row]:
    """Return the figures of each classifier.

    The parts of a model have no thresholds of their own: theirs flag as much ham as the model's.
    """
    whole = next(iter(models.values()))
    spam_count = int(is_spam.sum())
    rows = []
    for name, scores in models.items():
        ham, spam = scores[~is_spam], scores[is_spam]
        marks = thresholds
        if scores is not whole:
            marks = Thresholds(
                unsure=_above(ham, int((whole[~is_spam] >= thresholds.unsure).sum())),
                spam=_above(ham, int((whole[~is_spam] >= thresholds.spam).sum())),
            )
        rates = metrics.FIXED_FALSE_POSITIVE_RATES
        caught = tuple(metrics.caught_at(ham, spam, rate) for rate in rates)
        rows.append(
            Row(
                name=name,
                roca=metrics.one_minus_roca_percent(scores, is_spam),
                roca_interval=metrics.roca_interval(scores, is_spam),
                caught=tuple(
                    (c, metrics.wilson(round(c * spam_count), spam_count)) for c in caught
                ),
                figures=metrics.figures(
                    scores, is_spam, unsure_threshold=marks.unsure, spam_threshold=marks.spam
                ),
                ece=ece if scores is whole else None,
            )
        )
    return rows


def _above(ham: Scores, count: int) -> float:
    """Return the lowest threshold that at most so many of the ham reach."""
    ordered = np.sort(ham)[::-1]
    return float(np.nextafter(ordered[count], 2)) if count < ordered.size else 0.0


_SLICE_NAMES = {"all": "Everything", "corpus": "Source", "kind": "Kind", "lang": "Language"}


def _slices(found: Evaluation) -> dict[str, list[tuple[str, metrics.Figures]]]:
    """Group the slices by what they are sliced by."""
    groups: dict[str, list[tuple[str, metrics.Figures]]] = {}
    for name, figures in found.slices:
        attribute, _, value = name.partition(" ")
        groups.setdefault(_SLICE_NAMES[attribute], []).append((value or "all", figures))
    return groups


# -- mistakes ------------------------------------------------------------------------------------


def _mistakes(
    examples: Sequence[Example],
    scores: Scores,
    version: ModelVersion,
    thresholds: Thresholds,
    progress: Progress | None,
) -> dict[str, list[Mistake]]:
    """Return the ham with the highest and the spam with the lowest scores, taken apart."""
    order = np.argsort(scores, kind="stable").tolist()
    worst = {
        "Worst false positives": _first(examples, reversed(order), is_spam=False),
        "Worst misses": _first(examples, order, is_spam=True),
    }
    classifier = Classifier(version)
    calibration = classifier.calibration

    def log_odds(text: str) -> float:
        return calibration.log_odds(*classifier.logits(text))

    total, done = sum(map(len, worst.values())), 0
    found: dict[str, list[Mistake]] = {}
    for title, numbers in worst.items():
        found[title] = []
        for number in numbers:
            score = float(scores[number])
            explained = explain(examples[number].text, log_odds)
            found[title].append(
                Mistake(
                    example=examples[number],
                    score=score,
                    verdict=_verdict(score, thresholds),
                    explanation=explained,
                )
            )
            done += 1
            if progress:
                progress(done, total)
    return found


def _verdict(score: float, thresholds: Thresholds) -> str:
    return "spam" if score >= thresholds.spam else "unsure" if score >= thresholds.unsure else "ham"


def _first(examples: Sequence[Example], order: Iterable[int], *, is_spam: bool) -> list[int]:
    """Return the first messages of a class, one of each mailing."""
    found: dict[str, int] = {}
    for number in order:
        if examples[number].is_spam == is_spam:
            found.setdefault(examples[number].fingerprint or str(number), number)
        if len(found) == WORST:
            break
    return list(found.values())


# -- filters of the template ---------------------------------------------------------------------


def _percent(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{100 * value:.{digits}f}"


def _interval(count: int, rate: float, digits: int = 1) -> str:
    """Return Wilson's interval of a rate of so many messages, in percent."""
    low, high = metrics.wilson(round(rate * count), count)
    return f"{100 * low:.{digits}f} to {100 * high:.{digits}f}"


def _safe_text(text: str) -> str:
    """Show control and direction characters instead of letting them act; the rest is escaped."""
    return _UNSAFE.sub("\ufffd", text)


def _shade(effect: float) -> str:
    """Return the CSS class of a word: s1 to s5 towards spam, h1 to h5 towards ham, or none."""
    level = min(SHADES, round(SHADES * abs(effect) / FULL_SHADE))
    return "" if level == 0 else f"{'s' if effect > 0 else 'h'}{level}"
