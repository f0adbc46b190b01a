"""Whether live mail has moved away from what the model was at home with.

Four signals, compared by the population stability index (PSI; Siddiqi 2006, "Credit Risk
Scorecards": below 0.1 nothing, from 0.25 a shift): the score's distribution, the share of
unsure verdicts (as part of it), the share of unknown tokens, and where the pooled embedding
lies, on eight fixed random directions (the last two of the mail that the BERT was asked about).
The reference is this site's own mail, the first
`REFERENCE_MESSAGES` that a version judged here: against the mix it was trained on every site
would look shifted on its first day.

Kept are counts per bin: nothing of a message's text.
"""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spamguard.database import open_database, write_transaction
from spamguard.message import Envelope
from spamguard.verdict import Label, Score, Verdict

REFERENCE_MESSAGES = 1000
WINDOW_MESSAGES = 2000  # live mail that is compared, the newest
MIN_MESSAGES = 300  # fewer in the window say nothing
WATCH, SHIFTED = 0.1, 0.25  # PSI
SCORE_BINS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999)
UNKNOWN_BINS = (0.0, 0.01, 0.03, 0.1)
# Half a standard deviation apart, in units of the reference's own spread.
_PROJECTION_BINS = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is remembered of one message."""

    probability: float
    label: Label
    unknown_share: float | None
    projection: tuple[float, ...]


@dataclass(slots=True)
class Reference:
    """What one version's first mail at this site looked like; counts per bin.

    Attributes:
        score, unknown: counts per bin.
        projection: (mean, deviation, counts) of each direction.
        unsure_share, spam_share: of the verdicts, 0 to 1.
    """

    score: list[int]
    unknown: list[int]
    projection: list[tuple[float, float, list[int]]] = field(default_factory=list)
    unsure_share: float = 0.0
    spam_share: float = 0.0


class Drift:
    """Watches the mail of one daemon.

    Args:
        database: keeps the references over restarts.
        clock: seconds since the epoch.
    """

    def __init__(self, database: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._version = ""
        self._reference: Reference | None = None
        self._window: deque[_Seen] = deque(maxlen=WINDOW_MESSAGES)
        self._first: list[_Seen] = []

    def note(self, verdict: Verdict, envelope: Envelope, score: Score) -> None:
        """Count one verdict; returns at once."""
        del envelope
        if score.model_version != self._version:
            self.start(score.model_version, self._reference_of(score.model_version))
        seen = _Seen(score.spam_probability, verdict.label, score.unknown_share, score.projection)
        self._window.append(seen)
        if self._reference is None:
            self._first.append(seen)
            if len(self._first) >= REFERENCE_MESSAGES:
                self._reference = reference_of(self._first)
                self._first = []

    def start(self, version: str, reference: Reference | None) -> None:
        """Begin to watch a version: nothing seen yet, and a reference or none."""
        self._version, self._reference = version, reference
        self._window.clear()
        self._first = []

    def save(self) -> None:
        """Keep the reference over a restart; blocking."""
        if self._reference is None:
            return
        text = json.dumps(
            {name: getattr(self._reference, name) for name in Reference.__dataclass_fields__}
        )
        with write_transaction(self._database) as database:
            database.table("drift_references").insert(
                {"version": self._version, "made_at": self._clock(), "reference": text},
                pk="version",
                ignore=True,
            )

    def _reference_of(self, version: str) -> Reference | None:
        with open_database(self._database) as database:
            for row in database.table("drift_references").rows_where("version = ?", [version]):
                return Reference(**json.loads(row["reference"]))
        return None

    def shares(self) -> tuple[int, float, float]:
        """Return how many messages are in the window, and the shares unsure and spam."""
        count = len(self._window)
        unsure = sum(seen.label is Label.UNSURE for seen in self._window)
        spam = sum(seen.label is Label.SPAM for seen in self._window)
        return count, unsure / max(1, count), spam / max(1, count)

    def report(self) -> dict[str, Any]:
        """Return the signals, each a PSI, and in words whether mail has shifted."""
        count, unsure, spam = self.shares()
        answer: dict[str, Any] = {
            "version": self._version,
            "messages": count,
            "unsure_share": round(unsure, 4),
            "spam_share": round(spam, 4),
        }
        reference = self._reference
        if reference is None:
            return {**answer, "state": f"reference is being made: {len(self._first)} messages"}
        if count < MIN_MESSAGES:
            return {**answer, "state": f"{MIN_MESSAGES} messages are needed"}
        live = reference_of(list(self._window), like=reference)
        signals = {
            "score": psi(reference.score, live.score),
            "unknown_tokens": psi(reference.unknown, live.unknown),
        }
        pairs = zip(reference.projection, live.projection, strict=False)
        if shifts := [psi(before[2], after[2]) for before, after in pairs]:
            signals["embedding"] = sum(shifts) / len(shifts)
        worst = max(signals.values())
        state = "shifted" if worst >= SHIFTED else "watch" if worst >= WATCH else "steady"
        return {
            **answer,
            "state": state,
            "psi": {name: round(value, 4) for name, value in signals.items()},
            "reference_unsure_share": round(reference.unsure_share, 4),
            "reference_spam_share": round(reference.spam_share, 4),
        }


def reference_of(seen: Sequence[_Seen], like: Reference | None = None) -> Reference:
    """Count messages into bins.

    Args:
        seen: the messages.
        like: whose means and deviations the projections' bins are placed by, or None for
            their own.
    """
    count = max(1, len(seen))
    directions = list(zip(*(s.projection for s in seen if s.projection), strict=True))
    projection = []
    for number, values in enumerate(directions):
        if like is not None and number < len(like.projection):
            mean, deviation, _ = like.projection[number]
        else:
            mean = math.fsum(values) / len(values)
            deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values)) or 1.0
        scaled = [(value - mean) / deviation for value in values]
        projection.append((mean, deviation, histogram(scaled, _PROJECTION_BINS)))
    return Reference(
        score=histogram([s.probability for s in seen], SCORE_BINS),
        unknown=histogram(
            [s.unknown_share for s in seen if s.unknown_share is not None], UNKNOWN_BINS
        ),
        projection=projection,
        unsure_share=sum(s.label is Label.UNSURE for s in seen) / count,
        spam_share=sum(s.label is Label.SPAM for s in seen) / count,
    )


def histogram(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """Return counts: up to the first edge, between each two, above the last."""
    counts = [0] * (len(edges) + 1)
    for value in values:
        counts[sum(value > edge for edge in edges)] += 1
    return counts


def psi(expected: Sequence[int], actual: Sequence[int]) -> float:
    """Return the population stability index of two histograms over the same bins.

    Half a message is added to each bin, so that an empty one is no infinity.
    """
    totals = [sum(counts) + 0.5 * len(counts) for counts in (expected, actual)]
    shares = [
        ((e + 0.5) / totals[0], (a + 0.5) / totals[1])
        for e, a in zip(expected, actual, strict=True)
    ]
    return math.fsum((a - e) * math.log(a / e) for e, a in shares)
