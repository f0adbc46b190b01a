"""Which character sets mail may name, and what Python calls them.

A sender writes into ``charset=`` what he likes, and Python's registry of codecs is no place to
ask for it. It knows codecs that are no character sets, under any spelling ("-punycode"): some
cost the square of their input, some give lone surrogates, which no tokenizer and no database
takes. And it remembers every name that it was ever asked for, found or not.
"""

import encodings
import pkgutil
from encodings.aliases import aliases

_NO_CHARSETS = frozenset(
    "aliases base64_codec bz2_codec charmap hex_codec idna mbcs oem punycode quopri_codec"
    " raw_unicode_escape rot_13 undefined unicode_escape utf_7 uu_codec zlib_codec".split()
)
_CODECS = frozenset(found.name for found in pkgutil.iter_modules(encodings.__path__)) - _NO_CHARSETS
# GB2312 is declared for what is GBK in practice; GB18030 reads both.
_WIDER = {"gb2312": "gb18030", "gbk": "gb18030"}


def codec_of(charset: str) -> str:
    """Return the codec of a character set as mail names it, or "" where we read none such."""
    name = encodings.normalize_encoding(charset.lower())
    name = aliases.get(name) or aliases.get(name.replace(".", "_")) or name
    return _WIDER.get(name, name) if name in _CODECS else ""
