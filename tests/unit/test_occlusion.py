"""Occlusion: what a word added is what the score loses without it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spamguard.training.occlusion import MAX_SHOWN_CHARS, MAX_WORDS, explain


def log_odds(text):
    return 3.0 * text.count("casino") - 2.0 * text.count("meeting") + 1.5 * text.count("bad.test")


def test_each_word_and_link_has_its_own_effect():
    found = explain("casino today\nlinks to bad.test good.test\nour meeting", log_odds)
    effects = {piece.text: piece.effect for piece in found.pieces if piece.text.strip()}
    assert 2.5 == found.log_odds
    assert (3.0, -2.0, 0.0) == (effects["casino"], effects["meeting"], effects["today"])
    assert (("bad.test", 1.5), ("good.test", 0.0)) == found.links


@given(st.text(max_size=3000))
def test_the_pieces_are_the_beginning_of_the_text(text):
    found = explain(text, log_odds)
    shown = "".join(piece.text for piece in found.pieces)
    assert text.startswith(shown)
    assert found.is_cut == (len(shown) < len(text))


@pytest.mark.parametrize("text", ["a " * 100_000, "a" * 100_000, "links to " + "b.test " * 10_000])
def test_the_work_and_the_text_are_bounded(text):
    judged = []
    found = explain(text, lambda part: judged.append(part) or 0.0)
    assert len(judged) <= MAX_WORDS + 10
    assert sum(len(piece.text) for piece in found.pieces) <= MAX_SHOWN_CHARS
