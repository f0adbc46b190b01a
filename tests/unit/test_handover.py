"""The envelope on top of a delivered message, and a verdict in points."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spamguard.frontends.points import SPAM_POINTS, UNSURE_POINTS, points_of
from spamguard.handover import read_envelope
from spamguard.verdict import Label, Verdict

RECEIVED = b"Received: from x by mx.example; Mon, 23 Nov 2026 10:00:00 +0000\r\n"


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        (b"", ("", ())),
        (b"Return-Path: <ann@a.example>\r\nDelivered-To: bob@b.example\r\n", ("ann@a.example", ("bob@b.example",))),
        (
            b"X-Envelope-From: <ann@a.example>\nX-Envelope-To: bob@b.example,\n c@d.example\n",
            ("ann@a.example", ("bob@b.example", "c@d.example")),
        ),
        (b"X-Envelope-To: <bob@b.example>, c@d.example\r\n", ("", ("bob@b.example", "c@d.example"))),
        (b"Return-path: <>\r\nEnvelope-to: bob@b.example\r\nDelivery-date: today\r\n", ("", ("bob@b.example",))),
        (b"From ann@a.example Mon Nov 23 10:00:00 2026\n", ("ann@a.example", ())),
        (b"From MAILER-DAEMON Mon Nov 23 10:00:00 2026\nDelivered-To: b@c\n", ("", ("b@c",))),
        (RECEIVED + b"Return-Path: <forged@a.example>\r\n", ("", ())),
        (b"Subject: x\r\nX-Envelope-To: forged@a.example\r\n", ("", ())),
    ],
)  # fmt: skip
def test_only_fields_on_top_are_the_envelope(top, expected):
    assert expected == read_envelope(top + RECEIVED + b"Subject: x\r\n\r\nhello")


@given(st.binary(max_size=400))
def test_any_bytes_give_an_envelope(data):
    reverse_path, recipients = read_envelope(b"Return-Path:" + data)
    assert isinstance(reverse_path, str)
    assert isinstance(recipients, tuple)


@given(st.floats(0, 1))
def test_points_never_contradict_the_label(probability):
    def points(label):
        return points_of(Verdict(id="1", label=label, spam_probability=probability))

    assert 0 <= points(Label.HAM) < UNSURE_POINTS <= points(Label.UNSURE) < SPAM_POINTS
    assert SPAM_POINTS <= points(Label.SPAM) <= 10


def test_what_has_no_score_has_no_points():
    assert points_of(Verdict(id="1", label=Label.UNSCORED)) == 0


def test_hostile_fields_cost_next_to_nothing():
    for value in (
        b"(" * 60_000,
        b"a," * 30_000,
        b"<" * 60_000,
        b'"\\' * 30_000,
        b"a@" * 30_000,
        b"a" * 60_000,
    ):
        started = time.perf_counter()
        read_envelope(b"Delivered-To: " + value)
        assert time.perf_counter() - started < 0.2
