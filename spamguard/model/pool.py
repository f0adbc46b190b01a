"""Scorer processes, one message each at a time, and who waits for one.

A crash or a hang costs exactly the message that caused it: a scorer has one at a time, and another
takes the place of one that ended, also of one that ended with nothing to do. The line before the
scorers is bounded, and so is the wait for a place in it: who gets none is delivered unscored. Not
at once, though: a client that is let go at once comes back at once, and a flood of those leaves
no time to judge anything: of 400 connections in 10 seconds 76 messages were judged so, and 1,600
are now.
"""

import asyncio
import logging
from collections.abc import Coroutine

from spamguard.errors import (
    ModelLoadError,
    OverloadedError,
    ScoringTimeoutError,
    WorkerCrashedError,
)
from spamguard.model.channel import decode_answer
from spamguard.model.process import ScorerProcess
from spamguard.model.store import ModelVersion
from spamguard.observe import Metrics
from spamguard.verdict import Score, Thresholds

log = logging.getLogger(__name__)

RESTART_PAUSE_SECONDS = 1.0  # between attempts to start a scorer that does not come up


class ScorerPool:
    """The `Scorer` that the daemon gives to its `Filter`.

    Args:
        version: the model to serve.
        workers: scorer processes.
        max_waiting: messages that may wait for a scorer; more wait for a place among them, for
            half of their time.
        hard_limit_seconds: after which a scorer ends itself.
        metrics: counters.
    """

    def __init__(
        self,
        version: ModelVersion,
        *,
        workers: int,
        max_waiting: int,
        hard_limit_seconds: float,
        metrics: Metrics,
    ) -> None:
        self.version = version
        self._workers = workers
        self._hard_limit_seconds = hard_limit_seconds
        self._metrics = metrics
        self._free: asyncio.Queue[ScorerProcess] = asyncio.Queue()
        self._scorers: set[ScorerProcess] = set()  # in use; others are on their way out
        self._started: set[ScorerProcess] = set()
        self._waiting = 0
        self._places = asyncio.Semaphore(max_waiting)
        self.judged = 0  # messages, since the start
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopped = False

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds stored with the version that serves now."""
        return self.version.thresholds

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the scorers that are up."""
        return sorted(scorer.process_id for scorer in self._scorers)

    @property
    def waiting(self) -> int:
        """How many messages wait for a scorer now."""
        return self._waiting

    async def start(self) -> None:
        """Verify the version and start all scorers; returns when each has judged a message.

        Raises:
            ModelError: the version is not intact, or no scorer comes up with it.
        """
        await asyncio.to_thread(self.version.verify)
        for scorer in await self._start_all(self.version):
            self._add(scorer)

    async def _start_all(self, version: ModelVersion) -> list[ScorerProcess]:
        results = await asyncio.gather(
            *(self._start_one(version) for _ in range(self._workers)), return_exceptions=True
        )
        failures = [r for r in results if isinstance(r, BaseException)]
        if failures:
            for scorer in results:
                if isinstance(scorer, ScorerProcess):
                    await scorer.kill()
            raise failures[0]
        return [r for r in results if isinstance(r, ScorerProcess)]

    async def _start_one(self, version: ModelVersion) -> ScorerProcess:
        scorer = await ScorerProcess.start(version, self._hard_limit_seconds, self._died)
        self._started = {s for s in self._started if not s.is_gone} | {scorer}
        return scorer

    def _add(self, scorer: ScorerProcess) -> None:
        self._scorers.add(scorer)
        self._free.put_nowait(scorer)

    async def score(
        self, raw: bytes, *, timeout_seconds: float, thresholds: Thresholds | None = None
    ) -> Score:
        """Score one message in the next free scorer.

        Args:
            raw: the message.
            timeout_seconds: for waiting and scoring.
            thresholds: by which it will be judged; None: those of the version that scores it.

        Raises:
            OverloadedError: too many were waiting, for too long.
            ScoringTimeoutError: no score came in time; the scorer is replaced.
            WorkerCrashedError: the scorer died on this message; it is replaced.
        """
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        if self._places.locked():
            try:
                async with asyncio.timeout(timeout_seconds / 2):
                    await self._places.acquire()  # in the order of coming
            except TimeoutError as error:
                self._metrics.count("overloaded")
                raise OverloadedError(f"{self._waiting} messages were waiting") from error
        else:
            await self._places.acquire()
        try:
            scorer = await self._take(deadline)
        finally:
            self._places.release()
        answer = scorer.submit(raw, thresholds or scorer.version.thresholds)
        try:
            async with asyncio.timeout_at(deadline):
                body = await asyncio.shield(answer)
        except TimeoutError as error:
            self._spawn(self._finish(scorer, answer))
            raise ScoringTimeoutError(f"no score in {timeout_seconds:g} s") from error
        except asyncio.CancelledError:
            self._spawn(self._finish(scorer, answer))
            raise
        self._release(scorer)
        self.judged += 1
        return decode_answer(body)

    async def _take(self, deadline: float) -> ScorerProcess:
        while not (self._waiting or self._free.empty()):  # nobody is before this message
            scorer = self._free.get_nowait()
            if scorer in self._scorers:
                return scorer
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    scorer = await self._free.get()
                    if scorer in self._scorers:  # neither dead nor retired
                        return scorer
        except TimeoutError as error:
            self._metrics.count("overloaded")
            raise OverloadedError("no scorer was free before the deadline") from error
        finally:
            self._waiting -= 1

    def _release(self, scorer: ScorerProcess) -> None:
        if scorer in self._scorers and not self._is_stopped:
            self._free.put_nowait(scorer)
        else:
            scorer.end()

    async def _finish(self, scorer: ScorerProcess, answer: "asyncio.Future[bytes]") -> None:
        """Take a scorer back once it is done with a message for which nobody waits any more.

        One that hangs ends itself at its hard limit, one that cannot even do that is killed.
        """
        try:
            async with asyncio.timeout(self._hard_limit_seconds + 5):
                await answer
        except TimeoutError:
            scorer.end()
            self._died(scorer)
        except WorkerCrashedError:
            pass  # `_died` knows
        else:
            self._release(scorer)

    def _died(self, scorer: ScorerProcess) -> None:
        """Start a new scorer in the place of one that ended."""
        if self._is_stopped:
            return
        self._metrics.count("scorer_crashes")
        log.warning("scorer died, starting another", extra={"pid": scorer.process_id})
        if scorer in self._scorers:
            self._scorers.discard(scorer)
            self._spawn(self._restart())

    async def _restart(self) -> None:
        while not self._is_stopped:
            try:
                scorer = await self._start_one(self.version)
            except ModelLoadError as error:
                log.error("scorer did not start", extra={"error": str(error)})  # noqa: TRY400
                await asyncio.sleep(RESTART_PAUSE_SECONDS)
                continue
            if scorer.version is self.version and not self._is_stopped:
                self._add(scorer)
            else:
                await scorer.kill()
            return

    async def switch(self, version: ModelVersion) -> None:
        """Serve another version: load, warm up and self-check it beside the old, then swap.

        Raises:
            ModelError: the new one does not work; the old one goes on serving.
        """
        await asyncio.to_thread(version.verify)
        new = await self._start_all(version)
        old, self._scorers = self._scorers, set()
        self.version = version
        for scorer in new:
            self._add(scorer)
        for scorer in old:
            if not scorer.is_busy:  # the others end when they have their score
                scorer.end()
        log.info("model switched", extra={"model": version.name})

    def _spawn(self, coroutine: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End all scorers; messages in flight get WorkerCrashedError."""
        self._is_stopped = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._scorers.clear()
        await asyncio.gather(*(scorer.kill() for scorer in self._started))
