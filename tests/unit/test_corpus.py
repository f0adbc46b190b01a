"""The training texts: well-formed, on both sides, and rendered so that they can be read."""

import re
from collections import Counter

import pytest

from spamguard.errors import DataError
from spamguard.training.corpus import corpus_examples, read_texts

KNOWN = set(
    "first name sender firm amount date time number city product phone code days email url".split()
)


def test_every_text_has_known_placeholders_and_there_is_no_text_twice():
    texts = read_texts()
    for entry in texts:
        joined = " ".join([entry["subject"], entry["text"], entry["link"]])
        assert set(re.findall(r"\{(\w+)\}", joined)) <= KNOWN, joined[:80]
    assert max(Counter(entry["text"] for entry in texts).values()) == 1


def test_both_sides_stand_in_every_language():
    counts = Counter((entry["lang"], entry["label"] == "ham") for entry in read_texts())
    for language in {language for language, _ in counts}:
        ham, bad = counts[language, True], counts[language, False]
        assert min(ham, bad) >= 0.35 * (ham + bad), language


def test_rendering_is_seeded_and_leaves_no_placeholder():
    once = corpus_examples(copies=2, seed=7)
    assert once == corpus_examples(copies=2, seed=7)
    assert once != corpus_examples(copies=2, seed=8)
    assert not [e for e in once if re.search(r"\{(?:%s)\}" % "|".join(KNOWN), e.text)]
    by_group = Counter(example.group for example in once)
    assert set(by_group.values()) == {2}


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "xx.jsonl").write_text('{"label": "ham"}\n')
    with pytest.raises(DataError, match=r"xx\.jsonl:1: expected"):
        read_texts(tmp_path)
