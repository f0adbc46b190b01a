"""Small changes to training texts, so that the model does not lean on what is not the intent.

Stripping notes: public text-only corpora have no header, so "there is a From line" must not be
a clue. Cropping: spam hides behind a preamble. Disguise: what `disguise.undisguise` cannot undo,
and the notes that it and `html` leave. Honest words before or behind the text, and a picture
for all of it: what no normalisation takes away. All draws come from the generator that is
passed in, and each change costs microseconds.
"""

from collections.abc import Sequence

import numpy as np

_LEET = str.maketrans("aeioslt", "4310511")
_ACCENTS = {
    "a": "àáâãäå", "c": "çć", "e": "èéêë", "i": "ìíîï", "n": "ñń", "o": "òóôõö", "s": "šś",
    "u": "ùúûü", "y": "ýÿ", "z": "žż",
}  # fmt: skip
_NOTES = (
    "links to", "replies go to", "attached", "invisible filler", "disguised", "link text",
    "name shows",
)  # fmt: skip
_DISGUISED_SHARES = (0.125, 0.125, 0.3, 0.6)  # of the words
_FILLER_WORDS = (40, 160)  # honest words put before or behind: what the window can hold


def augment(
    text: str,
    is_spam: bool,  # noqa: FBT001
    share: float,
    generator: np.random.Generator,
    honest: Sequence[str] = (),
) -> str:
    """Return the text, changed with probability ``share``; one change a message.

    Disguise comes three times as often in spam, as in life, and in ham too: an accent lost, a
    digit typed for a letter, a second topic or a picture must not make a message spam.

    Args:
        text: a model input.
        is_spam: its label.
        share: of the messages that are changed.
        generator: of all draws.
        honest: model inputs of ham, for honest words; none leaves that change out.
    """
    if generator.random() >= share:
        return text
    draw = generator.random()
    if draw < 0.4:
        return _without_notes(text, generator)
    if draw < 0.55:
        return _cropped(text, generator)
    if draw < 0.6:
        return _head(text)[0]  # a picture: nothing to read but who writes and where links go
    if draw < 0.72 and honest:
        return _among_honest_words(text, honest, generator)
    if is_spam and draw < 0.78:
        return _noted(text, "invisible filler")
    if is_spam or draw < 0.86:
        return _disguised(text, generator)
    return text


def _head(text: str) -> tuple[str, str]:
    """Split into the lines that are no body (Subject, sender, notes) and the body."""
    lines = text.split("\n")
    end = 1
    if len(lines) > end and lines[end].endswith(")"):
        end += 1
    if len(lines) > end and lines[end].startswith(_NOTES):
        end += 1
    return "\n".join(lines[:end]), "\n".join(lines[end:])


def _noted(text: str, note: str) -> str:
    """Add a note where `model_input` would write it."""
    head, body = _head(text)
    last = head.rpartition("\n")[2]
    joint = "; " if "\n" in head and last.startswith(_NOTES) else "\n"
    return f"{head}{joint}{note}\n{body}"


def _without_notes(text: str, generator: np.random.Generator) -> str:
    """Drop the notes, and half the time the line that names the sender too."""
    subject, *rest = text.split("\n")
    kept = [line for line in rest if not line.startswith(_NOTES)]
    if kept and kept[0].endswith(")") and generator.random() < 0.5:
        kept = kept[1:]
    return "\n".join([subject, *kept])


def _cropped(text: str, generator: np.random.Generator) -> str:
    """Start the body later, as if the message were a window further down."""
    if len(text) < 300:
        return text
    start = int(generator.integers(50, len(text) // 2))
    subject = text.partition("\n")[0]
    return f"{subject}\n{text[start:].partition(' ')[2]}"


def _among_honest_words(text: str, honest: Sequence[str], generator: np.random.Generator) -> str:
    """Put words of an honest body before the text or behind it."""
    words = _head(honest[int(generator.integers(0, len(honest)))])[1].split()
    count = int(generator.integers(*_FILLER_WORDS))
    start = int(generator.integers(0, max(1, len(words) - count)))
    filler = " ".join(words[start : start + count])
    head, body = _head(text)
    parts = (filler, body) if generator.random() < 0.5 else (body, filler)
    return "\n".join([head, *parts])


def _disguised(text: str, generator: np.random.Generator) -> str:
    """Misspell one word in eight or more: a swap, digits, accents, a dot or a blank inside."""
    share = _DISGUISED_SHARES[int(generator.integers(0, len(_DISGUISED_SHARES)))]
    words = text.split(" ")
    is_noted = generator.random() < share
    for position, word in enumerate(words):
        if len(word) < 4 or not word.isalpha() or generator.random() > share:
            continue
        at = int(generator.integers(1, len(word) - 1))
        match int(generator.integers(0, 5)):
            case 0:
                words[position] = word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]
            case 1:
                words[position] = word.translate(_LEET)
            case 2:
                words[position] = f"{word[:at]}.{word[at:]}"
            case 3:
                words[position] = _accented(word, generator)
            case _:
                words[position] = f"{word[:at]} {word[at:]}"
    changed = " ".join(words)
    return _noted(changed, "disguised words") if is_noted else changed


def _accented(word: str, generator: np.random.Generator) -> str:
    return "".join(
        _ACCENTS[c][int(generator.integers(0, len(_ACCENTS[c])))]
        if c in _ACCENTS and generator.random() < 0.5
        else c
        for c in word
    )
