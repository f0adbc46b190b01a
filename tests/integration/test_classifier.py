"""The shipped version in memory: what its BERT is asked, and what that changes."""

import math
from pathlib import Path

import pytest

from spamguard.message import parse_message
from spamguard.model.classifier import REMEMBERED, Classifier
from spamguard.model.store import SHIPPED, ModelVersion
from spamguard.model_input import build_model_input
from spamguard.training.corpus import corpus_examples
from spamguard.verdict import Thresholds

SAMPLES = sorted(Path("sample_mail").rglob("*.eml"))


@pytest.fixture(scope="module")
def classifier():
    return Classifier(ModelVersion.read(SHIPPED))


@pytest.fixture(scope="module")
def texts():
    own = [example.text for example in corpus_examples(copies=1, seed=7)[::27]]
    return own + [build_model_input(parse_message(p.read_bytes())).text for p in SAMPLES]


LENIENT = Thresholds(unsure=0.5, spam=0.6)
STRICT = Thresholds(unsure=0.99, spam=0.9999)


@pytest.mark.parametrize("own", [None, LENIENT, STRICT, Thresholds(unsure=0.5, spam=1.0)])
def test_leaving_the_bert_out_changes_no_label(classifier, texts, own):
    thresholds = own or classifier.version.thresholds
    judged = [classifier.judge(text, own) for text in texts]
    assert 0.05 < sum(j.decided_by == "linear" for j in judged) / len(judged) < 0.99
    assert [thresholds.label(j.spam_probability) for j in judged] == [
        thresholds.label(classifier.spam_probability(text)) for text in texts
    ]


def test_the_bert_is_left_out_only_where_its_word_could_change_nothing(classifier, texts):
    thresholds = classifier.version.thresholds
    for text in texts:
        linear = classifier.linear_logit(text)
        said = {
            thresholds.label(classifier.calibration.probability(bert, linear))
            for bert in (-math.inf, math.inf)
        }
        assert (classifier.judge(text).decided_by == "linear") == (len(said) == 1)


def test_sure_spam_is_settled_until_the_threshold_is_raised(classifier, texts):
    settled = [text for text in texts if classifier.judge(text, LENIENT).decided_by == "linear"]
    spam = [text for text in settled if classifier.spam_probability(text) >= LENIENT.spam]
    assert spam
    for text in spam:
        linear = classifier.linear_logit(text)
        least, most = (
            classifier.calibration.probability(bert, linear) for bert in (-math.inf, math.inf)
        )
        raised = Thresholds(unsure=0.5, spam=(least + most) / 2)
        assert classifier.judge(text, raised).decided_by != "linear"


def test_a_text_that_is_settled_is_not_made_tokens(classifier, texts, monkeypatch):
    settled = [text for text in texts if classifier.judge(text).decided_by == "linear"]
    monkeypatch.setattr(classifier, "token_ids", lambda text: pytest.fail("tokens were made"))
    assert all(classifier.judge(text).decided_by == "linear" for text in settled)


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


def test_honest_text_hides_less_where_an_excerpt_is_read_without_it(classifier, texts, monkeypatch):
    honest = [t for t in texts if classifier.spam_probability(t) < 0.01]
    spam = [t for t in texts if len(t) < 900 and classifier.spam_probability(t) > 0.99][:150]
    page = "\n".join(text.partition("\n")[2] for text in honest[:20])[:5000]
    hidden = [f"{text}\n{page}" for text in spam]
    assert all(classifier.read(text) == (classifier.linear_logit(text), text) for text in spam)

    def caught():
        return sum(classifier.spam_probability(text) > 0.7 for text in hidden)

    with_excerpts = caught()
    monkeypatch.setattr("spamguard.model.classifier.excerpts", lambda text: ())
    assert with_excerpts > 1.5 * caught()
    assert with_excerpts > 0.4 * len(spam)
