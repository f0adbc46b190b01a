"""The figures by which a filter is judged. Pure numpy; no torch.

Accuracy alone says nothing about a filter: at 50 % spam one that holds 1 % of the good mail
has 99 %. What counts is how much spam is caught when so much ham may be flagged.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]

FIXED_FALSE_POSITIVE_RATES = (0.001, 0.005, 0.01)
_Z95 = 1.959964  # two-sided 95 % of the normal distribution
_CALIBRATION_BINS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How well scores separate spam from ham on one set of messages. Rates are 0 to 1.

    Attributes:
        ham, spam: how many messages.
        one_minus_roca_percent: (1 - area under the ROC curve) in percent, as in the TREC spam
            track (Cormack 2007); None unless both classes are there.
        caught_at: share of spam above the score that so much of the ham exceeds, for each of
            `FIXED_FALSE_POSITIVE_RATES`; empty unless both classes are there.
        false_positive_rate: ham at or above the spam threshold.
        flagged_rate: ham at or above the unsure threshold.
        recall: spam at or above the spam threshold.
        recall_unsure: spam at or above the unsure threshold.
        precision, f1, accuracy: at the spam threshold, with the set's own share of spam.
        lam_percent: logistic average misclassification at the spam threshold, in percent.
        expected_calibration_error: Guo et al. 2017, 15 equal bins.
    """

    ham: int
    spam: int
    one_minus_roca_percent: float | None
    caught_at: tuple[float, ...]
    false_positive_rate: float
    flagged_rate: float
    recall: float
    recall_unsure: float
    precision: float
    f1: float
    accuracy: float
    lam_percent: float
    expected_calibration_error: float


def figures(
    scores: Scores, is_spam: Truth, *, unsure_threshold: float, spam_threshold: float
) -> Figures:
    """Compute all figures for spam probabilities and the truth, both of shape (messages,)."""
    ham, spam = scores[~is_spam], scores[is_spam]
    both = bool(ham.size and spam.size)
    called = scores >= spam_threshold
    true_positives = int((called & is_spam).sum())
    false_positive_rate = _mean(ham >= spam_threshold)
    recall = _mean(spam >= spam_threshold)
    precision = true_positives / max(1, int(called.sum()))
    return Figures(
        ham=ham.size,
        spam=spam.size,
        one_minus_roca_percent=one_minus_roca_percent(scores, is_spam) if both else None,
        caught_at=tuple(caught_at(ham, spam, rate) for rate in FIXED_FALSE_POSITIVE_RATES)
        if both
        else (),
        false_positive_rate=false_positive_rate,
        flagged_rate=_mean(ham >= unsure_threshold),
        recall=recall,
        recall_unsure=_mean(spam >= unsure_threshold),
        precision=precision,
        f1=2 * precision * recall / max(1e-12, precision + recall),
        accuracy=_mean(called == is_spam),
        lam_percent=lam_percent(
            int((ham >= spam_threshold).sum()),
            ham.size,
            int((spam < spam_threshold).sum()),
            spam.size,
        ),
        expected_calibration_error=expected_calibration_error(scores, is_spam),
    )


def _mean(values: npt.NDArray[np.bool_]) -> float:
    return float(values.mean()) if values.size else 0.0


def one_minus_roca_percent(scores: Scores, is_spam: Truth) -> float:
    """Return 100 times the chance that a ham message scores above a spam one (ties half)."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    ranks = np.empty(scores.size)
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    ends = np.r_[starts[1:], scores.size]
    ranks[order] = np.repeat((starts + ends - 1) / 2 + 1, ends - starts)
    spam = int(is_spam.sum())
    ham = scores.size - spam
    area = (ranks[is_spam].sum() - spam * (spam + 1) / 2) / (spam * ham)
    return float(100 * (1 - area))


def roca_interval(
    scores: Scores, is_spam: Truth, *, seed: int = 0, resamples: int = 400
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of (1-ROCA) in percent, ham and spam drawn apart.

    Percentiles of resamples with replacement (Efron 1979); messages count as independent.
    """
    generator = np.random.default_rng(seed)
    levels, position = np.unique(scores, return_inverse=True)
    counts = [np.bincount(position[is_spam == value], minlength=levels.size) for value in (0, 1)]
    totals = [int(count.sum()) for count in counts]
    if not all(totals):
        return 0.0, 100.0
    shares = [count / total for count, total in zip(counts, totals, strict=True)]
    wrong = np.empty(resamples)
    for number in range(resamples):  # one at a time: all at once would take a gigabyte
        ham, spam = (
            generator.multinomial(total, share) for total, share in zip(totals, shares, strict=True)
        )
        ham_above = ham[::-1].cumsum()[::-1] - ham / 2  # ties count half
        wrong[number] = (spam * ham_above).sum() / (float(totals[0]) * totals[1])
    low, high = np.percentile(100 * wrong, [2.5, 97.5])
    return float(low), float(high)


