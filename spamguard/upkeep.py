"""What the daemon does besides judging: forget, take up corrections, retrain, watch.

Each job is one method that the scheduler calls; none raises. Judging never waits for any of
them: database work runs in threads, training in a child process.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from spamguard.config import Config
from spamguard.errors import ModelError, StoreError
from spamguard.feedback.corrections import CorrectionStore
from spamguard.feedback.drift import Drift
from spamguard.feedback.recent import RecentCampaigns
from spamguard.feedback.verdict_log import VerdictLog
from spamguard.feedback.watch import WATCHED_SECONDS, Promotion, verdict_on
from spamguard.model.store import ROLLBACK, ModelStore
from spamguard.observe import Metrics
from spamguard.quarantine import QuarantineStore

log = logging.getLogger(__name__)

EXPIRY_HOURS = 6  # between looks at what is no longer kept
CAMPAIGN_SECONDS = 5  # between looks at new corrections
WATCH_SECONDS = 30  # between looks at a version just promoted
CLOCK_SECONDS = 60  # between looks at the clock
# Beyond what leap seconds and the correction of a clock do; retention counts in days.
MAX_CLOCK_JUMP_SECONDS = 3600.0
SAVE_MINUTES = 10  # between writes of the drift reference
MAX_LOAD = 1.5  # of the machine a core; above it a scheduled retraining waits for its next turn
_DAY_SECONDS = 86_400


def _seconds_since_boot() -> float:
    """Return a time that goes on while the machine sleeps, as the clock does."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Upkeep:
    """The jobs of one daemon.

    Args:
        config: the settings.
        store: model versions.
        quarantine: held messages.
        metrics: counters.
        retrain_command: argv of a child process that retrains, or () for none.
        clock: seconds since the epoch.
        steady: seconds since any moment, which nobody sets.
    """

    def __init__(
        self,
        config: Config,
        store: ModelStore,
        quarantine: QuarantineStore,
        *,
        metrics: Metrics,
        retrain_command: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = _seconds_since_boot,
    ) -> None:
        self._config = config
        self._store = store
        self._quarantine = quarantine
        self._metrics = metrics
        self._retrain_command = retrain_command
        self._clock = clock
        self._steady = steady
        self._boot = clock() - steady()
        self._is_clock_doubtful = False
        self._clock_watch: asyncio.Task[None] | None = None
        database = config.paths.database
        self.corrections = CorrectionStore(
            database,
            config.paths.corrections,
            clock=clock,
            subject_prefix=config.policy.subject_prefix,
        )
        self.campaigns = RecentCampaigns(self.corrections, database, clock=clock)
        self.verdict_log = VerdictLog(database, clock=clock)
        self.drift = Drift(database, clock=clock)
        self._scheduler = AsyncIOScheduler()
        self._child: asyncio.subprocess.Process | None = None
        self._promotion: Promotion | None = None
        self._last_retraining: dict[str, Any] = {}

    async def start(self) -> None:
        """Begin; the database is migrated."""
        await self.verdict_log.start()
        add = self._scheduler.add_job
        add(self.expire, "interval", hours=EXPIRY_HOURS)
        add(self.watch_promotion, "interval", seconds=WATCH_SECONDS)
        add(self.save, "interval", minutes=SAVE_MINUTES)
        if self._config.feedback.campaigns:
            await self.refresh_campaigns()
            add(self.refresh_campaigns, "interval", seconds=CAMPAIGN_SECONDS)
        if self._config.retrain.schedule and self._retrain_command:
            add(self.retrain, CronTrigger.from_crontab(self._config.retrain.schedule))
        self._scheduler.start()
        self._clock_watch = asyncio.create_task(self._watch_clock())

    async def stop(self) -> None:
        """End; a retraining under way is ended too and changes nothing."""
        if self._clock_watch is not None:
            self._clock_watch.cancel()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        if self._child is not None:
            with suppress(ProcessLookupError):
                self._child.terminate()
            await self._child.wait()
        await self.verdict_log.stop()
        await self.save()

    def switched(self, version: str, before: str) -> None:
        """Be told that the daemon now judges with another version; watch it if it is new."""
        if version == before:
            return
        count, unsure, spam = self.drift.shares()
        history = self._store.history()
        is_rollback = bool(history) and history[-1]["reason"].startswith(ROLLBACK)
        self._promotion = None
        if not is_rollback:
            known = count >= 1
            self._promotion = Promotion(
                version=version,
                at=self._clock(),
                unsure_share=unsure if known else None,
                spam_share=spam if known else None,
            )
        self.drift.start(version, None)

    def status(self) -> dict[str, Any]:
        """Return what `spamguard status` shows of all this."""
        following = [
            job.next_run_time
            for job in self._scheduler.get_jobs()
            if job.func == self.retrain and job.next_run_time
        ]
        return {
            "drift": self.drift.report(),
            "watched": self._promotion.version if self._promotion else None,
            "retraining": {
                "running": self._child is not None,
                "next": following[0].isoformat(timespec="minutes") if following else None,
                **self._store.last_retraining(),
                **self._last_retraining,
            },
        }

    # -- jobs --------------------------------------------------------------------------------

    async def refresh_campaigns(self) -> None:
        """Take up what users have reported since the last look."""
        try:
            await asyncio.to_thread(self.campaigns.refresh)
        except StoreError as error:
            log.error("corrections not read", extra={"error": str(error)})  # noqa: TRY400

    async def expire(self) -> None:
        """Forget held messages, corrections and verdicts past their retention.

        Not the first time after the clock has jumped: if it went wrong, all would be past it.
        """
        self.check_clock()
        if self._is_clock_doubtful:
            self._is_clock_doubtful = False
            log.warning("nothing expires this time: the clock jumped")
            return
        now = self._clock()
        held_before = now - self._config.quarantine.retention_days * _DAY_SECONDS
        reported_before = now - self._config.feedback.retention_days * _DAY_SECONDS
        try:
            held = await asyncio.to_thread(self._quarantine.expire, before=held_before)
            reported = await asyncio.to_thread(self.corrections.expire, before=reported_before)
            await self.verdict_log.expire()
        except StoreError as error:
            log.error("expiry failed", extra={"error": str(error)})  # noqa: TRY400
        else:
            if held or reported:
                log.info("expired", extra={"held": held, "corrections": reported})

    def check_clock(self) -> None:
        """See whether the clock was set, and plan all jobs anew if it was.

        The scheduler goes by the clock: set back by a day, it would do nothing for a day.
        """
        jump = self._clock() - self._steady() - self._boot
        if abs(jump) <= MAX_CLOCK_JUMP_SECONDS:
            return
        self._boot += jump
        self._is_clock_doubtful = True
        self._metrics.count("clock_jumps")
        log.error("the clock jumped", extra={"seconds": round(jump)})
        for job in self._scheduler.get_jobs():
            trigger = job.trigger
            if isinstance(trigger, IntervalTrigger):
                trigger = IntervalTrigger(seconds=round(trigger.interval_length))
            job.reschedule(trigger)

    async def _watch_clock(self) -> None:
        while True:
            await asyncio.sleep(CLOCK_SECONDS)
            self.check_clock()

    async def save(self) -> None:
        """Keep the drift reference over a restart."""
        try:
            await asyncio.to_thread(self.drift.save)
        except StoreError as error:
            log.error("drift reference not saved", extra={"error": str(error)})  # noqa: TRY400

    async def retrain(self) -> None:
        """Run `spamguard retrain --scheduled` as a child, unless the machine is busy."""
        if self._child is not None:
            return
        load = os.getloadavg()[0] / (os.cpu_count() or 1)
        if load > MAX_LOAD:
            self._metrics.count("retrainings_skipped")
            log.info("retraining put off", extra={"load_per_core": round(load, 2)})
            return
        try:
            self._child = await asyncio.create_subprocess_exec(
                *self._retrain_command, stdin=asyncio.subprocess.DEVNULL
            )
            code = await self._child.wait()
        except OSError as error:
            log.error("retraining not started", extra={"error": str(error)})  # noqa: TRY400
            code = -1
        finally:
            self._child = None
        self._metrics.count("retrainings", "ok" if code == 0 else "failed")
        self._last_retraining = {"last_exit_code": code}

    async def watch_promotion(self) -> None:
        """Roll a version back that does worse on live mail than the one before."""
        promotion = self._promotion
        if promotion is None:
            return
        if self._clock() - promotion.at > WATCHED_SECONDS:
            self._promotion = None
            return
        messages, unsure, spam = self.drift.shares()
        try:
            corrections, standings = await asyncio.to_thread(self.corrections.all)
            reason = verdict_on(
                promotion,
                messages=messages,
                unsure_share=unsure,
                spam_share=spam,
                corrections=corrections,
                standings=standings,
            )
            if reason:
                self._promotion = None
                name = await asyncio.to_thread(self._store.roll_back, by="daemon", reason=reason)
                self._metrics.count("rollbacks")
                log.error("rolled back", extra={"to": name, "reason": reason})
        except (StoreError, ModelError) as error:
            log.error("promotion not watched", extra={"error": str(error)})  # noqa: TRY400
