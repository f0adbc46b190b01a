"""Undo what hides words from filters but not from readers.

Compatibility forms, invisible and stacked characters, look-alike letters of other scripts,
accents that no language writes, text turned around, letters set apart, digits for letters.
Honest text in any language comes out as it went in: each rule asks first whether a language,
a name or a piece of code would be written so.
"""

import re
import unicodedata

SUSPICIOUS_RUNS = 2  # disguised words before it is noted: one may be an accident
MAX_TURNED_CHARS = 400  # of one right-to-left override; a phrase

# Letters that look like a Latin one (Unicode TR39, confusables.txt: the single-letter ones seen
# in mail, and those of small fonts made of phonetic letters). Only ever applied to words that
# are otherwise Latin.
_LOOK_ALIKES = str.maketrans(
    "АВЕКМНОРСТУХЅІЈԌԜҮаеорсухѕіјһԁԛԝвктмнпгѡҽѵ"  # Cyrillic
    "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧϹαονρτυχικγηως"  # Greek
    "ՕՏԼսոցօհյզք"  # Armenian
    "ᎪᏴᏟᎠᎬᎻᎫᏦᏞᎷᎢᏢᏒᏚᏙᎳᏃᏀ"  # Cherokee
    "ꓐꓑꓓꓔꓖꓗꓙꓚꓜꓝꓟꓠꓡꓢꓣꓦꓧꓪꓫꓬꓮꓰꓲꓳꓴ"  # Lisu
    "ɑɡɩɪɴʀʏʙʜʟɢɯʋꜰꜱᴀᴄᴅᴇᴊᴋᴍᴏᴘᴛᴜᴠᴡᴢןӏ",  # phonetic letters and small capitals
    "ABEKMHOPCTYXSIJGWYaeopcyxsijhdqwBKTMHnrwev"
    "ABEZHIKMNOPTYXCaovptuxikynwc"
    "OSLungohjqp"
    "ABCDEHJKLMTPRSVWZG"
    "BPDTGKJCZFMNLSRVHWXYAEIOU"
    "agiinrybhlgmufsacdejkmoptuvwzil",
)
_TO_CYRILLIC = str.maketrans("aeopcyxiABEKMHOPCTYX", "аеорсухіАВЕКМНОРСТУХ")
_CYRILLIC = re.compile("[\u0400-\u04ff]")
# Negative circled and squared letters have no compatibility form in Unicode.
_ENCLOSED = {
    start + n: chr(65 + n) for start in (0x1F150, 0x1F170) for n in range(26)
}  # fmt: skip
# Mathematical and enclosed letters, which stand for plain ones.
_STYLED = re.compile("[\U0001d400-\U0001d7ff\u249c-\u24e9\U0001f130-\U0001f189]")
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffc\U000e0000-\U000e0fff]+"
)
# Between two letters nobody needs them in these scripts; a soft hyphen is honest there.
_SPLIT_WORD = re.compile(
    "(?<=[A-Za-z\u00c0-\u024f\u0400-\u04ff])[\u200b-\u200f\u2060-\u2064\ufeff\u034f\u180e]+"
    "(?=[A-Za-z\u00c0-\u024f\u0400-\u04ff])"
)
# Latin text between a right-to-left override and its end is read backwards (Unicode UAX 9).
_TURNED = re.compile(
    f"\u202e([^\n\u202a-\u202e\u0590-\u08ff]{{1,{MAX_TURNED_CHARS}}})(?:\u202c|$)", re.MULTILINE
)
_MARKS = "\u0300-\u036f\u20d0-\u20df\u20e1-\u20ff"
_MARK = re.compile("[\u0300-\u036f\u0488\u0489\u20d0-\u20ff]")
# Marks that composition left over: no letter of a language has them.
_STACKED = re.compile(f"(?<=[A-Za-z\u00c0-\u024f\u1e00-\u1eff{_MARKS}])[{_MARKS}]+")
_KEYCAP = re.compile("(?<=[0-9#*])\u20e3")
_ANY_MARK = re.compile(f"(?<=[A-Za-z\u00c0-\u024f\u0370-\u04ff\u1e00-\u1eff{_MARKS}])[{_MARKS}]+")
_STROKES = re.compile("(?<=[\u0370-\u04ff])[\u0334-\u0338\u0488\u0489\u20d0-\u20ff]+")
_FOREIGN_LETTERS = re.compile(
    "[\u0251-\u02af\u0370-\u03ff\u0400-\u052f\u0531-\u0587\u05df\u13a0-\u13f5\u1d00-\u1d22"
    "\ua4d0-\ua4f7\ua730\ua731]"
)
_LATIN = re.compile("[A-Za-z]")
_FOREIGN_WORD = re.compile(rf"(?<![^\W\d_])(?:{_FOREIGN_LETTERS.pattern})+(?![^\W\d_])")
_ONLY_CYRILLIC = re.compile("[бвгджзийклмнптфцчшщъыьэюяєїґ]", re.IGNORECASE)
_ONLY_LATIN = re.compile("[bdfghjklmnqrstuvwz]", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")
_CYRILLIC_OR_GREEK_ONLY = re.compile(r"[\u0370-\u03ff\u0400-\u052f]+")
# Letters set apart: "V I A G R A", "F-R-E-E"; four or more single letters in a row.
_LETTER = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u017f\u0400-\u04ff"
_SPACED = re.compile(rf"(?<![^\W_])(?:[{_LETTER}](?:[ .\-_*]|  )){{3,}}[{_LETTER}](?![^\W_])")
_LEET_WORD = re.compile(r"(?<![\w@$./-])[A-Za-z][A-Za-z]*(?:[013457@$!|][A-Za-z]+)+(?![\w@$./-])")
_BLANK = re.compile(r"\s")
_LEET_CLASSES = bytes(
    ord("1") if chr(c) in "013457@$!|" else ord("a" if chr(c).isalpha() and c < 128 else " ")
    for c in range(256)
)
_SPACED_CLASSES = bytes(
    ord("s") if chr(c) in " .-_*" else ord("a" if chr(c).isalpha() or chr(c) == "?" else "o")
    for c in range(256)
)
_LEET = str.maketrans("013457@$!|", "oieastasil")


def undisguise(text: str) -> tuple[str, int]:
    """Return the plain text, and how many words were disguised on purpose.

    The count is a guess, and errs on the low side.
    """
    if text.isascii():
        return _undisguise_ascii(text, 0)
    text, count = _TURNED.subn(lambda match: match.group(1)[::-1], text)
    count += len(_SPLIT_WORD.findall(text))
    text = _INVISIBLE.sub("", text)
    if len(_STYLED.findall(text, 0, 2000)) > 3:
        count += SUSPICIOUS_RUNS
        text = text.translate(_ENCLOSED)
    text, stacked = _compose(text)
    count += stacked
    if _FOREIGN_LETTERS.search(text):
        text, look_alikes = _undo_look_alikes(text)
        count += look_alikes
    if "ı" in text and not _TURKISH.search(text):
        dotless = [word for word in _WORD.findall(text) if "ı" in word]
        strange = sum(bool(_NO_TURKISH_WORD.search(word)) for word in dotless)
        if 2 * strange > len(dotless):
            text = text.replace("ı", "i")
            count += strange
    text, accented = _undo_accents(text)
    return _undisguise_ascii(text, count + accented)


def _compose(text: str) -> tuple[str, int]:
    """Apply compatibility forms (NFKC); drop marks that no language puts on a letter.

    Where there are such marks, those that happen to make a known letter are disguise too.
    """
    composed = unicodedata.normalize("NFKC", text)
    if not _MARK.search(composed):
        return composed, 0
    composed = _KEYCAP.sub("", composed)
    stacked = len(_STACKED.findall(composed)) + len(_STROKES.findall(composed))
    if not stacked:
        return composed, 0
    if stacked >= SUSPICIOUS_RUNS:
        composed = unicodedata.normalize("NFKC", _ANY_MARK.sub("", text))
    return _STROKES.sub("", _STACKED.sub("", composed)), stacked


# -- letters of other scripts --------------------------------------------------------------------


def _undo_look_alikes(text: str) -> tuple[str, int]:
    """First words of two scripts, then words that have only look-alikes, if they stand alone."""
    is_cyrillic = len(_ONLY_CYRILLIC.findall(text)) > len(_ONLY_LATIN.findall(text))
    count = 0

    def mixed(match: re.Match[str]) -> str:
        nonlocal count
        word = match.group()
        if len(word) < 2 or not _FOREIGN_LETTERS.search(word) or not _LATIN.search(word):
            return word
        if is_cyrillic and (cyrillic := _as_cyrillic(word)):
            count += 1
            return cyrillic
        mapped = word.translate(_LOOK_ALIKES)
        if len(word) > 2 and mapped.isascii():
            count += 1
        elif len(word) > 3:  # "kΩ", "μm" are units
            count += bool(_CYRILLIC_OR_GREEK_ONLY.search(word))
        else:
            return word
        return mapped

    def alone(match: re.Match[str]) -> str:
        nonlocal count
        mapped = match.group().translate(_LOOK_ALIKES)
        if len(mapped) < 2 or not mapped.isascii():
            return match.group()
        count += 1
        return mapped

    text = _WORD.sub(mixed, text)
    words = _FOREIGN_WORD.findall(text)
    # "για Moss & Saffron": where real words of the script stand, "για" is one too.
    mappable = sum(word.translate(_LOOK_ALIKES).isascii() for word in words)
    if 2 * mappable > len(words) and len(_LATIN.findall(text)) > 3 * len(words):
        text = _FOREIGN_WORD.sub(alone, text)
    return text, count


def _as_cyrillic(word: str) -> str:
    """Return a Cyrillic word without its Latin look-alikes, or "" where it is not one."""
    whole = word.translate(_TO_CYRILLIC)
    own = len(_CYRILLIC.findall(word))
    return whole if 2 * own >= len(word) and len(_CYRILLIC.findall(whole)) == len(whole) else ""


# -- accents -------------------------------------------------------------------------------------

# Accented letters of the languages that write more than one letter in ten with an accent.
# Text as dense with others ("clìçk hérë tö cönfîrm") is nobody's language.
_DENSE = tuple(
    map(
        frozenset,
        (
            "áčďéěíňóřšťúůýžäľĺôŕ",  # Czech, Slovak
            "ąćęłńóśźż",  # Polish
            "áéíóöőúüű",  # Hungarian
            "çğıöşüâîû",  # Turkish, Azerbaijani
            "ąčęėįšųūžāēģīķļņō",  # Lithuanian, Latvian
            "áæðéíóöúýþø",  # Icelandic, Faroese
            "ăâîșțşţ",  # Romanian
            "àâæçéèêëîïôœùûü",  # French
            "áàâãçéêíóôõúü",  # Portuguese
            "äöüßåæøõé",  # German, Nordic, Estonian
            "čćđšžáéěňřďľ",  # South Slavic
            "àèéìíòóùúïç",  # Italian, Catalan
            "áéíñóúü",  # Spanish
            "āčēėģīķļņōūšž",
        ),
    )
)
_TURKISH = re.compile("[ğşçöüâəĞŞÇÖÜİƏ]")
_NO_TURKISH_WORD = re.compile("[eiqwxEQWX]")  # vowel harmony: "frıend", "wıthin"
_MIN_ACCENTED = 8
_DENSITY = 0.08  # of all Latin letters
_LETTERS_SHARE = 0.6  # of a text at least; the rest are blanks, digits and signs
_STRANGE = 0.25  # of the accented letters, outside the language that explains most of them
_ACCENTED = re.compile("[\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u017f]")
_LOWER_WORD = re.compile(r"(?<![^\W_])(?![A-Z\u00c0-\u00de\u0110\u0141\u0160\u017d])[^\W\d_]+")
_VIETNAMESE = re.compile("[\u01a0\u01a1\u01af\u01b0\u1ea0-\u1ef9]")


def _undo_accents(text: str) -> tuple[str, int]:
    """Drop accents where they are many and of no one language."""
    accented = _ACCENTED.findall(text)
    if len(accented) < max(_MIN_ACCENTED, _DENSITY * _LETTERS_SHARE * len(text)):
        return text, 0
    plain = len(_LATIN.findall(text))
    if not len(accented) < plain < len(accented) / _DENSITY or _is_mojibake(text):
        return text, 0
    if len(_VIETNAMESE.findall(text)) * 5 > len(accented):
        return text, 0
    # Names may come from anywhere.
    letters = [c for word in _LOWER_WORD.findall(text) for c in _ACCENTED.findall(word.lower())]
    if len(letters) < _MIN_ACCENTED:
        return text, 0
    explained = max(sum(c in alphabet for c in letters) for alphabet in _DENSE)
    if len(letters) - explained < _STRANGE * len(letters):
        return text, 0
    bare = "".join(c for c in unicodedata.normalize("NFD", text) if not "\u0300" <= c <= "\u036f")
    return unicodedata.normalize("NFC", bare), SUSPICIOUS_RUNS


def _is_mojibake(text: str) -> bool:
    """Whether it is UTF-8 read as Latin-1: "Ã©" for "é"."""
    return len(re.findall("[\u00c2-\u00f4][\u0080-\u00bf\u0152-\u0178\u2010-\u2122]", text)) > 2


# -- digits and blanks ---------------------------------------------------------------------------


def _undisguise_ascii(text: str, count: int) -> tuple[str, int]:
    if _may_be_spaced(text):
        text, spaced = _SPACED.subn(_joined, text)
        count += spaced
    # The pattern may begin at any letter: it is tried on those words alone that may be such.
    classes = text.encode("ascii", "replace").translate(_LEET_CLASSES)
    kept, done = [], 0
    place = classes.find(b"a1a")
    while place >= 0:
        start = max(text.rfind(" ", done, place) + 1, text.rfind("\n", done, place) + 1, done)
        end = blank.start() if (blank := _BLANK.search(text, place)) else len(text)
        word = text[start:end]
        plain = _LEET_WORD.sub(_without_digits, word)
        count += sum(_without_digits(m) != m.group() for m in _LEET_WORD.finditer(word))
        kept += [text[done:start], plain]
        done = end
        place = classes.find(b"a1a", end)
    return "".join([*kept, text[done:]]) if kept else text, count


def _may_be_spaced(text: str) -> bool:
    """Whether letters and separators alternate somewhere; "?" stands for what is not ASCII."""
    classes = text.encode("ascii", "replace").translate(_SPACED_CLASSES)
    return b"asasasa" in classes.replace(b"ss", b"s")


def _joined(match: re.Match[str]) -> str:
    return re.sub(r"[\W_]", "", match.group())


def _without_digits(match: re.Match[str]) -> str:
    word = match.group()
    letters = sum(c.isalpha() for c in word)
    is_one_case = word.islower() or word.isupper() or word.istitle() or word[1:].islower()
    if letters < 3 or len(word) > 20 or letters * 10 < len(word) * 6 or not is_one_case:
        return word
    return word.translate(_LEET)
