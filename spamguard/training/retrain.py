"""One retraining: from the corrections on record to a promoted version, or to none.

The order of things: take the lock, read the data, set contradicted reports aside, learn as much
as so many corrections allow, make an int8 candidate, let the gate compare it with the incumbent,
promote it or leave it where it is for the administrator. Whatever happens on the way, also a
kill, the incumbent goes on serving: the one step that changes anything is the replacement of
`models/current` at the very end.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import spamguard
from spamguard.errors import TrainingBusyError, TrainingError
from spamguard.feedback.corrections import CorrectionStore
from spamguard.model.calibration import Calibration, fit_calibration
from spamguard.model.classifier import Classifier
from spamguard.model.linear import DEFAULT_BITS, LinearModel, features, fit_linear
from spamguard.model.store import (
    CALIBRATION_FILE,
    CANDIDATES,
    GATE_FILE,
    LINEAR_FILE,
    MANIFEST,
    NETWORK_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    ModelStore,
    ModelVersion,
    write_manifest,
)
from spamguard.report import Standing
from spamguard.training.alone import Say, run_alone
from spamguard.training.dataset import Example
from spamguard.training.feedback_data import (
    BY_RETRAINING,
    read_feedback,
    without_contradicted,
)
from spamguard.training.gate import Decision, Judged, decide
from spamguard.training.plan import Plan, Result, stage_for
from spamguard.verdict import Thresholds

KEPT_CANDIDATES = 5  # of refused ones, for looking at

CORRECTION_WEIGHT = 3.0  # of a correction's loss beside a replayed text's
MAX_CLASS_WEIGHT = 10.0  # corrections are nearly all missed spam: balance, not at any price
LINEAR_EPOCHS = 3
COMPARED_MESSAGES = 400  # on which int8 is compared with float32
TIMED_MESSAGES = 60
_STEPS = "spamguard.training.retrain_network"  # what needs torch, each in a process of its own


@contextmanager
def training_lock(state: Path) -> Iterator[None]:
    """Hold the one lock of everything that trains; the system frees it when we are killed.

    Raises:
        TrainingBusyError: another run holds it.
    """
    try:
        with (state / "training.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError as error:
        raise TrainingBusyError(
            f"{state}/training.lock: another retraining is under way"
        ) from error


class Retraining:
    """One run.

    Args:
        store: versions and the current one.
        corrections: the record.
        replay, never_flag: the administrator's own data, see `feedback_data.read_feedback`.
        threads: of the processor that training may use.
        clock: seconds since the epoch.
        say: told what is being done, a line at a time.
        seed: of everything drawn.
    """

    def __init__(
        self,
        store: ModelStore,
        corrections: CorrectionStore,
        *,
        replay: Sequence[Path] = (),
        never_flag: Sequence[Path] = (),
        threads: int = 1,
        clock: Callable[[], float] = time.time,
        say: Say = print,
        seed: int = 1,
    ) -> None:
        self._store = store
        self._corrections = corrections
        self._replay = replay
        self._never_flag = never_flag
        self._threads = threads
        self._clock = clock
        self._say = say
        self._seed = seed
        self._incumbent = store.current()
        self._classifier = Classifier(self._incumbent)
        self._seconds: dict[str, float] = {}

    # -- planning ----------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Read the data and say what would be done; changes nothing.

        Raises:
            DataError: a directory of the administrator's is not what it should be.
            StoreError: the record cannot be read.
        """
        with self._timed("reading"):
            data = read_feedback(
                self._corrections,
                replay=self._replay,
                never_flag=self._never_flag,
                seed=self._seed,
            )
            bert = np.array([self._classifier.bert_logit(e.text) for e in data.corrections])
            data = without_contradicted(
                data,
                linear=self._linear(),
                calibration=self._classifier.calibration,
                bert_logits=bert,
            )
        count = sum(e.corpus == "corrections" for e in data.part("train"))
        stage = stage_for(count)
        reason = f"{count} corrections to train on"
        if stage not in {"none", "linear"} and not (self._incumbent.path / WEIGHTS_FILE).exists():
            stage, reason = "linear", "the incumbent has no weights to go on from"
        return Plan(stage=stage, data=data, reason=reason)

    def wants_torch(self) -> bool:
        """Whether a run could fine-tune the BERT; a linear model alone needs no torch."""
        return (self._incumbent.path / WEIGHTS_FILE).exists()

    # -- running -----------------------------------------------------------------------------

    def run(self, *, promote: bool = True) -> Result:
        """Make a candidate, judge it, promote it when the gate says so.

        Args:
            promote: False leaves an accepted candidate where it is.

        Raises:
            TrainingError: training failed; nothing was changed.
        """
        directory = self._store.directory / CANDIDATES
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        _tidy(directory)
        plan = self.plan()
        for number, reason in plan.data.held:
            self._corrections.review(number, "hold", by=BY_RETRAINING, reason=reason)
        if plan.stage == "none":
            return Result(plan=plan, seconds=self._seconds)
        last_correction = max((int(e.path) for e in plan.data.corrections), default=0)
        name = self._new_name()
        path = directory / name
        path.mkdir(mode=0o700)
        self._say(f"candidate {name}: {plan.reason}, stage {plan.stage}")
        flips = self._make(plan, path, name)
        candidate = ModelVersion.read(path)
        decision = self._judge(plan, candidate, flips)
        record = {
            "version": name,
            "incumbent": self._incumbent.name,
            "judged_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._clock())),
            "last_correction": last_correction,
            "plan": plan.as_json(),
            **decision.as_json(),
            "seconds": {key: round(value, 1) for key, value in self._seconds.items()},
        }
        _write(path / GATE_FILE, record)
        is_promoted = decision.promoted and promote
        if is_promoted:
            self._store.adopt(path, name)
            self._store.promote(name, by=BY_RETRAINING, reason="the gate")
        return Result(
            plan=plan,
            version=name,
            decision=decision,
            promoted=is_promoted,
            seconds=self._seconds,
        )

    def _make(self, plan: Plan, path: Path, name: str) -> tuple[int, int]:
        """Write the candidate's files; return how many labels int8 changes, of how many."""
        train = plan.data.part("train")
        weights = correction_weights(train)
        with self._timed("linear model"):
            *_, linear = fit_linear(
                [features(e.text, self._linear().bits) for e in train],
                [e.is_spam for e in train],
                weights.tolist(),
                epochs=LINEAR_EPOCHS,
                seed=self._seed,
                start=self._linear(),
            )
            linear.save(path / LINEAR_FILE)
        flips = (0, 0)
        if plan.stage == "linear":
            for file in (NETWORK_FILE, TOKENIZER_FILE, WEIGHTS_FILE, "config.json"):
                if (self._incumbent.path / file).exists():
                    _link(self._incumbent.path / file, path / file)
        else:
            with self._timed("BERT"):
                run_alone(
                    _STEPS,
                    "fine_tune",
                    self._incumbent,
                    [e.text for e in train],
                    self._soft_targets(train),
                    weights,
                    plan.stage,
                    path,
                    self._threads,
                    self._seed,
                    say=self._say,
                )
            with self._timed("export"):
                run_alone(_STEPS, "export", path, self._threads)
        self._calibration().save(path / CALIBRATION_FILE)
        self._finish(path, name, self._incumbent.thresholds, {})
        with self._timed("calibration"):
            version = ModelVersion.read(path)
            calibration = self._calibrate(plan, version)
            calibration.save(path / CALIBRATION_FILE)
            if plan.stage != "linear":
                compared = [e.text for e in plan.data.part("holdout")[:COMPARED_MESSAGES]]
                flips = run_alone(
                    _STEPS,
                    "int8_differences",
                    version,
                    compared,
                    calibration,
                    self._incumbent.thresholds,
                    self._threads,
                )
        self._finish(
            path,
            name,
            self._incumbent.thresholds,
            {"retrained_from": self._incumbent.name, "retraining": plan.as_json()},
        )
        return flips

    def _soft_targets(self, train: Sequence[Example]) -> npt.NDArray[np.float32]:
        """Let replayed texts teach what the incumbent says of them, where it is right.

        Li and Hoiem 2016, "Learning without Forgetting": the old model's answers on other data
        keep the new one near to it.
        """
        targets = np.array([float(e.is_spam) for e in train], dtype=np.float32)
        for row, example in enumerate(train):
            if example.corpus != "corrections":
                said = 1 / (1 + np.exp(-np.clip(self._classifier.bert_logit(example.text), -9, 9)))
                if (said > 0.5) == example.is_spam:
                    targets[row] = said
        return targets

    def _calibrate(self, plan: Plan, version: ModelVersion) -> Calibration:
        """Fit near the incumbent's, then give way until no more ham is flagged than before."""
        mail = plan.data.part("validation")
        found = _logits(Classifier(version), mail)
        before = _logits(self._classifier, mail)
        is_spam = np.array([e.is_spam for e in mail])
        weights = np.where([e.corpus == "corrections" for e in mail], CORRECTION_WEIGHT, 1.0)
        old = self._calibration()
        fitted = fit_calibration(found, is_spam, weights, prior=old.prior, near=old)
        thresholds = self._incumbent.thresholds
        ham_before = old.probabilities(before[~is_spam, 0], before[~is_spam, 1])
        for _ in range(100):
            ham = fitted.probabilities(found[~is_spam, 0], found[~is_spam, 1])
            if all(
                (ham >= limit).sum() <= (ham_before >= limit).sum()
                for limit in (thresholds.spam, thresholds.unsure)
            ):
                break
            fitted = replace(fitted, bias=fitted.bias - 0.05)
        return fitted

    def _judge(self, plan: Plan, candidate: ModelVersion, flips: tuple[int, int]) -> Decision:
        """Let both models judge the gate's mail, by the files that the daemon runs."""
        with self._timed("gate"):
            holdout = [e for e in plan.data.part("holdout") if e.corpus == "corrections"]
            known = [e for e in plan.data.part("holdout") if e.corpus != "corrections"]
            sides = [
                _judged(classifier, holdout, plan.data.never_flag, known)
                for classifier in (self._classifier, Classifier(candidate))
            ]
            return decide(
                *sides,
                holdout_is_spam=np.array([e.is_spam for e in holdout], dtype=bool),
                holdout_groups=[e.group for e in holdout],
                known_is_spam=np.array([e.is_spam for e in known], dtype=bool),
                thresholds=self._incumbent.thresholds,
                flips=flips,
            )

    # -- pieces ------------------------------------------------------------------------------

    def _linear(self) -> LinearModel:
        linear = self._incumbent.path / LINEAR_FILE
        if not linear.exists():
            return LinearModel(np.zeros(1 << DEFAULT_BITS, dtype=np.float32), 0.0)
        return LinearModel.load(linear)

    def _calibration(self) -> Calibration:
        return self._classifier.calibration

    def _finish(self, path: Path, name: str, thresholds: Thresholds, more: dict[str, Any]) -> None:
        kept = {
            key: value
            for key, value in self._incumbent.manifest.items()
            if key in {"recipe", "reference"}
        }
        write_manifest(
            path,
            {
                "version": name,
                "created": time.strftime("%Y-%m-%d", time.gmtime(self._clock())),
                "spamguard": spamguard.__version__,
                "max_tokens": self._incumbent.max_tokens,
                "thresholds": {"unsure": thresholds.unsure, "spam": thresholds.spam},
                **kept,
                **more,
            },
        )

    def _new_name(self) -> str:
        stem = time.strftime("%Y.%m.%d-%H%M%S", time.gmtime(self._clock()))
        taken = {version.name for version in self._store.versions()}
        for suffix in ("", *"bcdefghij"):
            name = f"{stem}{suffix}"
            if name not in taken and not (self._store.directory / CANDIDATES / name).exists():
                return name
        raise TrainingError(f"{self._store.directory}: no free name for {stem}")

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._seconds[part] = self._seconds.get(part, 0.0) + time.monotonic() - started


