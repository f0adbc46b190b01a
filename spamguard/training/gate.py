"""Whether a candidate may take over: it and the incumbent on the same mail, rule by rule.

Pure: scores in, decision out. False positives come first: one never-flag message called spam,
or one more good message among the held-out corrections, and nothing else matters. All rules are
worked through even when one fails, so that `gate.json` says everything that was wrong.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spamguard.training.metrics import expected_calibration_error, sign_test, wilson
from spamguard.verdict import Thresholds

# What a mistake costs, as SpamBayes' testers weighed it: a lost good message ten times a missed
# spam, a doubt a fifth of one.
COST_FALSE_POSITIVE, COST_MISS, COST_UNSURE = 10.0, 1.0, 0.2
FOLDS = 5
MIN_HOLDOUT_SPAM = 5  # corrections the gate judges on; fewer prove nothing
MIN_HAM = 100  # held-out and never-flag ham together
# One better campaign among a dozen can be luck: a candidate that learned shuffled labels once had
# it. With fewer than five campaigns that differ no run passes.
MAX_CHANCE = 0.05
MAX_CALIBRATION_LOSS = 0.02  # expected calibration error may rise by so much
# Share of labels that int8 may change against float32. All other rules judge the int8 files, so
# this one has only to notice a quantization that went wrong: what is shipped changes 0.4 %, and
# of the mail that users correct, which lies at the threshold, up to 1.5 %.
MAX_FLIPS = 0.02
MAX_SLOWER = 1.25
MAX_LARGER = 1.10

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What one model says of the gate's mail.

    Attributes:
        holdout: spam probabilities of the held-out corrections, shape (n,).
        never_flag: of the never-flag ham, shape (m,).
        known: of held-out replayed texts, shape (k,).
        milliseconds: median time of one message.
        size: bytes of what the daemon loads.
    """

    holdout: Scores
    never_flag: Scores
    known: Scores
    milliseconds: float
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule's outcome, for the table and `gate.json`."""

    name: str
    incumbent: float | str
    candidate: float | str
    wanted: str
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the gate decided, with every rule."""

    promoted: bool
    rules: tuple[Rule, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as it is stored."""
        return {"promoted": self.promoted, "rules": [asdict(rule) for rule in self.rules]}

    @property
    def reasons(self) -> tuple[str, ...]:
        """The rules that failed, in words."""
        return tuple(
            f"{rule.name}: {rule.candidate}, wanted {rule.wanted}"
            for rule in self.rules
            if not rule.passed
        )


