"""Training texts changed: seeded, bounded, notes where the model input writes them."""

import numpy as np
import pytest

from spamguard.training.augment import augment

TEXT = "Your invoice\nSales (shop.example)\nlinks to pay.test; attached pdf\nPlease settle the amount of the invoice today."
HONEST = ["Minutes\nAnn (club.example)\n" + "yesterday we talked about the garden " * 40]


def drawn(text, is_spam, *, count=600, share=1.0, honest=HONEST):
    generator = np.random.default_rng(1)
    return [augment(text, is_spam, share, generator, honest) for _ in range(count)]


def test_the_same_seed_draws_the_same_texts():
    assert drawn(TEXT, True) == drawn(TEXT, True)


def test_a_share_of_nothing_changes_nothing():
    assert {TEXT} == set(drawn(TEXT, True, share=0.0))


def test_spam_is_noted_as_stuffed_and_disguised_and_ham_is_not_stuffed():
    assert any("attached pdf; invisible filler\n" in text for text in drawn(TEXT, True))
    assert any("attached pdf; disguised words\n" in text for text in drawn(TEXT, True))
    assert not any("invisible filler" in text for text in drawn(TEXT, False))


@pytest.mark.parametrize("is_spam", [True, False])
def test_honest_words_stand_before_and_behind_the_body(is_spam):
    found = [text.split("\n") for text in drawn(TEXT, is_spam) if "garden" in text]
    assert {"garden" in lines[3] for lines in found} == {True, False}
    assert all(lines[0] == "Your invoice" and lines[2].startswith("links to") for lines in found)


@pytest.mark.parametrize("is_spam", [True, False])
def test_a_picture_leaves_who_writes_and_where_links_go(is_spam):
    assert "Your invoice\nSales (shop.example)\nlinks to pay.test; attached pdf" in drawn(
        TEXT, is_spam
    )


def test_every_text_can_be_changed():
    for text in ("", "\n", "a", "one line alone", "subject\n\n\nbody", "x" * 10_000):
        assert all(isinstance(found, str) for found in drawn(text, True, count=100, honest=[text]))
