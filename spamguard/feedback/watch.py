"""After a promotion: whether the new version must go again. Pure.

The gate has judged it on mail of the past; this looks at what it does now. The bounds are wide:
a version that only differs stays, one that has gone mad is gone within a few hundred messages.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from spamguard.feedback.trust import Correction, Standings
from spamguard.report import Standing
from spamguard.verdict import Label

WATCHED_SECONDS = 3 * 86_400
MIN_MESSAGES = 200  # judged by the new version before shares are compared
MOST_FALSE_POSITIVES = 3  # corrections that rescue ham from the new version's "spam"
# How far shares may rise: this much of what they were, and this much besides.
_FACTOR, _SLACK = 1.5, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """One promotion under watch.

    Attributes:
        version: the new one.
        at: when, seconds since the epoch.
        unsure_share, spam_share: of the mail before it, 0 to 1, or None when unknown.
    """

    version: str
    at: float
    unsure_share: float | None
    spam_share: float | None


def verdict_on(
    promotion: Promotion,
    *,
    messages: int,
    unsure_share: float,
    spam_share: float,
    corrections: Iterable[Correction],
    standings: Standings,
) -> str:
    """Return why the version must be rolled back, or "".

    Args:
        promotion: what is watched.
        messages: judged by the new version.
        unsure_share: of them, 0 to 1.
        spam_share: likewise.
        corrections: the record.
        standings: what each is worth.
    """
    rescued = [
        c
        for c in corrections
        if c.model_version == promotion.version
        and c.predicted == Label.SPAM
        and c.label == Label.HAM
        and standings[c.id][0] in {Standing.COUNTED, Standing.CAPPED}
    ]
    if len({c.reporter for c in rescued}) > 1 and len(rescued) >= MOST_FALSE_POSITIVES:
        return f"{len(rescued)} corrections call its spam ham"
    if messages < MIN_MESSAGES:
        return ""
    for name, before, now in (
        ("unsure", promotion.unsure_share, unsure_share),
        ("spam", promotion.spam_share, spam_share),
    ):
        if before is not None and now > before * _FACTOR + _SLACK:
            return f"{name} rose from {before:.1%} to {now:.1%} of {messages} messages"
    return ""
