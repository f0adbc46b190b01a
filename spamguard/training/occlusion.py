"""Which words and links drove a score: occlusion.

A piece of the model input is left out and the message judged again; the change of the score's
log-odds is what the piece contributed (Zeiler and Fergus 2014, section 4.2, on text). It needs
nothing of the model but its answers, so it explains the calibrated sum of both classifiers as
the daemon runs it. What it does not see: pieces that say the same twice hide each other.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

MAX_WORDS = 160  # judged apart; the network's window is about as long
MAX_SHOWN_CHARS = 1200
MAX_LINKS = 6
_WORD = re.compile(r"\S+")
_LINKS = re.compile(r"links to ([^;\n]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A run of the text as it stands, and what it added to the log-odds of spam.

    Attributes:
        text: with the white space behind it.
        effect: positive for spam; 0 for what was not judged apart.
    """

    text: str
    effect: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One message's score taken apart.

    Attributes:
        pieces: the beginning of the model input, in order, whole.
        links: (domain, effect) of each domain that the notes name.
        log_odds: of the whole message.
        is_cut: whether the text goes on behind the pieces.
    """

    pieces: tuple[Piece, ...]
    links: tuple[tuple[str, float], ...]
    log_odds: float
    is_cut: bool


def explain(text: str, log_odds: Callable[[str], float]) -> Explanation:
    """Judge the text once whole and once without each of its first words and its links.

    Args:
        text: a model input.
        log_odds: judges a model input.
    """
    whole = log_odds(text)
    pieces: list[Piece] = []
    position = 0
    for number, word in enumerate(_WORD.finditer(text)):
        if number == MAX_WORDS or word.end() > MAX_SHOWN_CHARS:
            break
        if position < word.start():
            pieces.append(Piece(text=text[position : word.start()]))
        position = word.end()
        rest = text[: word.start()] + text[word.end() :]
        pieces.append(Piece(text=word.group(), effect=whole - log_odds(rest)))
    named = " ".join(_LINKS.findall(text[:MAX_SHOWN_CHARS])).split()
    links = [
        (domain, whole - log_odds(text.replace(domain, "")))
        for domain in list(dict.fromkeys(named))[:MAX_LINKS]
    ]
    return Explanation(
        pieces=tuple(pieces), links=tuple(links), log_odds=whole, is_cut=position < len(text)
    )