def decide(
    incumbent: Judged,
    candidate: Judged,
    *,
    holdout_is_spam: npt.NDArray[np.bool_],
    holdout_groups: Sequence[str],
    known_is_spam: npt.NDArray[np.bool_],
    thresholds: Thresholds,
    flips: tuple[int, int],
) -> Decision:
    """Compare a candidate with the incumbent.

    Args:
        incumbent: what the model in use says.
        candidate: what the new one says of the same mail.
        holdout_is_spam: the truth about the held-out corrections.
        holdout_groups: their campaigns; folds are made of whole ones.
        known_is_spam: the truth about the replayed texts.
        thresholds: of the incumbent, which the candidate takes over.
        flips: how many messages are spam by only one of the candidate's int8 and float32
            networks, and of how many.
    """
    ham, spam = ~holdout_is_spam, holdout_is_spam
    sides = (incumbent, candidate)
    new_flags = (candidate.never_flag >= thresholds.spam) & (incumbent.never_flag < thresholds.spam)
    false_positives = [int((side.holdout[ham] >= thresholds.spam).sum()) for side in sides]
    never = [int((side.never_flag >= thresholds.spam).sum()) for side in sides]
    unsure_ham = [
        int((side.never_flag >= thresholds.unsure).sum())
        + int((side.holdout[ham] >= thresholds.unsure).sum())
        for side in sides
    ]
    known_ham = [int((side.known[~known_is_spam] >= thresholds.spam).sum()) for side in sides]
    known_misses = [int((side.known[known_is_spam] < thresholds.unsure).sum()) for side in sides]
    known_spam = int(known_is_spam.sum())
    allowed_misses = wilson(known_misses[0], max(1, known_spam))[1] * known_spam
    misses = [int((side.holdout[spam] < thresholds.unsure).sum()) for side in sides]
    costs = [cost(side.holdout, holdout_is_spam, thresholds) for side in sides]
    folds = won_tied_lost(*sides, holdout_is_spam, holdout_groups, thresholds, folds=FOLDS)
    better, _, worse = won_tied_lost(*sides, holdout_is_spam, holdout_groups, thresholds)
    chance = sign_test(better, worse)
    errors = [
        expected_calibration_error(
            np.concatenate([side.holdout, side.known]),
            np.concatenate([holdout_is_spam, known_is_spam]),
        )
        for side in sides
    ]
    ham_count = int(ham.sum()) + len(candidate.never_flag)
    allowed_unsure = wilson(unsure_ham[0], max(1, ham_count))[1] * ham_count
    rules = (
        Rule(
            name="held-out corrections that are spam",
            incumbent="",
            candidate=int(spam.sum()),
            wanted=f"at least {MIN_HOLDOUT_SPAM}",
            passed=int(spam.sum()) >= MIN_HOLDOUT_SPAM,
        ),
        Rule(
            name="held-out and never-flag ham",
            incumbent="",
            candidate=ham_count,
            wanted=f"at least {MIN_HAM}",
            passed=ham_count >= MIN_HAM,
        ),
        Rule(
            name="never-flag mail called spam",
            incumbent=never[0],
            candidate=never[1],
            wanted="none that the incumbent does not",
            passed=not new_flags.any(),
        ),
        Rule(
            name="held-out ham called spam",
            incumbent=false_positives[0],
            candidate=false_positives[1],
            wanted="no more than the incumbent",
            passed=false_positives[1] <= false_positives[0],
        ),
        Rule(
            name="known ham called spam",
            incumbent=known_ham[0],
            candidate=known_ham[1],
            wanted="no more than the incumbent",
            passed=known_ham[1] <= known_ham[0],
        ),
        Rule(
            name="ham unsure or worse",
            incumbent=unsure_ham[0],
            candidate=unsure_ham[1],
            wanted=f"at most {allowed_unsure:.0f} (95 % interval of the incumbent)",
            passed=unsure_ham[1] <= allowed_unsure,
        ),
        Rule(
            name="held-out spam called ham",
            incumbent=misses[0],
            candidate=misses[1],
            wanted="no more than the incumbent",
            passed=misses[1] <= misses[0],
        ),
        Rule(
            name="known spam called ham",
            incumbent=known_misses[0],
            candidate=known_misses[1],
            wanted=f"at most {allowed_misses:.0f} (95 % interval of the incumbent)",
            passed=known_misses[1] <= allowed_misses,
        ),
        Rule(
            name="cost, 10 FP + FN + 0.2 unsure",
            incumbent=round(costs[0], 1),
            candidate=round(costs[1], 1),
            wanted="less than the incumbent",
            passed=costs[1] < costs[0],
        ),
        Rule(
            name="folds won/tied/lost",
            incumbent="",
            candidate="/".join(map(str, folds)),
            wanted="more won than lost",
            passed=folds[0] > folds[2],
        ),
        Rule(
            name="campaigns better/worse",
            incumbent="",
            candidate=f"{better}/{worse}, by chance {chance:.3f}",
            wanted=f"by chance at most {MAX_CHANCE} (sign test)",
            passed=chance <= MAX_CHANCE,
        ),
        Rule(
            name="calibration error",
            incumbent=round(errors[0], 4),
            candidate=round(errors[1], 4),
            wanted=f"at most {MAX_CALIBRATION_LOSS} more",
            passed=errors[1] <= errors[0] + MAX_CALIBRATION_LOSS,
        ),
        Rule(
            name="labels int8 changes",
            incumbent="",
            candidate=f"{flips[0]} of {flips[1]}",
            wanted=f"at most {MAX_FLIPS:.1%}, as far as so many show",
            passed=wilson(flips[0], max(1, flips[1]))[0] <= MAX_FLIPS,
        ),
        Rule(
            name="milliseconds a message",
            incumbent=round(incumbent.milliseconds, 2),
            candidate=round(candidate.milliseconds, 2),
            wanted=f"at most {MAX_SLOWER} times",
            passed=candidate.milliseconds <= MAX_SLOWER * incumbent.milliseconds,
        ),
        Rule(
            name="megabytes",
            incumbent=round(incumbent.size / 1e6, 1),
            candidate=round(candidate.size / 1e6, 1),
            wanted=f"at most {MAX_LARGER} times",
            passed=candidate.size <= MAX_LARGER * incumbent.size,
        ),
    )
    return Decision(promoted=all(rule.passed for rule in rules), rules=rules)


def cost(scores: Scores, is_spam: npt.NDArray[np.bool_], thresholds: Thresholds) -> float:
    """Return 10 FP + FN + 0.2 unsure; unsure is neither of the other two."""
    called_spam = scores >= thresholds.spam
    unsure = (scores >= thresholds.unsure) & ~called_spam
    return float(
        COST_FALSE_POSITIVE * (called_spam & ~is_spam).sum()
        + COST_MISS * (~called_spam & ~unsure & is_spam).sum()
        + COST_UNSURE * unsure.sum()
    )


def won_tied_lost(
    incumbent: Judged,
    candidate: Judged,
    is_spam: npt.NDArray[np.bool_],
    groups: Sequence[str],
    thresholds: Thresholds,
    *,
    folds: int = 0,
) -> tuple[int, int, int]:
    """Compare costs campaign by campaign, or by so many folds of whole campaigns.

    One without a difference is tied.
    """
    names = sorted(set(groups))
    parts = min(folds, len(names)) or len(names)
    part_of = {name: index % parts for index, name in enumerate(names)}
    parted = np.array([part_of[group] for group in groups], dtype=int)
    won = tied = lost = 0
    for part in range(parts):
        members = parted == part
        before, after = (
            cost(side.holdout[members], is_spam[members], thresholds)
            for side in (incumbent, candidate)
        )
        won, tied, lost = won + (after < before), tied + (after == before), lost + (after > before)
    return won, tied, lost
