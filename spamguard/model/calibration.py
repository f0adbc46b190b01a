"""From logits to a probability: logistic regression on the two classifiers' logits.

With one logit this is Platt scaling (Platt 1999); with the linear model's beside the BERT's it
is also how the two are combined. It is fitted on held-out groups at a stated prior, so that a
score of 0.9 means: of ten such messages nine are spam, where that share of the mail is spam.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spamguard.errors import ModelLoadError
from spamguard.verdict import Thresholds

BERT_LIMIT = 8.0  # where a version says nothing else
_MAX_LOGIT = 40.0  # beyond this a double is 0 or 1
_RIDGE = 1e-3  # keeps the fit finite when held-out mail is separated perfectly
_ITERATIONS = 50
_NEAR_MESSAGES = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """``sigmoid(bert * bert_logit + linear * linear_logit + bias)``.

    Attributes:
        bert, linear: weights of the two logits; 0 for a classifier that is not there.
        bias: the constant.
        prior: the share of spam for which the score is a probability.
        bert_limit: what the BERT says counts no more than this either way: a network is saturated
            there, and the linear model may be sure against all it could say, see `settles`.
    """

    bert: float
    linear: float
    bias: float
    prior: float = 0.5
    bert_limit: float = BERT_LIMIT

    def probability(self, bert_logit: float, linear_logit: float) -> float:
        """Return the spam probability, 0 to 1, for one message."""
        logit = self.log_odds(bert_logit, linear_logit)
        return 1 / (1 + math.exp(-min(max(logit, -_MAX_LOGIT), _MAX_LOGIT)))

    def log_odds(self, bert_logit: float, linear_logit: float) -> float:
        """Return the logarithm of the odds of spam for one message, however large."""
        said = min(max(bert_logit, -self.bert_limit), self.bert_limit)
        return self.bert * said + self.linear * linear_logit + self.bias

    def settles(self, linear_logit: float, thresholds: Thresholds) -> bool:
        """Return whether a message's label is the same whatever the BERT would say."""
        least, most = (self.probability(word, linear_logit) for word in (-math.inf, math.inf))
        return thresholds.label(least) is thresholds.label(most)

    def probabilities(
        self, bert_logits: npt.NDArray[np.float64], linear_logits: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Return the spam probabilities for arrays of logits, shape (messages,)."""
        said = np.clip(bert_logits, -self.bert_limit, self.bert_limit)
        logits = self.bert * said + self.linear * linear_logits + self.bias
        probabilities: npt.NDArray[np.float64] = 1 / (
            1 + np.exp(-np.clip(logits, -_MAX_LOGIT, _MAX_LOGIT))
        )
        return probabilities

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            ModelLoadError: the file is missing or not what `save` writes.
        """
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ModelLoadError(f"{path}: expected a calibration: {error}") from error


def fit_calibration(
    logits: npt.NDArray[np.float64],
    is_spam: npt.NDArray[np.bool_],
    weights: npt.NDArray[np.float64] | None = None,
    *,
    prior: float = 0.5,
    bert_limit: float = BERT_LIMIT,
    near: Calibration | None = None,
) -> Calibration:
    """Fit on held-out messages by Newton's method.

    Training with class weights moves every logit by the logarithm of the weights' ratio; so does
    a data set with another share of spam than the prior. Fitting the bias at the stated prior
    takes both out again (Elkan 2001, "The Foundations of Cost-Sensitive Learning", theorem 2;
    Saerens et al. 2002, "Adjusting the Outputs of a Classifier to New a Priori Probabilities").

    Args:
        logits: shape (messages, 2): BERT and linear; a column of zeros is a missing one.
        is_spam: the truth, shape (messages,).
        weights: how much each message counts, or None for one each.
        prior: classes are weighted so that this share of the weight is spam.
        bert_limit: of the calibration, where there is none to stay near to.
        near: a calibration to stay near to, worth `_NEAR_MESSAGES` messages: what few
            corrections say must not overturn what thousands said.
    """
    own = np.ones(len(logits)) if weights is None else weights.astype(float)
    share = float(own[is_spam].sum() / own.sum())
    own = own * np.where(is_spam, prior / share, (1 - prior) / (1 - share))
    limit = near.bert_limit if near else bert_limit
    bert = np.clip(logits[:, 0], -limit, limit)
    design = np.column_stack([bert, logits[:, 1], np.ones(len(logits))])
    centre, ridge = np.zeros(3), _RIDGE * len(logits) * np.diag([1.0, 1.0, 0.0]) / 100
    if near is not None:
        centre = np.array([near.bert, near.linear, near.bias])
        ridge = _NEAR_MESSAGES * np.diag([1.0, 1.0, 0.25])
    theta = centre.copy()
    for _ in range(_ITERATIONS):
        probability = 1 / (1 + np.exp(-np.clip(design @ theta, -_MAX_LOGIT, _MAX_LOGIT)))
        gradient = design.T @ (own * (probability - is_spam)) + ridge @ (theta - centre)
        curvature = own * probability * (1 - probability)
        hessian = (design * curvature[:, None]).T @ design + ridge + 1e-9 * np.eye(3)
        step = np.linalg.solve(hessian, gradient)
        theta -= step
        if np.abs(step).max() < 1e-8:
            break
    return Calibration(bert=theta[0], linear=theta[1], bias=theta[2], prior=prior, bert_limit=limit)
