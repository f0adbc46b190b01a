"""From a parsed message to the text the model reads: the ONE function for scoring and training.

What a careful reader would look at comes first, in few words, because the model's window is
short: subject, who claims to write and whether the addresses agree, where links go, what is
attached, whether something was disguised; then the visible text. What leaks the source of a
message and not its intent (dates, Received, recipients, message ids) never gets in.

Disguises are undone (`disguise.py`) and noted, so that the model sees both the word and the
fact that somebody hid it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from spamguard.disguise import SUSPICIOUS_RUNS, undisguise
from spamguard.html import GAP, plain_blanks, registered_domain
from spamguard.message import ParsedMessage, domain_of_address

MAX_TEXT_CHARS = 6000  # what any model of ours may look at; the BERT takes less
HEAD_CHARS = 4500  # of a longer text, its beginning …
TAIL_CHARS = MAX_TEXT_CHARS - HEAD_CHARS  # … and its end: calls to action, signatures
MAX_SOURCE_CHARS = 24_000  # normalised at most, so that the work is bounded
MAX_SUBJECT_CHARS = 200
MAX_NAME_CHARS = 60
MAX_DOMAINS = 3
MIN_PART_CHARS = 40  # a text of its own, far from the rest; less is a greeting or a page number
SHOWN_OF_PART_CHARS = 120  # about half of what the BERT reads


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInput:
    """What the classifiers read.

    Attributes:
        text: notes on the first lines, then the normalised body; at most `MAX_TEXT_CHARS`
            and the few hundred characters of the notes.
        fingerprint: the message's, see `message.fingerprint_of`.
        truncated: whether the message's text was longer than what is in `text`.
    """

    text: str
    fingerprint: str
    truncated: bool


def build_model_input(message: ParsedMessage) -> ModelInput:
    """Render what the model reads of a message. Pure and bounded."""
    subject, subject_disguised = undisguise(message.header("subject")[:MAX_SUBJECT_CHARS])
    body, body_disguised = undisguise(_each_part(_visible_text(message)))
    body = _shorten_addresses(body)
    from_name, from_address = message.address("from")
    from_name, name_disguised = undisguise(from_name[:MAX_NAME_CHARS])
    notes = _notes(message, from_name, from_address)
    if subject_disguised + body_disguised + name_disguised >= SUSPICIOUS_RUNS:
        notes.append("disguised words")
    domain = _shown_domain(from_address)
    sender = f"{from_name} ({domain})" if domain else from_name
    lines = [_one_line(subject), _one_line(sender), "; ".join(notes), _head_and_tail(body)]
    return ModelInput(
        text="\n".join(line for line in lines if line),
        fingerprint=message.fingerprint,
        truncated=message.truncated or len(body) > MAX_TEXT_CHARS,
    )


def _visible_text(message: ParsedMessage) -> str:
    """What the reader sees: the HTML where there is some, else the plain text."""
    text = message.html_text or message.text
    if len(text) > MAX_SOURCE_CHARS:
        half = MAX_SOURCE_CHARS // 2
        text = f"{text[:half]}\n{text[-half:]}"
    return text


def _each_part(text: str) -> str:
    """Show the beginning of each text, where several stand too far apart to be read together.

    One of them may be there for filters alone. Which, is for the model to say: honest mail has
    such gaps too (a mail service's advertisement far below), so nothing is concluded from them.
    """
    parts = [part.strip() for part in (text.split(GAP) if GAP in text else _FAR.split(text))]
    texts = [part for part in parts if len(part) >= MIN_PART_CHARS]
    if len(texts) < 2:
        return text.replace(GAP, "\n")
    shortest = min(map(len, texts))
    return "\n".join(part[: max(shortest, SHOWN_OF_PART_CHARS)] for part in parts)


def _notes(message: ParsedMessage, from_name: str, from_address: str) -> list[str]:
    """What the header and the links say about who really writes, in words."""
    notes = []
    sender_domain = registered_domain(domain_of_address(from_address))
    reply_domain = registered_domain(domain_of_address(message.address("reply-to")[1]))
    if reply_domain and sender_domain and reply_domain != sender_domain:
        notes.append(f"replies go to {reply_domain[:40]}")
    claimed = _ADDRESS.search(from_name)
    if claimed and registered_domain(claimed.group(2).lower()) != sender_domain:
        notes.append("name shows another address")
    if any(link.is_mismatch for link in message.links):
        notes.append("link text shows another domain")
    domains = dict.fromkeys(registered_domain(link.domain) for link in message.links)
    foreign = [_short(domain) for domain in domains if domain and domain != sender_domain]
    if foreign:
        notes.append("links to " + " ".join(foreign[:MAX_DOMAINS]))
    if sender_domain in domains:
        notes.append("links to sender")
    if message.attachment_types:
        notes.append("attached " + " ".join(message.attachment_types[:MAX_DOMAINS]))
    if message.hidden_text:
        notes.append("invisible filler")
    return notes


def _shown_domain(address: str) -> str:
    return _short(registered_domain(domain_of_address(address)))


def _short(domain: str) -> str:
    """Keep the end of an overlong domain: the registered part is there."""
    return domain[-40:]


# -- text ------------------------------------------------------------------------------------

_FAR = re.compile(r"\n(?:[ \t\xa0>]*+\r?\n){19,}+")
_ADDRESS = re.compile(
    r"(?<![\w.+-])([\w.+-]{1,64}+)@((?:[\w-]{1,63}\.)+[a-z]{2,18})", re.IGNORECASE
)
_URL = re.compile(r"(?:https?://|www\.)([^\s/<>\"')\]?#:]{3,253})[^\s<>\"')\]]*", re.IGNORECASE)
_URL_MARKS = ("://", "w.", "W.")
_LOCAL_PART = re.compile(r"[\w.+-]*+")
_LONG_NUMBER = re.compile(r"\d(?:[\d.,/-]*\d){4,}")
_LONG_RUN = re.compile(r"([^\w\s])\1{3,}")  # rulers: ---- ==== ****
_LONG_WORD = re.compile(r"\S{60,}")  # base64, keys, tracking tokens
# White space in the sense of \s but for the blank and the line feed.
_OTHER_BLANKS = (
    "\t\v\f\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
_ASCII_BLANKS = _OTHER_BLANKS[:8]


def _shorten_addresses(text: str) -> str:
    """Replace what costs many tokens and says little: URL paths, local parts, long numbers."""
    text = _without_urls(text)
    text = _without_local_parts(text)
    ascii_text = text.encode("ascii", "replace")
    if has_numbers := b"00000" in ascii_text.translate(_AS_ZEROS, b".,/-"):
        text = _LONG_NUMBER.sub("####", text)
    if has_numbers or _may_have_long_run(ascii_text):  # "####" is a run too
        text = _LONG_RUN.sub(r"\1\1\1", text)
    if _may_have_long_word(ascii_text):
        text = _LONG_WORD.sub("…", text)
    return plain_blanks(text, _ASCII_BLANKS if text.isascii() else _OTHER_BLANKS).strip()


# These patterns may begin at any character, and trying them there was most of the time a message
# took. So each is tried only around what it must have, or where there may be such a thing at all:
# that is found at once. In "ASCII text" a "?" stands for every other character.

_AS_ZEROS = bytes(ord("0") if chr(c) in "0123456789?" else c for c in range(256))
_IS_SIGN = np.array([33 <= c < 127 and not (chr(c).isalnum() or c == 95) for c in range(256)])
_IS_BLANK = np.array([c < 128 and chr(c).isspace() for c in range(256)])  # no other control
_LONG_WORD_CHARS = 60


def _may_have_long_run(ascii_text: bytes) -> bool:
    codes = np.frombuffer(ascii_text, np.uint8)
    same = codes[1:] == codes[:-1]
    thrice = np.flatnonzero(same[1:] & same[:-1])
    return bool(_IS_SIGN[codes[thrice]].any())


def _may_have_long_word(ascii_text: bytes) -> bool:
    blanks = np.flatnonzero(_IS_BLANK[np.frombuffer(ascii_text, np.uint8)])
    edges = np.concatenate(([-1], blanks, [len(ascii_text)]))
    return bool((edges[1:] - edges[:-1]).max() > _LONG_WORD_CHARS)


def _without_urls(text: str) -> str:
    """Leave the registered domain of each URL."""
    kept, done = [], 0
    for place in sorted(place for mark in _URL_MARKS for place in _places(text, mark)):
        # "https", "http" or "ww"
        for start in (place - 5, place - 4) if text[place] == ":" else (place - 2,):
            if start >= done and (matched := _URL.match(text, start)):
                domain = registered_domain(matched.group(1).lower().strip("."))[-40:]
                kept += [text[done:start], " ", domain, " "]
                done = matched.end()
                break
    return "".join([*kept, text[done:]]) if kept else text


def _places(text: str, mark: str) -> Iterator[int]:
    place = text.find(mark)
    while place >= 0:
        yield place
        place = text.find(mark, place + 1)


def _without_local_parts(text: str) -> str:
    """Leave the registered domain of each mail address, behind its "@"."""
    kept, done = [], 0
    place = text.find("@")
    while place >= 0:
        before = _LOCAL_PART.match(text[max(done, place - 65) : place][::-1])
        start = place - before.end() if before else place
        if matched := _ADDRESS.match(text, start):
            kept += [text[done:start], "@", registered_domain(matched.group(2).lower())[-40:]]
            done = matched.end()
        place = text.find("@", max(done, place + 1))
    return "".join([*kept, text[done:]]) if kept else text


def _head_and_tail(text: str) -> str:
    if len(text) <= MAX_TEXT_CHARS:
        return text
    return f"{text[:HEAD_CHARS]}\n…\n{text[-TAIL_CHARS:]}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
