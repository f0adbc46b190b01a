"""Retraining end to end on a linear model: real record, real files, real gate, real kills."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from spamguard.database import migrate
from spamguard.errors import TrainingBusyError
from spamguard.feedback.corrections import CorrectionStore
from spamguard.model.calibration import Calibration
from spamguard.model.classifier import Classifier
from spamguard.model.linear import features, fit_linear
from spamguard.model.store import LINEAR_FILE, ModelStore, write_manifest
from spamguard.report import Report, ReportSource
from spamguard.training import retrain as retraining
from spamguard.training.corpus import corpus_examples
from spamguard.training.retrain import Retraining, newer_corrections, training_lock
from spamguard.verdict import Label

NOW = 1_790_000_000.0
GOODS = "harness crampon carabiner belay rope quickdraw chalk helmet piton ascender".split()
PLEAS = "clearance bargain discount wholesale closeout liquidation rebate doorbuster".split()


@pytest.fixture(scope="session")
def fitted():
    """A linear model that knows the shipped texts, as an incumbent would."""
    examples = corpus_examples(copies=1, seed=7)
    *_, model = fit_linear(
        [features(e.text) for e in examples],
        [e.is_spam for e in examples],
        [1.0] * len(examples),
        epochs=3,
    )
    return model


@pytest.fixture
def site(tmp_path, fitted):
    """A state directory with that model in use and an empty record."""
    path = tmp_path / "models" / "base"
    path.mkdir(parents=True)
    fitted.save(path / LINEAR_FILE)
    Calibration(bert=0.0, linear=1.0, bias=0.0).save(path / "calibration.json")
    write_manifest(
        path,
        {
            "version": "base",
            "created": "2026-11-23",
            "max_tokens": 128,
            "thresholds": {"unsure": 0.8, "spam": 0.99},
        },
    )
    store = ModelStore(tmp_path / "models")
    (tmp_path / "models" / "current").write_text("base\n")
    migrate(tmp_path / "spamguard.db")
    return store, CorrectionStore(
        tmp_path / "spamguard.db", tmp_path / "corrections", clock=lambda: NOW
    )


def advertisement(number):
    """A kind of spam that the model does not know: no words of a known campaign."""
    draw = random.Random(number)
    goods = " ".join(draw.sample(GOODS, 5))
    pleas = " ".join(draw.sample(PLEAS, 4))
    filler = " ".join(draw.choice(GOODS + PLEAS) for _ in range(30))
    return (
        f"From: Sherpa <s{number}@alpine{number}.example>\r\nSubject: {goods}\r\n"
        f"Message-ID: <{number}@alpine.example>\r\n\r\n{pleas} {filler} item{'x' * (number % 9)}\r\n"
    ).encode()


def report_all(corrections, numbers, label=Label.SPAM):
    for number in numbers:
        corrections.record(
            Report(
                label=label,
                reporter=f"user{number % 9}",
                source=ReportSource.CLI,
                raw=advertisement(number),
            )
        )


def quiet(store, corrections, **more):
    return Retraining(store, corrections, say=lambda _: None, clock=lambda: NOW, **more)


def spam_scores(store, numbers):
    from spamguard.message import parse_message
    from spamguard.model_input import build_model_input

    classifier = Classifier(store.current())
    return np.array(
        [
            classifier.spam_probability(build_model_input(parse_message(advertisement(n))).text)
            for n in numbers
        ]
    )


def test_missed_spam_is_learned_promoted_and_can_be_rolled_back(site):
    store, corrections = site
    before = spam_scores(store, range(900, 930))
    report_all(corrections, range(60))
    result = quiet(store, corrections).run()
    assert result.promoted, result.in_words()
    assert result.version == store.current().name
    assert spam_scores(store, range(900, 930)).mean() > before.mean() + 0.2
    assert ["base"] == [step["from"] for step in store.history()]
    assert "base" == store.roll_back(by="root", reason="test")
    assert "base" == store.current().name


def test_too_few_corrections_change_nothing(site):
    store, corrections = site
    report_all(corrections, range(3))
    result = quiet(store, corrections).run()
    assert ("none", "", False) == (result.plan.stage, result.version, result.promoted)
    assert [] == store.candidates()


def test_shuffled_labels_are_refused(site):
    store, corrections = site
    report_all(corrections, range(60))
    run = quiet(store, corrections)
    correct = retraining.fit_linear

    def shuffled(texts, is_spam, weights, **more):
        drawn = np.random.default_rng(1).permutation(np.array(is_spam))
        return correct(texts, drawn.tolist(), weights, **more)

    retraining.fit_linear = shuffled
    try:
        result = run.run()
    finally:
        retraining.fit_linear = correct
    assert not result.promoted, result.decision.rules
    assert result.decision.reasons
    assert "base" == store.current().name
    (candidate,) = store.candidates()
    recorded = json.loads((candidate.path / "gate.json").read_text())
    assert False is recorded["promoted"]


def test_a_candidate_that_flags_one_never_flag_message_is_refused(site, tmp_path):
    store, corrections = site
    report_all(corrections, range(60))
    own = tmp_path / "good"
    own.mkdir()
    (own / "order.eml").write_bytes(advertisement(5000))
    result = quiet(store, corrections, never_flag=[own]).run()
    rule = next(r for r in result.decision.rules if r.name == "never-flag mail called spam")
    assert (False, 0, 1) == (rule.passed, rule.incumbent, rule.candidate)
    assert not result.promoted


def test_a_run_says_what_is_new_and_looks_at_it_once(site):
    store, corrections = site
    report_all(corrections, range(20))
    assert 20 == newer_corrections(store, corrections)
    quiet(store, corrections).run()
    assert 0 == newer_corrections(store, corrections)


def test_a_lone_report_that_everything_contradicts_is_held_for_review(site):
    store, corrections = site
    report_all(corrections, range(40))
    ham = max(
        corpus_examples(copies=1, seed=7),
        key=lambda e: -Classifier(store.current()).linear_logit(e.text),
    )
    raw = f"From: a@b.example\r\nSubject: {ham.text.splitlines()[0]}\r\n\r\n{ham.text}\r\n".encode()
    receipt = corrections.record(
        Report(label=Label.SPAM, reporter="mallory", source=ReportSource.CLI, raw=raw)
    )
    result = quiet(store, corrections).run()
    assert receipt.correction_id in [number for number, _ in result.plan.data.held]
    assert "review" == corrections.get(receipt.correction_id)[1]


def test_only_one_run_at_a_time(tmp_path):
    with training_lock(tmp_path), pytest.raises(TrainingBusyError), training_lock(tmp_path):
        pass


def test_a_part_belongs_to_a_campaign_for_good(site):
    store, corrections = site
    report_all(corrections, range(40))
    first = quiet(store, corrections).plan()
    report_all(corrections, range(100, 140))
    second = quiet(store, corrections).plan()
    for part in ("train", "validation", "holdout"):
        before = {e.group for e in first.data.part(part) if e.corpus == "corrections"}
        after = {e.group for e in second.data.part(part) if e.corpus == "corrections"}
        assert before <= after


CHILD = (
    "import sys\n"
    "from pathlib import Path\n"
    "from spamguard.feedback.corrections import CorrectionStore\n"
    "from spamguard.model.store import ModelStore\n"
    "from spamguard.training.retrain import Retraining, training_lock\n"
    "state = Path(sys.argv[1])\n"
    "with training_lock(state):\n"
    "    run = Retraining(ModelStore(state / 'models'),\n"
    "        CorrectionStore(state / 'spamguard.db', state / 'corrections'))\n"
    "    print('started', flush=True)\n"
    "    run.run()\n"
)


def test_killed_at_any_moment_the_incumbent_serves_and_the_next_run_works(site, tmp_path):
    store, corrections = site
    report_all(corrections, range(60))
    draw = random.Random(4)
    promoted = 0
    for _ in range(20):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert "started\n" == child.stdout.readline()
        time.sleep(draw.uniform(0, 2.5))
        os.kill(child.pid, signal.SIGKILL)
        child.wait(timeout=30)
        child.stdout.close()
        current = store.current()
        current.verify()
        Classifier(current)
        if current.name != "base":
            promoted += 1
            store.roll_back(by="test", reason="again")
    result = quiet(store, corrections).run()
    assert result.decision is not None
    store.current().verify()
    names = {path.name for path in (tmp_path / "models").iterdir()}
    versions = {version.name for version in store.versions()} | {"default"}
    assert names - versions <= {"current", "candidates", "history.jsonl", "current.part"}
    for path in (tmp_path / "models" / "candidates").iterdir():
        assert (path / "gate.json").exists()
