"""From a parsed message to the text the model reads: the ONE function for scoring and training.

What a careful reader would look at comes first, in few words, because the model's window is
short: subject, who claims to write and whether the addresses agree, where links go, what is
attached, whether something was disguised; then the visible text. What leaks the source of a
message and not its intent (dates, Received, recipients, message ids) never gets in.

Disguises are undone (`undisguise`) and noted, so that the model sees both the word and the
fact that somebody hid it.
"""

import re
import unicodedata
from dataclasses import dataclass

from spamguard.html import registered_domain
from spamguard.message import ParsedMessage, domain_of_address

MAX_TEXT_CHARS = 6000  # what any model of ours may look at; the BERT takes less
HEAD_CHARS = 4500  # of a longer text, its beginning …
TAIL_CHARS = MAX_TEXT_CHARS - HEAD_CHARS  # … and its end: calls to action, signatures
MAX_SOURCE_CHARS = 24_000  # normalised at most, so that the work is bounded
MAX_SUBJECT_CHARS = 200
MAX_NAME_CHARS = 60
MAX_DOMAINS = 3
SUSPICIOUS_RUNS = 2  # disguised words before it is noted: one may be an accident


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
    body, body_disguised = undisguise(_visible_text(message))
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
        notes.append("hidden text")
    return notes


def _shown_domain(address: str) -> str:
    return _short(registered_domain(domain_of_address(address)))


def _short(domain: str) -> str:
    """Keep the end of an overlong domain: the registered part is there."""
    return domain[-40:]


# -- text ------------------------------------------------------------------------------------

_ADDRESS = re.compile(r"([\w.+-]{1,64})@((?:[\w-]{1,63}\.)+[a-z]{2,18})", re.IGNORECASE)
_URL = re.compile(r"(?:https?://|www\.)([^\s/<>\"')\]?#:]{3,253})[^\s<>\"')\]]*", re.IGNORECASE)
_LONG_NUMBER = re.compile(r"\d(?:[\d.,/-]*\d){4,}")
_LONG_RUN = re.compile(r"([^\w\s])\1{3,}")  # rulers: ---- ==== ****
_LONG_WORD = re.compile(r"\S{60,}")  # base64, keys, tracking tokens
_BLANKS = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" ?\n[ \n]*")


def _shorten_addresses(text: str) -> str:
    """Replace what costs many tokens and says little: URL paths, local parts, long numbers."""
    text = _URL.sub(lambda m: f" {registered_domain(m.group(1).lower().strip('.'))[-40:]} ", text)
    text = _ADDRESS.sub(lambda m: f"@{registered_domain(m.group(2).lower())[-40:]}", text)
    text = _LONG_NUMBER.sub("####", text)
    text = _LONG_RUN.sub(r"\1\1\1", text)
    text = _LONG_WORD.sub("…", text)
    return _LINES.sub("\n", _BLANKS.sub(" ", text)).strip()


def _head_and_tail(text: str) -> str:
    if len(text) <= MAX_TEXT_CHARS:
        return text
    return f"{text[:HEAD_CHARS]}\n…\n{text[-TAIL_CHARS:]}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


# -- disguises -------------------------------------------------------------------------------

