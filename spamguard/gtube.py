"""GTUBE: the 68 bytes that every spam filter calls spam, so that one can be tested without spam.

The string is SpamAssassin's (https://spamassassin.apache.org/gtube/). Not a rule of the model: a
message that has it on a line of its own scores 1. Quoted ("> …") or amid a sentence it is mail
about GTUBE, and judged as any other.
"""

GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*" + "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
REASON = "gtube"


def has_gtube(text: str) -> bool:
    """Whether a line of the text is the string, exactly, but for blanks around it."""
    return GTUBE in text and any(line.strip() == GTUBE for line in text.splitlines())
