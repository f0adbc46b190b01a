"""A verdict on SpamAssassin's scale, for clients that compare points: 5 are spam, 3 unsure.

A label that a list or a campaign overruled keeps to its own stretch of the scale, so that no
client's comparison contradicts the verdict. Our own fields and API say the probability instead.
"""

from spamguard.verdict import Label, Verdict

SPAM_POINTS = 5.0
UNSURE_POINTS = 3.0
# From and to, in tenths; each label's next begins above.
_STRETCHES = {
    Label.HAM: (0.0, 2.9),
    Label.UNSURE: (UNSURE_POINTS, 4.9),
    Label.SPAM: (SPAM_POINTS, 10.0),
}


def points_of(verdict: Verdict) -> float:
    """Return 0.0 to 10.0, in tenths: within the label's stretch by probability."""
    if verdict.label is Label.UNSCORED:
        return 0.0
    low, high = _STRETCHES[verdict.label]
    return round(low + (high - low) * (verdict.spam_probability or 0.0), 1)