# Letters of other scripts that look like a Latin one (Unicode TR39, confusables.txt: the
# single-letter ones seen in mail). Only ever applied to words that are otherwise Latin.
_LOOK_ALIKES = str.maketrans(
    "АВЕКМНОРСТУХЅІЈаеорсухѕіјһԁԛԝвктмнпгѡɑΑΒΕΖΗΙΚΜΝΟΡΤΥΧαονρτυχικɡıןӏᴠ",
    "ABEKMHOPCTYXSIJaeopcyxsijhdqwBKTMHnrwaABEZHIKMNOPTYXaovptuxikgilIv",
)
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffc\U000e0000-\U000e0fff]+"
)
# Between two letters nobody needs them in these scripts; a soft hyphen is honest there.
_SPLIT_WORD = re.compile(
    "(?<=[A-Za-z\u00c0-\u024f\u0400-\u04ff])[\u200b-\u200f\u2060-\u2064\ufeff\u034f\u180e]+"
    "(?=[A-Za-z\u00c0-\u024f\u0400-\u04ff])"
)
_STACKED = re.compile("(?<=[A-Za-z0-9\u0300-\u036f])[\u0300-\u036f\u0489\u20d0-\u20ff]+")
_FOREIGN_LETTERS = re.compile(r"[\u0370-\u03ff\u0400-\u052f\u0251\u0261\u0131\u05df\u1d20]")
_WORD = re.compile(r"[^\W\d_]+")
_CYRILLIC_OR_GREEK_ONLY = re.compile(r"[\u0370-\u03ff\u0400-\u052f]+")
# Letters set apart: "V I A G R A", "F-R-E-E"; four or more single letters in a row.
_SPACED = re.compile(r"(?<![^\W_])(?:[A-Za-z](?:[ .\-_*]|  )){3,}[A-Za-z](?![^\W_])")
_LEET_WORD = re.compile(r"(?<![\w@$./-])[A-Za-z][A-Za-z]*(?:[013457@$!|][A-Za-z]+)+(?![\w@$./-])")
_LEET = str.maketrans("013457@$!|", "oieastasil")


def undisguise(text: str) -> tuple[str, int]:
    """Undo what hides words from filters but not from readers.

    Compatibility forms (NFKC), invisible and stacked characters, look-alike letters, letters
    set apart, digits for letters.

    Returns:
        The plain text, and how many words were disguised on purpose as far as one can tell.
    """
    if text.isascii():
        return _undisguise_ascii(text, 0)
    count = len(_SPLIT_WORD.findall(text))
    text = _INVISIBLE.sub("", text)
    composed = unicodedata.normalize("NFKC", text)
    if sum(map(_is_styled, text[:2000])) > 3:
        count += SUSPICIOUS_RUNS
    text, stacked = _STACKED.subn("", composed)
    count += stacked
    if _FOREIGN_LETTERS.search(text):
        text, look_alikes = _undo_look_alikes(text)
        count += look_alikes
    return _undisguise_ascii(text, count)


def _is_styled(character: str) -> bool:
    """Whether it is a mathematical or enclosed letter, which stands for a plain one."""
    return "\U0001d400" <= character <= "\U0001d7ff" or "\u249c" <= character <= "\u24e9"


def _undo_look_alikes(text: str) -> tuple[str, int]:
    latin = len(re.findall(r"[A-Za-z]", text))
    mostly_latin = latin > 3 * len(_CYRILLIC_OR_GREEK_ONLY.findall(text))
    count = 0

    def plain(match: re.Match[str]) -> str:
        nonlocal count
        word = match.group()
        if not _FOREIGN_LETTERS.search(word):
            return word
        mapped = word.translate(_LOOK_ALIKES)
        is_mixed = any("a" <= c.lower() <= "z" for c in word)
        if mapped.isascii() and (is_mixed or (mostly_latin and len(word) > 1)):
            count += 1
            return mapped
        if is_mixed:
            # Letters whose look-alike is not in the table: still not a word of one script.
            count += sum(not c.isascii() for c in word) > 0 and _is_two_scripts(word)
            return mapped
        return word

    return _WORD.sub(plain, text), count


def _is_two_scripts(word: str) -> bool:
    has_latin = any("a" <= c.lower() <= "z" for c in word)
    return has_latin and bool(_CYRILLIC_OR_GREEK_ONLY.search(word))


def _undisguise_ascii(text: str, count: int) -> tuple[str, int]:
    spaced = 0

    def join(match: re.Match[str]) -> str:
        nonlocal spaced
        spaced += 1
        return re.sub(r"[^A-Za-z]", "", match.group())

    def unleet(match: re.Match[str]) -> str:
        nonlocal count
        word = match.group()
        letters = sum(c.isalpha() for c in word)
        is_one_case = word.islower() or word.isupper() or word.istitle() or word[1:].islower()
        if letters < 3 or len(word) > 20 or letters * 10 < len(word) * 6 or not is_one_case:
            return word
        count += 1
        return word.translate(_LEET)

    text = _SPACED.sub(join, text)
    text = _LEET_WORD.sub(unleet, text)
    return text, count + spaced
