"""The shipped version in memory: what its BERT is asked, and what that changes."""

from pathlib import Path

import pytest

from spamguard.message import parse_message
from spamguard.model.calibration import BERT_LIMIT
from spamguard.model.classifier import REMEMBERED, Classifier
from spamguard.model.store import SHIPPED, ModelVersion
from spamguard.model_input import build_model_input
from spamguard.training.corpus import corpus_examples

SAMPLES = sorted(Path("sample_mail").rglob("*.eml"))


@pytest.fixture(scope="module")
def classifier():
    return Classifier(ModelVersion.read(SHIPPED))


@pytest.fixture(scope="module")
def texts():
    own = [example.text for example in corpus_examples(copies=1, seed=7)[::9]]
    return own + [build_model_input(parse_message(p.read_bytes())).text for p in SAMPLES]


def label(classifier, probability):
    thresholds = classifier.version.thresholds
    return (probability >= thresholds.unsure) + (probability >= thresholds.spam)


def test_leaving_the_bert_out_changes_no_label(classifier, texts):
    judged = [classifier.judge(text) for text in texts]
    assert 0.05 < sum(j.decided_by == "linear" for j in judged) / len(judged) < 0.95
    assert [label(classifier, j.spam_probability) for j in judged] == [
        label(classifier, classifier.spam_probability(text)) for text in texts
    ]


def test_the_bert_is_left_out_only_where_its_word_could_not_reach_half(classifier, texts):
    for text in texts:
        worst = classifier.calibration.probability(BERT_LIMIT, classifier.linear_logit(text))
        assert (classifier.judge(text).decided_by == "linear") == (worst < 0.5)


def test_what_was_asked_a_moment_ago_is_remembered_and_no_more_than_so_much(classifier, texts):
    text = next(text for text in texts if classifier.judge(text).decided_by != "linear")
    first, second = classifier.judge(text), classifier.judge(text)
    assert second.decided_by == "memory"
    assert first.spam_probability == second.spam_probability
    assert first.projection == second.projection
    for number in range(REMEMBERED + 5):
        classifier.judge(f"win the lottery now {number} claim your prize money\nurgent transfer")
    assert len(classifier._answers) == REMEMBERED
    assert classifier.judge(text).decided_by == "bert"
