"""Each disguise of the bench that normalisation can undo, undone: the model reads the same words."""

import random
import time
from unicodedata import normalize

import pytest

from spamguard.disguise import undisguise
from spamguard.message import parse_message
from spamguard.model_input import build_model_input
from tests.bench.disguises import DISGUISES

PLAIN = b"""From: "Sales" <sales@shop.example>\r
Subject: Refinance your mortgage today\r
MIME-Version: 1.0\r
Content-Type: text/plain; charset=utf-8\r
\r
Dear friend,\r
We would gladly lower your monthly payments. Banks compete for your mortgage, and you\r
always choose which of them deserves it: no obligation, no hidden costs.\r
Answer this message within three days.\r
"""
PAGE = b"""From: "Sales" <sales@shop.example>\r
Subject: Refinance your mortgage today\r
MIME-Version: 1.0\r
Content-Type: text/html; charset=utf-8\r
\r
<html><head><style>p{margin:0}</style></head><body><p>Dear friend,</p>\r
<p>We would gladly <b>lower</b> your monthly payments.</p>\r
<p><a href="https://mortgage.test/apply">Apply within three days</a></p></body></html>\r
"""
RUSSIAN = """From: sales@shop.example\r
Subject: Новости склада\r
Content-Type: text/plain; charset=utf-8\r
\r
Добрый день! Предлагаем скидки на товары для офиса, доставка бесплатно по всему городу.\r
""".encode()
# Not undone: text that is not there, honest words that are, and what honest text also does.
# Those are for training; see training/augment.py.
NOT_UNDONE = {
    "honest words far above", "honest words far below", "honest words above", "honest words below",
    "image and link only", "leetspeak",
}  # fmt: skip
NOTES = ("disguised words", "invisible filler")


def words_of(raw):
    text = build_model_input(parse_message(raw)).text.casefold()
    for note in NOTES:
        text = text.replace(note, "")
    return [word.strip(";") for word in text.split() if word.strip(";")]


@pytest.mark.parametrize("raw", [PLAIN, PAGE, RUSSIAN], ids=["plain", "page", "russian"])
@pytest.mark.parametrize("name", sorted(set(DISGUISES) - NOT_UNDONE))
def test_the_model_reads_the_same_words_behind_a_disguise(name, raw):
    disguised = DISGUISES[name](raw, random.Random(3))
    before, after = words_of(raw), words_of(disguised)
    same = sum(a == b for a, b in zip(before, after, strict=True))
    # Accents on a Subject of four words prove nothing; one word in twenty may stay strange.
    assert same >= len(before) * (0.85 if name == "accents" else 0.95)


@pytest.mark.parametrize("name", sorted(NOT_UNDONE))
def test_what_cannot_be_undone_is_really_disguised(name):
    assert words_of(PLAIN) != words_of(DISGUISES[name](PLAIN, random.Random(3)))


@pytest.mark.parametrize(
    "text",
    [
        "ı" * 24_000, "a" * 23_999 + "ı", "a" * 23_999 + "а", "аa" * 12_000, "é" * 24_000, "e\u0301" * 12_000,
        "\u202e" * 24_000, "\u202ea" * 12_000, "a\u0336" * 12_000, "Ã©" * 12_000, "а " * 12_000,
        "é " * 12_000, "ͣ" * 24_000, "𝐚" * 24_000,
    ],
)  # fmt: skip
def test_no_text_costs_more_than_a_quarter_second(text):
    started = time.process_time()
    undisguise(text)
    assert time.process_time() - started < 0.25


@pytest.mark.parametrize(
    "text",
    [
        "Liberapay hesabınızın parolası zayıf",
        "Website redesign: грешка при анализа на текста",
        "Λεπτομέρειες λογαριασμού για Moss & Saffron",
        "Нова мова додана до Quarterly planning на сайті",
        "5 μm, 10 kΩ, ΔT = 3 K",
        "Příští schůzka je v úterý, přineste prosím šablony a účtenky; těšíme se na vás",
        "Þetta er áríðandi: síðasti dagur til að skrá sig á námskeiðið er á föstudaginn",
        "Tiếng Việt: Cảm ơn quý khách đã đặt hàng, đơn hàng sẽ được giao trong hôm nay",
        "Présence d'Åsa Öström, João Muñoz, Dvořák, Łukasz et Şükrü à la réunion de mercredi prochain",
        "1️⃣ first 2️⃣ second",
    ],
)
def test_honest_text_of_many_languages_keeps_its_letters(text):
    plain, count = undisguise(text)
    assert 0 == count
    assert normalize("NFKC", text).replace("\ufe0f", "").replace("\u20e3", "") == plain
