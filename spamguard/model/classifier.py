"""One model version in memory: text in, calibrated spam probability out.

The linear model goes first. Where it is so sure, of ham or of spam, that the BERT, whose say is
bounded, could not change the label, the BERT is not asked and the text is not even made tokens: the
label is the same by construction, and four of five honest messages cost a tenth. What was asked a
moment ago is remembered.

The engine is onnxruntime on an int8 graph, one thread: scorers are processes, and two
processes of one thread judge twice what one of two threads does. Everything about the engine
stays in here and in `training/export.py`, which writes the file.
"""

import os
from dataclasses import dataclass
from typing import Literal

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one thread a scorer

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from spamguard.errors import ModelLoadError
from spamguard.model.calibration import Calibration
from spamguard.model.linear import LinearModel, excerpts
from spamguard.model.store import (
    CALIBRATION_FILE,
    LINEAR_FILE,
    NETWORK_FILE,
    TOKENIZER_FILE,
    ModelVersion,
)
from spamguard.verdict import Thresholds

# Tokenising is linear in the text, and a token of mail is four characters: cutting at eight a
# token changes the tokens of one message in 400 and halves the cost.
CHARS_PER_TOKEN = 8
REMEMBERED = 512  # token sequences and what the network said: half a megabyte
DIRECTIONS = 8
# By so much, in the linear model's log-odds, must an excerpt be more like spam than all of the text
# to be judged in its place: at less, long honest mail is flagged (the shipped model's CARD.md).
EXCERPT_MARGIN = 1.5
_SEED = 20261123  # of the directions: the same for all versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a version says of one model input.

    Attributes:
        spam_probability: calibrated, 0 to 1.
        decided_by: linear (the BERT was not asked, or there is none), bert, or memory (the BERT
            had been asked the same).
        unknown_share: share of the tokens that the vocabulary does not have, 0 to 1, or None
            where the BERT was not asked.
        projection: the pooled embedding on `DIRECTIONS` fixed random directions: enough to see
            that mail has moved, too little to say what a message was; () without embedding.
    """

    spam_probability: float
    decided_by: Literal["linear", "bert", "memory"] = "linear"
    unknown_share: float | None = None
    projection: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the network says of one sequence of tokens."""

    logit: float
    unknown_share: float
    projection: tuple[float, ...]


class Classifier:
    """Judges model inputs with one version's BERT and linear model.

    Args:
        version: a version directory, already verified.

    Raises:
        ModelLoadError: a file is missing or is not what its name says.
    """

    def __init__(self, version: ModelVersion) -> None:
        self.version = version
        self.calibration = Calibration.load(version.path / CALIBRATION_FILE)
        linear = version.path / LINEAR_FILE
        self._linear = LinearModel.load(linear) if linear.exists() else None
        self._session, self._tokenizer = None, None
        self._answers: dict[bytes, Answer] = {}
        if self.calibration.bert:
            self._session = _session(version)
            self._tokenizer = _tokenizer(version)
            self._unknown_id = _unknown_id(self._tokenizer)
            outputs = self._session.get_outputs()
            if len(outputs) > 1:
                self._directions = directions(int(outputs[1].shape[1]))
        if self.calibration.linear and self._linear is None:
            raise ModelLoadError(f"{linear}: missing, but the calibration gives it weight")

    def judge(self, text: str, thresholds: Thresholds | None = None) -> Judgement:
        """Judge a model input as a server does: the BERT only where it matters.

        Args:
            text: the model input.
            thresholds: by which the probability will be judged, since an administrator may have
                his own; the version's where there are none.
        """
        linear, read = self.read(text)
        if self._session is None:
            return Judgement(spam_probability=self.calibration.probability(0.0, linear))
        if self.calibration.settles(linear, thresholds or self.version.thresholds):
            # As if the BERT agreed: a score that ranks well among those of both.
            return Judgement(spam_probability=self.calibration.probability(linear, linear))
        ids = self.token_ids(read)
        key = ids.tobytes()
        known = self._answers.get(key)
        answer = known or self.ask(ids)
        if known is None:
            self._answers[key] = answer
            if len(self._answers) > REMEMBERED:
                del self._answers[next(iter(self._answers))]
        return Judgement(
            spam_probability=self.calibration.probability(answer.logit, linear),
            decided_by="memory" if known else "bert",
            unknown_share=answer.unknown_share,
            projection=answer.projection,
        )

    def spam_probability(self, text: str) -> float:
        """Return the calibrated probability, 0 to 1, of both models, both always asked."""
        return self.calibration.probability(*self.logits(text))

    def logits(self, text: str) -> tuple[float, float]:
        """Return the log-odds of spam of BERT and linear model; 0 of one that is not there."""
        linear, read = self.read(text)
        return 0.0 if self._session is None else self.ask(self.token_ids(read)).logit, linear

    def read(self, text: str) -> tuple[float, str]:
        """Return the linear model's log-odds of spam, and the text that the BERT is to read.

        That is the model input; or its beginning or end, where this is so much more like spam
        that the rest may be there to hide it.
        """
        if self._linear is None:
            return 0.0, text
        logit, chosen = self._linear.logit(text), text
        for excerpt in excerpts(text):
            if (alone := self._linear.logit(excerpt) - EXCERPT_MARGIN) > logit:
                logit, chosen = alone, excerpt
        return logit, chosen

    def bert_logit(self, text: str) -> float:
        """Return the BERT's log-odds of spam, or 0 when there is none."""
        return self.logits(text)[0]

    def ask(self, ids: "np.typing.NDArray[np.int64]") -> Answer:
        """Return what the network says of one sequence of tokens, shape (1, tokens)."""
        assert self._session is not None
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        outputs = self._session.run(None, feeds)
        projection: tuple[float, ...] = ()
        if len(outputs) > 1:  # versions of before 2026-11-23 have the logit alone
            projection = tuple(np.round(outputs[1][0] @ self._directions, 4).tolist())
        return Answer(
            logit=float(outputs[0][0]),
            unknown_share=float((ids == self._unknown_id).mean()),
            projection=projection,
        )

    def linear_logit(self, text: str) -> float:
        """Return the linear model's log-odds of spam, or 0 when there is none."""
        return self.read(text)[0]

    def token_ids(self, text: str) -> "np.typing.NDArray[np.int64]":
        """Return token ids, shape (1, tokens), with the special tokens, cut to the window."""
        assert self._tokenizer is not None
        cut = text[: self.version.max_tokens * CHARS_PER_TOKEN]
        return np.array([self._tokenizer.encode(cut).ids], dtype=np.int64)


def directions(width: int) -> "np.typing.NDArray[np.float64]":
    """Return the fixed orthonormal directions, shape (width, DIRECTIONS)."""
    drawn = np.random.default_rng(_SEED).normal(size=(width, DIRECTIONS))
    return np.linalg.qr(drawn)[0]


def _unknown_id(tokenizer: Tokenizer) -> int:
    found = [tokenizer.token_to_id(token) for token in ("<unk>", "[UNK]")]
    return next((number for number in found if number is not None), -1)


def _session(version: ModelVersion) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    path = version.path / NETWORK_FILE
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base but Exception
        raise ModelLoadError(f"{path}: onnxruntime: {str(error)[:200]}") from error


def _tokenizer(version: ModelVersion) -> Tokenizer:
    path = version.path / TOKENIZER_FILE
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelLoadError(f"{path}: expected a tokenizer: {str(error)[:200]}") from error
    tokenizer.enable_truncation(version.max_tokens)
    tokenizer.no_padding()
    return tokenizer