def correction_weights(examples: Sequence[Example]) -> npt.NDArray[np.float32]:
    """Return each message's weight: corrections count more, their classes alike up to a cap.

    Feedback is imbalanced as it comes, nearly all missed spam. Unweighted it would teach that
    everything is spam; a cap keeps three rescued newsletters from weighing as much as three
    hundred missed spams. What the weights do to the score's meaning, calibration takes out.
    """
    is_own = np.array([e.corpus == "corrections" for e in examples])
    is_spam = np.array([e.is_spam for e in examples])
    weights = np.ones(len(examples), dtype=np.float32)
    sizes = {value: int((is_own & (is_spam == value)).sum()) for value in (True, False)}
    largest = max(sizes.values())
    for value, size in sizes.items():
        if size:
            members = is_own & (is_spam == value)
            weights[members] = CORRECTION_WEIGHT * min(MAX_CLASS_WEIGHT, largest / size)
    normalised: npt.NDArray[np.float32] = weights / weights.mean()
    return normalised


def _logits(classifier: Classifier, mail: Sequence[Example]) -> npt.NDArray[np.float64]:
    rows = [classifier.logits(example.text) for example in mail]
    return np.array(rows, dtype=float).reshape(-1, 2)


def _judged(
    classifier: Classifier,
    holdout: Sequence[Example],
    never_flag: Sequence[Example],
    known: Sequence[Example],
) -> Judged:
    def scores(mail: Sequence[Example]) -> npt.NDArray[np.float64]:
        return np.array([classifier.spam_probability(e.text) for e in mail], dtype=float)

    times = []
    for example in [*never_flag, *known][:TIMED_MESSAGES]:
        started = time.perf_counter()
        classifier.spam_probability(example.text)
        times.append((time.perf_counter() - started) * 1000)
    path = classifier.version.path
    files = (NETWORK_FILE, TOKENIZER_FILE, LINEAR_FILE, CALIBRATION_FILE)
    return Judged(
        holdout=scores(holdout),
        never_flag=scores(never_flag),
        known=scores(known),
        milliseconds=float(np.median(times)) if times else 0.0,
        size=sum((path / name).stat().st_size for name in files if (path / name).exists()),
    )


def _link(source: Path, target: Path) -> None:
    """Share a file that did not change; copy where the file systems differ."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _tidy(directory: Path) -> None:
    """Remove what a killed run left, and all but the newest refused candidates."""
    finished = []
    for path in sorted(directory.iterdir()):
        if (path / GATE_FILE).exists() and (path / MANIFEST).exists():
            finished.append(path)
        else:
            shutil.rmtree(path, ignore_errors=True)
    for path in finished[:-KEPT_CANDIDATES]:
        shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, record: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
    part.replace(path)


def newer_corrections(store: ModelStore, corrections: CorrectionStore) -> int:
    """Return how many corrections count that no run has looked at yet."""
    seen = 0
    for pattern in (f"*/{GATE_FILE}", f"{CANDIDATES}/*/{GATE_FILE}"):
        for path in store.directory.glob(pattern):
            try:
                seen = max(seen, int(json.loads(path.read_text("utf-8"))["last_correction"]))
            except (OSError, ValueError, KeyError):
                continue
    _, worth = corrections.all()
    return sum(number > seen and w[0] is Standing.COUNTED for number, w in worth.items())