def roc_points(scores: Scores, is_spam: Truth) -> tuple[Scores, Scores]:
    """Return ham flagged and spam caught, 0 to 1, at every distinct score, falling."""
    order = np.argsort(scores)[::-1]
    last = np.r_[scores[order][1:] != scores[order][:-1], True]
    spam = np.cumsum(is_spam[order])[last]
    ham = np.cumsum(~is_spam[order])[last]
    return ham / max(1, int(ham[-1])), spam / max(1, int(spam[-1]))


def precision_recall_points(scores: Scores, is_spam: Truth) -> tuple[Scores, Scores]:
    """Return recall and precision, 0 to 1, at every distinct score, falling."""
    ham, spam = roc_points(scores, is_spam)
    total = int(is_spam.sum())
    caught, flagged = spam * total, ham * (is_spam.size - total)
    return spam, caught / np.maximum(1, caught + flagged)


def bounded_threshold(ham: Scores, false_positive_rate: float) -> float:
    """Return the lowest threshold whose false-positive rate is bounded with 95 % confidence.

    The upper end of Wilson's interval must not exceed the rate; where there is too little ham
    to show that (`ham_needed`), the threshold lies above all of it.
    """
    ordered = np.sort(ham)[::-1]
    allowed = 0
    while allowed < len(ordered) and wilson(allowed + 1, len(ordered))[1] <= false_positive_rate:
        allowed += 1
    highest = float(ordered[min(allowed, len(ordered) - 1)]) if len(ordered) else 0.5
    return min(1.0 - 1e-6, float(np.nextafter(highest, 1.0)) + 1e-6)


def ham_needed(false_positive_rate: float) -> int:
    """Return how much ham without one mistake shows the rate: the zero of Wilson's interval."""
    return int(np.ceil(_Z95**2 * (1 - false_positive_rate) / false_positive_rate))


def threshold_at(ham: Scores, false_positive_rate: float) -> float:
    """Return the lowest threshold above which at most that share of the ham scores."""
    allowed = int(ham.size * false_positive_rate)
    return float(np.nextafter(np.sort(ham)[::-1][allowed], np.inf))


def caught_at(ham: Scores, spam: Scores, false_positive_rate: float) -> float:
    """Return the share of spam above the threshold that so much of the ham exceeds."""
    return _mean(spam >= threshold_at(ham, false_positive_rate))


def lam_percent(ham_errors: int, ham: int, spam_errors: int, spam: int) -> float:
    """Return the logistic average misclassification in percent (TREC spam track), smoothed."""

    def logit(errors: int, total: int) -> float:
        rate = (errors + 0.5) / (total + 1)
        return float(np.log(rate / (1 - rate)))

    middle = (logit(ham_errors, ham) + logit(spam_errors, spam)) / 2
    return float(100 / (1 + np.exp(-middle)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBin:
    """One of the equal bins of scores: what was promised, what came, on how many messages."""

    score: float
    frequency: float
    messages: int
    weight: float


def calibration_bins(
    scores: Scores, is_spam: Truth, weights: Scores | None = None
) -> list[CalibrationBin]:
    """Return the bins that hold messages; ``weights`` bring another share of spam about."""
    weights = np.ones(scores.size) if weights is None else weights
    bins = np.minimum((scores * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    found = []
    for index in np.unique(bins):
        members = bins == index
        own = weights[members]
        found.append(
            CalibrationBin(
                score=float(np.average(scores[members], weights=own)),
                frequency=float(np.average(is_spam[members], weights=own)),
                messages=int(members.sum()),
                weight=float(own.sum() / weights.sum()),
            )
        )
    return found


def expected_calibration_error(
    scores: Scores, is_spam: Truth, weights: Scores | None = None
) -> float:
    """Return the mean distance of score and frequency over 15 equal bins."""
    found = calibration_bins(scores, is_spam, weights)
    return sum(abs(b.score - b.frequency) * b.weight for b in found)


def prior_weights(is_spam: Truth, prior: float) -> Scores:
    """Return message weights under which ``prior`` of the mail is spam."""
    share = min(max(_mean(is_spam), 1e-9), 1 - 1e-9)
    return np.where(is_spam, prior / share, (1 - prior) / (1 - share))


def sign_test(better: int, worse: int) -> float:
    """Return how likely so many of the pairs that differ are better by chance (one-sided).

    The exact binomial test of Dixon and Mood 1946; 1.0 where no pair differs.
    """
    differing = better + worse
    ways = sum(math.comb(differing, count) for count in range(better, differing + 1))
    chance: float = ways / 2**differing
    return chance


def wilson(successes: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate (Wilson 1927); (0, 1) for nothing seen."""
    if total == 0:
        return 0.0, 1.0
    rate = successes / total
    denominator = 1 + _Z95**2 / total
    centre = (rate + _Z95**2 / (2 * total)) / denominator
    margin = _Z95 * np.sqrt(rate * (1 - rate) / total + _Z95**2 / (4 * total**2)) / denominator
    return max(0.0, float(centre - margin)), min(1.0, float(centre + margin))
