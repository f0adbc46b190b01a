"""The test string is spam wherever it stands in full on a line, and nothing else is."""

import base64
import quopri

import pytest

from spamguard.gtube import GTUBE, has_gtube
from spamguard.message import parse_message
from spamguard.model.classifier import Classifier
from spamguard.model.scorer import MessageScorer
from spamguard.model.store import ModelVersion
from spamguard.verdict import Label, Score, Thresholds, judge
from tests.support.mail import message
from tests.support.toy_model import write_toy_model

THRESHOLDS = Thresholds(unsure=0.5, spam=1.0)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    path = write_toy_model(tmp_path_factory.mktemp("toy"))
    return MessageScorer(Classifier(ModelVersion.read(path)))


def test_the_string_is_the_documented_one():
    assert 68 == len(GTUBE)
    assert ("XJS*", ".34X") == (GTUBE[:4], GTUBE[-4:])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GTUBE, True),
        (f"before\r\n {GTUBE} \r\nafter", True),
        (f"> {GTUBE}", False),
        (f"send {GTUBE} to test", False),
        (GTUBE.lower(), False),
        (GTUBE[:-1], False),
        (f"{GTUBE}X", False),
        (GTUBE.replace("*", "\n*"), False),
        ("", False),
    ],
)
def test_only_a_whole_line_counts(text, expected):
    assert expected == has_gtube(text)


def html(text):
    return message("").replace(b"text/plain", b"text/html") + f"<p>{text}</p>".encode()


def encoded(text, name, encode):
    return message("").replace(b"Encoding: 8bit", b"Encoding: " + name) + encode(text.encode())


@pytest.mark.parametrize(
    "raw",
    [
        message(GTUBE),
        html(GTUBE),
        encoded(GTUBE, b"base64", base64.encodebytes),
        encoded(GTUBE, b"quoted-printable", quopri.encodestring),
    ],
    ids=["plain", "html", "base64", "quoted-printable"],
)
def test_a_message_with_the_string_is_spam_because_of_it(scorer, raw):
    verdict = judge(scorer.score(raw), THRESHOLDS, "id")
    assert (Label.SPAM, 1.0, "gtube") == (
        verdict.label,
        verdict.spam_probability,
        verdict.reason,
    )


def test_the_string_in_a_subject_or_an_attachment_says_nothing(scorer):
    attached = message("").replace(b"text/plain", b"application/octet-stream") + GTUBE.encode()
    for raw in (message("see you", subject=GTUBE), attached):
        assert not has_gtube(parse_message(raw).text)
        assert "gtube" != scorer.score(raw).decided_by


def test_a_model_that_is_sure_of_spam_gives_its_own_reason():
    score = Score(spam_probability=1.0, model_version="m", fingerprint="f")
    assert "score at least 1" == judge(score, THRESHOLDS, "id").reason
