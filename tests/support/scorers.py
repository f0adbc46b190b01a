"""Small in-process fakes of the filter's two protocols: fast, deterministic, no model.

What a message is scored is written in it: ``XSPAM`` gives 0.99, ``XUNSURE`` 0.6, everything
else 0.01; ``XCRASH`` raises `WorkerCrashedError`, ``XTIMEOUT`` `ScoringTimeoutError`, ``XBUG``
`RuntimeError`; ``XSLOW`` waits first.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from spamguard.errors import ScoringTimeoutError, StoreError, WorkerCrashedError
from spamguard.filter import Filter
from spamguard.message import Envelope
from spamguard.observe import Metrics
from spamguard.verdict import Policy, Score, Thresholds, Verdict

THRESHOLDS = Thresholds(unsure=0.5, spam=0.9)
MODEL_VERSION = "words-1"
NOW = 1_700_000_000.0


def clock() -> float:
    """Return always the same time."""
    return NOW


@dataclass
class WordScorer:
    """Scores by words.

    Attributes:
        slow_seconds: how long ``XSLOW`` takes.
        scored: every message that was asked for, in order.
        cancelled: how many were cancelled while they waited.
        waiting: how many wait now.
    """

    slow_seconds: float = 0.3
    scored: list[bytes] = field(default_factory=list)
    cancelled: int = 0
    waiting: int = 0
    thresholds: Thresholds = THRESHOLDS

    async def score(
        self, raw: bytes, *, timeout_seconds: float, thresholds: Thresholds | None = None
    ) -> Score:
        self.scored.append(raw)
        if b"XSLOW" in raw:
            await self._wait()
        if b"XCRASH" in raw:
            raise WorkerCrashedError("the scorer died")
        if b"XTIMEOUT" in raw:
            raise ScoringTimeoutError("no score in time")
        if b"XBUG" in raw:
            raise RuntimeError("a bug")
        return Score(
            spam_probability=0.99 if b"XSPAM" in raw else 0.6 if b"XUNSURE" in raw else 0.01,
            model_version=MODEL_VERSION,
            fingerprint=hashlib.sha256(raw).hexdigest()[:32],
        )

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            await asyncio.sleep(self.slow_seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1


@dataclass
class MemoryQuarantine:
    """Remembers what it holds; ``fails`` makes it a full disk."""

    fails: bool = False
    held: list[tuple[bytes, Envelope, Verdict]] = field(default_factory=list)

    def hold(self, raw: bytes, *, envelope: Envelope, verdict: Verdict) -> None:
        if self.fails:
            raise StoreError("No space left on device")
        self.held.append((raw, envelope, verdict))


def word_filter(
    policy: Policy | None = None,
    *,
    scorer: WordScorer | None = None,
    quarantine: MemoryQuarantine | None = None,
    metrics: Metrics | None = None,
    deadline_seconds: float = 5.0,
    clock: Callable[[], float] = clock,
) -> Filter:
    """Return a filter on fakes."""
    return Filter(
        scorer or WordScorer(),
        quarantine or MemoryQuarantine(),
        policy=policy or Policy(),
        metrics=metrics or Metrics(),
        clock=clock,
        deadline_seconds=deadline_seconds,
    )
