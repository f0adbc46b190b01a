"""Campaigns that users have just reported: judged by their word until the next retraining.

A message near to a correction that counts gets that correction's label. One reporter makes a
campaign unsure, two make it spam: nobody can hold other people's mail alone. One reporter's
"ham" is enough, but for mail of the same From domain alone. Ham wins over spam. Nothing is
learned here; a correction loses this effect after a week, when a model has learned it or not.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spamguard.campaign import nearest
from spamguard.database import open_database
from spamguard.feedback.corrections import CorrectionStore
from spamguard.feedback.trust import Correction
from spamguard.message import domain_of_address
from spamguard.report import Standing
from spamguard.verdict import Label, Score

EFFECT_DAYS = 7
MAX_CORRECTIONS = 5000  # the newest; a look-up costs 20 microseconds then
REPORTERS_FOR_SPAM = 2
_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class _Side:
    """The corrections of one label: simhashes beside their rows, and fingerprints."""

    rows: tuple[Correction, ...]
    simhashes: npt.NDArray[np.uint64]
    by_fingerprint: dict[str, Correction]

    @classmethod
    def of(cls, rows: Sequence[Correction]) -> "_Side":
        hashed = tuple(row for row in rows if row.simhash)
        values = np.array([int(row.simhash, 16) for row in hashed], dtype=np.uint64)
        return cls(hashed, values, {row.fingerprint: row for row in rows})

    def find(self, score: Score) -> Correction | None:
        if exact := self.by_fingerprint.get(score.fingerprint):
            return exact
        if score.simhash is None:
            return None
        found = nearest(score.simhash, self.simhashes)
        return None if found is None else self.rows[found]


class RecentCampaigns:
    """Looks messages up among the corrections of the last days.

    Args:
        store: the record.
        database: its SQLite file.
        clock: seconds since the epoch.
    """

    def __init__(
        self, store: CorrectionStore, database: Path, *, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._database = database
        self._clock = clock
        self._seen: tuple[int, int, int] | None = None
        self._spam = self._ham = _Side.of(())
        self._reporters: dict[str, int] = {}

    def refresh(self) -> bool:
        """Read the record again if it has changed; blocking. Returns whether it had."""
        with open_database(self._database) as database:
            corrections, reviews = (
                database.execute(f"SELECT COALESCE(MAX(id), 0) FROM {table}").fetchone()[0]  # noqa: S608
                for table in ("corrections", "reviews")
            )
        state = (corrections, reviews, int(self._clock() // _DAY_SECONDS))
        if state == self._seen:
            return False
        rows, worth = self._store.all()
        after = self._clock() - EFFECT_DAYS * _DAY_SECONDS
        counted = [
            row
            for row in rows
            if row.reported_at >= after and worth[row.id][0] in {Standing.COUNTED, Standing.CAPPED}
        ][-MAX_CORRECTIONS:]
        reporters: dict[str, set[str]] = defaultdict(set)
        for row in counted:
            if row.label == Label.SPAM:
                reporters[row.campaign].add(row.reporter)
        self._reporters = {campaign: len(names) for campaign, names in reporters.items()}
        self._ham = _Side.of([row for row in counted if row.label == Label.HAM])
        self._spam = _Side.of([row for row in counted if row.label == Label.SPAM])
        self._seen = state
        return True

    def match(self, score: Score) -> tuple[Label, str] | None:
        """Return the label that users gave to the campaign of this message, and why."""
        ham = self._ham.find(score)
        if ham and score.from_domain == domain_of_address(ham.from_address):
            return Label.HAM, f"like reported ham, correction {ham.id}"
        spam = self._spam.find(score)
        if spam is None:
            return None
        count = self._reporters[spam.campaign]
        label = Label.SPAM if count >= REPORTERS_FOR_SPAM else Label.UNSURE
        return label, f"like reported spam, correction {spam.id}, reporters: {count}"
