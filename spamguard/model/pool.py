"""Scorer processes, one message each at a time, and who waits for one.

One `ProcessPoolExecutor(max_workers=1)` a scorer: an executor of n workers fails every message
in flight when one dies. So a crash or a hang costs exactly the message that caused it; the
slot gets a new process before it takes the next. The line before the scorers is bounded, and so is
the wait for a place in it: who gets none is delivered unscored. Not at once, though: a client that
is let go at once comes back at once, and a flood of those leaves no time to judge anything: of
400 connections in 10 seconds 76 messages were judged so, and 1,600 are now.
"""

import asyncio
import logging
import multiprocessing
from collections.abc import Coroutine
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from spamguard.errors import (
    ModelLoadError,
    OverloadedError,
    ScoringTimeoutError,
    WorkerCrashedError,
)
from spamguard.model import scorer
from spamguard.model.store import ModelVersion
from spamguard.observe import Metrics
from spamguard.verdict import Score, Thresholds

log = logging.getLogger(__name__)

RESTART_PAUSE_SECONDS = 1.0  # between attempts to start a scorer that does not come up
START_TIMEOUT_SECONDS = 60.0  # loading takes 0.3 s; a busy machine may take seconds


class _Slot:
    """One scorer process; replaced by a new slot when it dies."""

    def __init__(self, version: ModelVersion, hard_limit_seconds: float) -> None:
        self.executor = ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=scorer.start,
            initargs=(str(version.path), hard_limit_seconds),
        )
        self.version = version
        self.process_id = 0

    async def start(self) -> None:
        future = asyncio.wrap_future(self.executor.submit(scorer.ready))
        try:
            self.process_id = await asyncio.wait_for(future, START_TIMEOUT_SECONDS)
        except (BrokenProcessPool, TimeoutError) as error:
            self.stop()
            raise ModelLoadError(f"{self.version.path}: no scorer came up: {error}") from error

    def stop(self) -> None:
        """End the process at once, whatever it does.

        The executor offers no public way to that before Python 3.14, and forgets its processes
        when it is shut down.
        """
        processes = list((self.executor._processes or {}).values())  # noqa: SLF001
        self.executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()


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
        self._free: asyncio.Queue[_Slot] = asyncio.Queue()
        self._slots: set[_Slot] = set()
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
        return sorted(slot.process_id for slot in self._slots if slot.process_id)

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
        slots = await self._start_slots(self.version)
        for slot in slots:
            self._add(slot)

    async def _start_slots(self, version: ModelVersion) -> list[_Slot]:
        slots = [_Slot(version, self._hard_limit_seconds) for _ in range(self._workers)]
        results = await asyncio.gather(*(s.start() for s in slots), return_exceptions=True)
        failures = [r for r in results if isinstance(r, BaseException)]
        if failures:
            for slot in slots:
                slot.stop()
            raise failures[0]
        return slots

    def _add(self, slot: _Slot) -> None:
        self._slots.add(slot)
        self._free.put_nowait(slot)

    async def score(self, raw: bytes, *, timeout_seconds: float) -> Score:
        """Score one message in the next free scorer.

        Raises:
            OverloadedError: too many were waiting, for too long.
            ScoringTimeoutError: no score came in time; the scorer is replaced.
            WorkerCrashedError: the scorer died on this message; it is replaced.
        """
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        try:
            async with asyncio.timeout(timeout_seconds / 2):
                await self._places.acquire()  # in the order of coming
        except TimeoutError as error:
            self._metrics.count("overloaded")
            raise OverloadedError(f"{self._waiting} messages were waiting") from error
        try:
            slot = await self._take(deadline)
        finally:
            self._places.release()
        try:
            future = asyncio.wrap_future(slot.executor.submit(scorer.score, raw))
        except BrokenProcessPool as error:
            self._replace(slot)
            raise WorkerCrashedError("the scorer had died") from error
        try:
            async with asyncio.timeout_at(deadline):
                result = await asyncio.shield(future)
        except BrokenProcessPool as error:
            self._replace(slot)
            raise WorkerCrashedError("the scorer died on this message") from error
        except TimeoutError as error:
            self._abandon(slot, future)
            raise ScoringTimeoutError(f"no score in {timeout_seconds:g} s") from error
        except asyncio.CancelledError:
            self._abandon(slot, future)
            raise
        except BaseException:
            self._release(slot)
            raise
        self._release(slot)
        self.judged += 1
        return result

    async def _take(self, deadline: float) -> _Slot:
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    slot = await self._free.get()
                    if slot in self._slots:  # not retired by a change of version
                        return slot
        except TimeoutError as error:
            self._metrics.count("overloaded")
            raise OverloadedError("no scorer was free before the deadline") from error
        finally:
            self._waiting -= 1

    def _release(self, slot: _Slot) -> None:
        if slot in self._slots and not self._is_stopped:
            self._free.put_nowait(slot)
        else:
            slot.stop()

    def _abandon(self, slot: _Slot, future: "asyncio.Future[Score]") -> None:
        """Nobody waits for this score any more; take the slot back once it is done.

        A scorer that hangs ends itself at its hard limit, which `_finish` sees.
        """
        self._spawn(self._finish(slot, future))

    async def _finish(self, slot: _Slot, future: "asyncio.Future[Score]") -> None:
        try:
            async with asyncio.timeout(self._hard_limit_seconds + 5):
                await future
        except (BrokenProcessPool, TimeoutError):
            self._replace(slot)
        except Exception:  # noqa: BLE001 - a bug in scoring; whoever waited is gone
            self._release(slot)
        else:
            self._release(slot)

    def _replace(self, slot: _Slot) -> None:
        """Start a new scorer in the place of a dead one."""
        self._metrics.count("scorer_crashes")
        log.warning("scorer died, starting another", extra={"pid": slot.process_id})
        slot.stop()
        was_in_use = slot in self._slots
        self._slots.discard(slot)
        if was_in_use and not self._is_stopped:
            self._spawn(self._restart())

    async def _restart(self) -> None:
        while not self._is_stopped:
            slot = _Slot(self.version, self._hard_limit_seconds)
            try:
                await slot.start()
            except ModelLoadError as error:
                log.error("scorer did not start", extra={"error": str(error)})  # noqa: TRY400
                await asyncio.sleep(RESTART_PAUSE_SECONDS)
                continue
            if slot.version is self.version and not self._is_stopped:
                self._add(slot)
            else:
                slot.stop()
            return

    async def switch(self, version: ModelVersion) -> None:
        """Serve another version: load, warm up and self-check it beside the old, then swap.

        Raises:
            ModelError: the new one does not work; the old one goes on serving.
        """
        await asyncio.to_thread(version.verify)
        new = await self._start_slots(version)
        old, self._slots = self._slots, set()
        self.version = version
        for slot in new:
            self._add(slot)
        for slot in old:
            # Idle ones end now; busy ones when they hand their slot back.
            slot.executor.shutdown(wait=False)
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
        slots, self._slots = self._slots, set()
        for slot in slots:
            slot.stop()
        for slot in slots:
            await asyncio.to_thread(slot.executor.shutdown, wait=True)  # reaps the child
