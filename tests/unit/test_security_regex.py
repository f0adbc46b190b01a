"""Every regular expression of the package against inputs on which bad ones take for ever."""

import importlib
import pkgutil
import re
import time

import pytest

import spamguard

LENGTH = 20_000
SECONDS = 0.4  # a square of that length is 400 million steps
# What is never given more than so many characters, or comes from the administrator alone.
SHORT = {
    "spamguard.html._SHOWN": 200,
    "spamguard.html._HOST": 2000,
    "spamguard.feedback.forwards._END": 200,
    "spamguard.frontends.smtp._XFORWARD_VALUE": 4096,
    "spamguard.message._FIELD_NAME": 210,
    "spamguard.verdict._RESULT": 2048,
    "spamguard.verdict._VOUCHED.dkim": 2048,
    "spamguard.verdict._VOUCHED.spf": 2048,
    "spamguard.verdict._VOUCHED.dmarc": 2048,
}
MATCHED = {
    "spamguard.message._LOOKS_LIKE_HTML",
    "spamguard.wire.spamd._REQUEST_LINE",
    "spamguard.feedback.forwards._QUOTE_MARK",
}
OURS = {"spamguard.config._ADDRESS", "spamguard.model.store._VERSION_NAME"}

PIECES = [
    *" \t\r\n\xa0\u2003aZ1.,-_+@/\\:;=<>()[]{}\"'!?#&%$*^|~é\u0430\u0301\u200b\u202e\ue000",
    "a ", "a.", "a@", "a1", "1.", "  ", "\r\n", " \n", "<a", "<p>", "</", "><", "--", "a:", "=?",
    "&nbsp;", "http://", "www.", "//", "a\u0301", "\u0430a", ">\n", "> ",
]  # fmt: skip


def patterns():
    for found in pkgutil.walk_packages(spamguard.__path__, "spamguard."):
        if ".training" in found.name or found.name.endswith("__main__"):
            continue  # reads nothing of a stranger's in the daemon
        for name, value in vars(importlib.import_module(found.name)).items():
            for key, each in value.items() if isinstance(value, dict) else [(None, value)]:
                if isinstance(each, re.Pattern):
                    full = f"{found.name}.{name}" + (f".{key}" if key else "")
                    if full not in OURS:
                        yield pytest.param(full, each, id=full)


def beginnings(pattern):
    """Return the literal words in a pattern: what an attack puts before the long part."""
    text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode()
    words = re.findall(r"(?<!\\)[a-z<:-]{2,}", text)
    return ["", *dict.fromkeys(words[:6]), *(f"{word}: " for word in words[:3])]


def cost(name, pattern, attack):
    started = time.process_time()
    pattern.match(attack)
    if name not in MATCHED:  # at the beginning of a text alone
        pattern.sub("" if isinstance(attack, str) else b"", attack)
    return time.process_time() - started


@pytest.mark.parametrize(("name", "pattern"), list(patterns()))
def test_no_input_costs_the_square_of_its_length(name, pattern):
    length = SHORT.get(name, LENGTH)
    for head in beginnings(pattern):
        for piece in PIECES:
            for text in (head + piece * length, (head + piece * 30) * 99)[: 1 + bool(head)]:
                attack = text[: length - 1] + "\0"
                if isinstance(pattern.pattern, bytes):
                    attack = attack.encode("utf-8", "replace")
                taken = cost(name, pattern, attack)
                if taken >= SECONDS:  # a machine that does much else has slow moments
                    taken = cost(name, pattern, attack)
                assert taken < SECONDS, f"{name}: {head!r} + {piece!r} …: {taken:.1f} s"
