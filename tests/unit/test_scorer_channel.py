"""What a scorer answers: read back as it was, and nothing else believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spamguard.model.channel import (
    HEADER_BYTES,
    REQUEST_BYTES,
    ScorerBugError,
    decode_answer,
    decode_request,
    encode_bug,
    encode_score,
    frame,
    request,
)
from spamguard.verdict import Score, Thresholds

texts = st.text(st.characters(codec=None), max_size=40)  # lone surrogates too


@given(
    st.builds(
        Score,
        spam_probability=st.floats(0, 1),
        model_version=texts,
        fingerprint=texts,
        message_id=texts,
        from_domain=texts,
        authentication_results=st.lists(texts, max_size=4).map(tuple),
        truncated=st.booleans(),
        simhash=st.none() | st.integers(0, 2**64 - 1),
        decided_by=texts,
        unknown_share=st.none() | st.floats(0, 1),
        projection=st.lists(st.floats(-9, 9), max_size=8).map(tuple),
        defects=st.lists(texts, max_size=3).map(tuple),
        milliseconds=st.floats(0, 1e6),
    )
)
def test_a_score_comes_back_as_it_was(score):
    assert score == decode_answer(encode_score(score))


def test_a_bug_is_named():
    with pytest.raises(ScorerBugError, match="a scorer raised KeyError"):
        decode_answer(encode_bug(KeyError("x")))


@pytest.mark.parametrize(
    "wrong", [b"", b"{}", b"[]", b"null", b"\x80\x04N.", b'{"spam_probability": 1}']
)
def test_what_is_no_answer_is_an_error(wrong):
    with pytest.raises(ValueError, match=".") as caught:
        decode_answer(wrong)
    assert not isinstance(caught.value, ScorerBugError)


@given(st.binary(max_size=100))
def test_a_frame_says_how_long_it_is(body):
    framed = frame(body)
    assert (len(body), body) == (
        int.from_bytes(framed[:HEADER_BYTES], "big"),
        framed[HEADER_BYTES:],
    )


@given(st.binary(max_size=100), st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted))
def test_a_request_says_how_long_its_message_is_and_how_it_will_be_judged(raw, places):
    thresholds = Thresholds(unsure=places[0], spam=places[1])
    asked = request(raw, thresholds)
    assert (len(raw), thresholds) == decode_request(asked[:REQUEST_BYTES])
    assert raw == asked[REQUEST_BYTES:]
