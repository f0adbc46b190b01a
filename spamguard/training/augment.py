"""Small changes to training texts, so that the model does not lean on what is not the intent.

Stripping notes: public text-only corpora have no header, so "there is a From line" must not be
a clue. Cropping: spam hides behind a preamble. Disguise: what `model_input.undisguise` cannot
undo. All draws come from the generator that is passed in.
"""

import numpy as np

_LEET = str.maketrans("aeioslt", "4310511")
_NOTES = ("links to", "replies go to", "attached", "hidden text", "disguised", "link text")


def augment(text: str, is_spam: bool, share: float, generator: np.random.Generator) -> str:  # noqa: FBT001
    """Return the text, changed with probability ``share``; at most one change of each kind.

    Disguise comes three times as often in spam, as in life, and in ham too: an accent lost or a
    digit typed for a letter must not make a message spam.
    """
    if generator.random() >= share:
        return text
    draw = generator.random()
    if draw < 0.45:
        return _without_notes(text, generator)
    if draw < 0.65:
        return _cropped(text, generator)
    if draw < 0.8 or is_spam:
        return _disguised(text, generator)
    return text


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


def _disguised(text: str, generator: np.random.Generator) -> str:
    """Misspell one word in eight: a swap, a digit for a letter, a dot or a blank inside."""
    words = text.split(" ")
    for position, word in enumerate(words):
        if len(word) < 4 or not word.isalpha() or generator.random() > 0.125:
            continue
        at = int(generator.integers(1, len(word) - 1))
        match int(generator.integers(0, 4)):
            case 0:
                words[position] = word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]
            case 1:
                words[position] = word.translate(_LEET)
            case 2:
                words[position] = f"{word[:at]}.{word[at:]}"
            case _:
                words[position] = f"{word[:at]} {word[at:]}"
    return " ".join(words)
