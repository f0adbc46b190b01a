"""Drift: the index, the reference, and when a promotion is taken back."""

import random

import pytest

from spamguard.database import migrate
from spamguard.feedback.drift import (
    MIN_MESSAGES,
    REFERENCE_MESSAGES,
    WINDOW_MESSAGES,
    Drift,
    histogram,
    psi,
)
from spamguard.feedback.trust import Correction
from spamguard.feedback.watch import MIN_MESSAGES as WATCHED
from spamguard.feedback.watch import Promotion, verdict_on
from spamguard.message import Envelope
from spamguard.report import Standing
from spamguard.verdict import Label, Score, Verdict

ENVELOPE = Envelope(frontend="test", reverse_path="", recipients=())


def test_equal_histograms_have_no_index():
    assert 0.0 == psi([10, 20, 30], [10, 20, 30])


def test_the_index_is_that_of_the_textbook():
    # 0.5 a bin aside: (0.5-0.25) ln 2 + (0.5-0.75) ln(2/3)
    assert 0.2747 == pytest.approx(psi([25_000, 75_000], [50_000, 50_000]), abs=1e-3)


def test_values_on_an_edge_belong_below_it():
    assert [2, 1, 1] == histogram([0.0, 0.1, 0.2, 0.9], [0.1, 0.5])


def score(probability, *, version="m", unknown=0.0, projection=(0.0,)):
    return Score(
        spam_probability=probability,
        model_version=version,
        fingerprint="f",
        unknown_share=unknown,
        projection=projection,
    )


@pytest.fixture
def drift(tmp_path):
    migrate(tmp_path / "db")
    return Drift(tmp_path / "db", clock=lambda: 1.0)


def feed(drift, count, draw, **more):
    for _ in range(count):
        probability = draw.betavariate(0.3, 0.3) if "at" not in more else more["at"]
        projection = tuple(draw.gauss(more.get("mean", 0.0), 1.0) for _ in range(8))
        label = Label.SPAM if probability > 0.9 else Label.HAM
        judged = Verdict(id="1", label=label, spam_probability=probability)
        drift.note(judged, ENVELOPE, score(probability, projection=projection))


def test_steady_mail_is_steady(drift):
    draw = random.Random(1)
    feed(drift, REFERENCE_MESSAGES + WINDOW_MESSAGES, draw)
    assert "steady" == drift.report()["state"]


def test_mail_that_moves_is_seen_in_score_and_embedding(drift):
    draw = random.Random(1)
    feed(drift, REFERENCE_MESSAGES, draw)
    feed(drift, WINDOW_MESSAGES, draw, at=0.5, mean=1.0)
    report = drift.report()
    assert "shifted" == report["state"]
    assert report["psi"]["score"] > 0.25
    assert report["psi"]["embedding"] > 0.25
    assert report["psi"]["unknown_tokens"] < 0.1


def test_the_reference_survives_a_restart(drift, tmp_path):
    feed(drift, REFERENCE_MESSAGES, random.Random(1))
    drift.save()
    again = Drift(tmp_path / "db", clock=lambda: 2.0)
    feed(again, MIN_MESSAGES, random.Random(2))
    assert "steady" == again.report()["state"]


def test_another_version_gets_its_own_reference(drift):
    feed(drift, REFERENCE_MESSAGES, random.Random(1))
    drift.note(Verdict(id="1", label=Label.HAM), ENVELOPE, score(0.5, version="n"))
    assert "reference is being made: 1 messages" == drift.report()["state"]


PROMOTION = Promotion(version="n", at=0.0, unsure_share=0.05, spam_share=0.4)


def watch(messages=WATCHED, unsure=0.05, spam=0.4, corrections=(), standings=None):
    return verdict_on(
        PROMOTION,
        messages=messages,
        unsure_share=unsure,
        spam_share=spam,
        corrections=corrections,
        standings=standings or {},
    )


def test_a_version_like_the_one_before_stays():
    assert "" == watch()
    assert "" == watch(spam=0.6)


@pytest.mark.parametrize(("unsure", "spam"), [(0.2, 0.4), (0.05, 0.7)])
def test_a_version_that_flags_much_more_goes(unsure, spam):
    assert "rose from" in watch(unsure=unsure, spam=spam)
    assert "" == watch(messages=WATCHED - 1, unsure=unsure, spam=spam)


def rescued(number, reporter):
    return Correction(
        id=number,
        reported_at=1.0,
        label="ham",
        reporter=reporter,
        source="imap",
        comment="",
        fingerprint=f"{number}",
        campaign=f"{number}",
        simhash="",
        message_id="",
        from_address="",
        is_bulk=False,
        is_original=True,
        is_recipient=True,
        verdict_id="v",
        predicted="spam",
        spam_probability=0.99,
        model_version="n",
    )


def test_a_version_whose_spam_users_rescue_goes():
    rows = [rescued(n, f"user{n % 2}") for n in range(3)]
    standings = {n: (Standing.COUNTED, "") for n in range(3)}
    assert "3 corrections call its spam ham" == watch(
        messages=0, corrections=rows, standings=standings
    )
    assert "" == watch(messages=0, corrections=rows[:2], standings=standings)
    alone = [rescued(n, "mallory") for n in range(3)]
    assert "" == watch(messages=0, corrections=alone, standings=standings)
