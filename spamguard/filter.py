"""The one core of all frontends: (Envelope, raw message) in, Outcome out.

`Filter.check` never raises for a message's sake: whatever goes wrong while judging, the
message is delivered unscored, with one log line and a counter. The heavy work is behind the
`Scorer` and `Quarantine` protocols.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from spamguard.errors import OverloadedError, ScoringError, ScoringTimeoutError, StoreError
from spamguard.message import Envelope
from spamguard.observe import Metrics
from spamguard.verdict import (
    Action,
    Disposition,
    Label,
    Policy,
    Score,
    Thresholds,
    Verdict,
    apply_campaign,
    apply_lists,
    decide,
    judge,
)

log = logging.getLogger(__name__)

Clock = Callable[[], float]  # seconds since the epoch


class Scorer(Protocol):
    """Turns raw messages into scores, somewhere off the event loop."""

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds that belong to the model now in use."""

    async def score(
        self, raw: bytes, *, timeout_seconds: float, thresholds: Thresholds | None = None
    ) -> Score:
        """Score one message; raises ScoringError, never later than the timeout.

        What changes no label by the thresholds may be left out.
        """


class Quarantine(Protocol):
    """Keeps held messages; blocking, called in a thread."""

    def hold(self, raw: bytes, *, envelope: Envelope, verdict: Verdict) -> None:
        """Make one message durable, or raise StoreError."""


class Campaigns(Protocol):
    """Knows what users have just reported."""

    def match(self, score: Score) -> tuple[Label, str] | None:
        """Return label and reason for a message like a reported one, at once."""


class Observer(Protocol):
    """Is told every verdict: so that a correction finds its original, and drift is seen."""

    def note(self, verdict: Verdict, envelope: Envelope, score: Score) -> None:
        """Take note of one; returns at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one message."""

    verdict: Verdict
    action: Action


class Filter:
    """Judges messages and says what to do with them.

    Args:
        scorer: where scores come from.
        quarantine: where held messages go.
        policy: what the administrator wants; replaced as a whole on reload.
        metrics: counters.
        clock: wall clock, seconds since the epoch.
        deadline_seconds: how long one message may wait for its score.
        thresholds: the administrator's own, or None for those of the model.
        campaigns: what users have just reported, or None.
        observers: told every verdict.
    """

    def __init__(
        self,
        scorer: Scorer,
        quarantine: Quarantine,
        *,
        policy: Policy,
        metrics: Metrics,
        clock: Clock = time.time,
        deadline_seconds: float = 10.0,
        thresholds: Thresholds | None = None,
        campaigns: Campaigns | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._scorer = scorer
        self._quarantine = quarantine
        self._metrics = metrics
        self._clock = clock
        self.policy = policy
        self.deadline_seconds = deadline_seconds
        self.thresholds = thresholds
        self._campaigns = campaigns
        self._observers = observers

    async def check(self, envelope: Envelope, raw: bytes, *, can_hold: bool = True) -> Outcome:
        """Judge one message and, where policy says so, hold it durably.

        When the action is QUARANTINE the message is on disk before this returns. A store that
        fails turns the action into TAG: the recipient gets the message, the log gets loud.

        Args:
            envelope: the SMTP side.
            raw: the message.
            can_hold: False when ``raw`` is only the beginning of the message, which must then
                not be held: what would be released is not what was sent.

        Raises:
            asyncio.CancelledError: the transaction was aborted; nothing else.
        """
        started = time.monotonic()
        verdict, score = await self._verdict(envelope, raw)
        action = decide(verdict, envelope, self.policy)
        if action.disposition is Disposition.QUARANTINE:
            if can_hold:
                action = await self._hold(raw, envelope, verdict, action)
            else:
                action = replace(action, disposition=Disposition.TAG)
        milliseconds = (time.monotonic() - started) * 1000
        outcome = Outcome(verdict=verdict, action=action)
        self._report(outcome, envelope, score, size=len(raw), milliseconds=milliseconds)
        return outcome

    async def _verdict(self, envelope: Envelope, raw: bytes) -> tuple[Verdict, Score | None]:
        verdict_id = new_id(self._clock())
        is_overload = False
        thresholds = self.thresholds or self._scorer.thresholds  # the same before and after
        try:
            async with asyncio.timeout(self.deadline_seconds):
                score = await self._scorer.score(
                    raw, timeout_seconds=self.deadline_seconds, thresholds=thresholds
                )
            return self._judge(score, envelope, verdict_id, thresholds), score
        except (ScoringError, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                error = ScoringTimeoutError(f"no score in {self.deadline_seconds:g} s")
            log.warning("unscored", extra={"id": verdict_id, "reason": str(error)})
            reason = type(error).__name__.removesuffix("Error")
            is_overload = isinstance(error, OverloadedError)
        except Exception:
            # The one broad except of the daemon: a bug in judging must not cost a message.
            log.exception("bug while judging", extra={"id": verdict_id})
            reason = "internal error"
        verdict = Verdict(
            id=verdict_id, label=Label.UNSCORED, reason=reason, is_overload=is_overload
        )
        return verdict, None

    def _judge(
        self, score: Score, envelope: Envelope, verdict_id: str, thresholds: Thresholds
    ) -> Verdict:
        """The model's word, then the users', then the administrator's."""
        verdict = judge(score, thresholds, verdict_id)
        if self._campaigns and (found := self._campaigns.match(score)):
            verdict = apply_campaign(verdict, found)
        verdict = apply_lists(verdict, score, envelope, self.policy)
        for observer in self._observers:
            observer.note(verdict, envelope, score)
        return verdict

    async def _hold(
        self, raw: bytes, envelope: Envelope, verdict: Verdict, action: Action
    ) -> Action:
        # Shielded: an MTA that hangs up now must not leave half a record behind.
        task = asyncio.create_task(
            asyncio.to_thread(self._quarantine.hold, raw, envelope=envelope, verdict=verdict)
        )
        try:
            await asyncio.shield(task)
        except StoreError as error:
            self._metrics.count("quarantine_failures")
            log.error(  # noqa: TRY400 - the text says all, the traceback nothing
                "quarantine failed, delivering tagged",
                extra={"id": verdict.id, "error": str(error)},
            )
            return replace(action, disposition=Disposition.TAG)
        return action

    def _report(
        self,
        outcome: Outcome,
        envelope: Envelope,
        score: Score | None,
        *,
        size: int,
        milliseconds: float,
    ) -> None:
        verdict, action = outcome.verdict, outcome.action
        self._metrics.count("messages")
        self._metrics.count("verdict", verdict.label)
        self._metrics.count("disposition", action.disposition)
        if score:
            self._metrics.count("decided_by", score.decided_by)
        self._metrics.observe_latency(milliseconds)
        log.info(
            "verdict",
            extra={
                "id": verdict.id,
                "queue_id": envelope.queue_id,
                "frontend": envelope.frontend,
                "client": envelope.client_ip,
                "from": envelope.reverse_path,
                "recipients": len(envelope.recipients),
                "message_id": score.message_id if score else "",
                "size": size,
                "label": verdict.label,
                "score": verdict.spam_probability,
                "disposition": action.disposition,
                "reason": verdict.reason,
                "model": verdict.model_version,
                "defects": ",".join(score.defects) if score else "",
                "ms": round(milliseconds, 1),
            },
        )


def new_id(now: float) -> str:
    """Return a new verdict id: 11 hex digits of milliseconds, 10 of chance; sorts by time."""
    return f"{int(now * 1000):011x}{secrets.token_hex(5)}"
