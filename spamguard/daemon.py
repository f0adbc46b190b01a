"""The composition root: builds every object, starts and stops them. Read it top to bottom.

Nothing is decided here but order: state directory, database, model, scorers, doors. Stopping
goes the other way round: doors close, transactions in flight finish, then the scorers go.
"""

import asyncio
import fcntl
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel
from watchdog.events import FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

import spamguard
from spamguard.config import Config
from spamguard.database import check_clock, migrate, store_error
from spamguard.doors import Doors
from spamguard.errors import (
    ConfigError,
    ScoringError,
    SpamGuardError,
    StoreError,
)
from spamguard.feedback.desk import MailDesk
from spamguard.feedback.drop import DropWatch
from spamguard.filter import Filter
from spamguard.frontends.control import ControlServer
from spamguard.model.channel import WARM_UP_MESSAGE
from spamguard.model.pool import ScorerPool
from spamguard.model.store import ModelStore, ModelVersion
from spamguard.observe import Metrics, settle
from spamguard.quarantine import QuarantineStore
from spamguard.systemd import Notifier, passed_sockets
from spamguard.upkeep import Upkeep

log = logging.getLogger(__name__)

# What a reload applies; whatever else differs from the start's settings needs a restart.
_RELOADED = {
    "policy",
    "drain_seconds",
    "model.version",
    "model.deadline_seconds",
    "model.unsure_threshold",
    "model.spam_threshold",
}


class Daemon:
    """Everything that runs, for one configuration.

    Args:
        config: the settings.
        reload_config: reads them again, for SIGHUP.
        retrain_command: argv of the child process that retrains, or () for none.
        clock: wall clock, seconds since the epoch.
        notifier: tells the service manager.
        passed: listening sockets that the service manager opened, with the names of their doors.
    """

    def __init__(
        self,
        config: Config,
        reload_config: Callable[[], Config],
        *,
        retrain_command: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
        notifier: Notifier | None = None,
        passed: Sequence[tuple[str, socket.socket]] = (),
    ) -> None:
        self.config = self._started_with = config
        self._notifier = notifier or Notifier()
        self._passed = passed
        self._reload_config = reload_config
        self._clock = clock
        self._started_at = clock()
        self.metrics = Metrics()
        self.store = ModelStore(config.paths.models)
        self.quarantine = QuarantineStore(
            config.paths.quarantine, config.paths.database, clock=clock
        )
        self.upkeep = Upkeep(
            config,
            self.store,
            self.quarantine,
            metrics=self.metrics,
            retrain_command=retrain_command,
            clock=clock,
        )
        self.desk, self.drop = self._build_intake()
        self.doors = Doors(
            config,
            self.upkeep.corrections,
            desk=self.desk,
            metrics=self.metrics,
            clock=clock,
        )
        self._stop = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._lock_file: IO[str] | None = None

    async def run(self) -> None:
        """Start everything, serve until `stop`, stop everything.

        Raises:
            ModelError: the model cannot be used.
            StoreError: the state directory or database cannot be used.
            AddressError: an address to listen on is taken.
            ConfigError: it cannot be listened on for another reason.
        """
        self._prepare_state()
        self.pool = self._build_pool(self.store.get(self.config.model.version))
        self.filter = self._build_filter()
        loop = asyncio.get_running_loop()
        for name, handler in (
            (signal.SIGTERM, self.stop),
            (signal.SIGINT, self.stop),
            (signal.SIGHUP, lambda: self._in_background(self.reload())),
        ):
            loop.add_signal_handler(name, handler)
        control = ControlServer({"status": self.status, "reload": self.reload})
        observer = Observer()
        try:
            await self.pool.start()
            await self.pool.score(WARM_UP_MESSAGE, timeout_seconds=60)
            await self.doors.open(self.filter, self.status, self._passed)
            await self._start_control(control)
            self._watch_models(observer, loop)
            await self.upkeep.start()
            await self._start_drop()
            listening = {name: ",".join(bound) for name, bound in self.doors.addresses.items()}
            log.info("ready", extra={"model": self.pool.version.name, **listening})
            self._notifier.ready(f"model {self.pool.version.name}")
            settle()
            watchdog = loop.create_task(self._feed_watchdog())
            await self._stop.wait()
            watchdog.cancel()
            log.info("stopping")
        finally:
            self._notifier.stopping()
            await control.stop()
            await self.doors.drain(self.config.drain_seconds)
            if self.drop:
                await self.drop.stop()
            await self.upkeep.stop()
            if observer.is_alive():
                observer.stop()
                await asyncio.to_thread(observer.join)
            await self.pool.stop()
            self._release_state()
            log.info("stopped")

    def stop(self) -> None:
        """Begin to stop; `run` returns when transactions in flight are through."""
        self._stop.set()

    # -- starting ----------------------------------------------------------------------------

    def _prepare_state(self) -> None:
        """Create the state directory, take its lock, migrate, tidy up after a crash."""
        state = self.config.paths.state
        os.umask(0o077)
        try:
            self.config.paths.models.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.config.paths.quarantine.mkdir(exist_ok=True, mode=0o700)
            self._lock_file = (state / "daemon.lock").open("w")
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            check_clock(self.config.paths.database, self._clock())
        except BlockingIOError as error:
            raise StoreError(f"{state}: another daemon uses this state directory") from error
        except OSError as error:
            raise store_error(state, error) from error
        migrate(self.config.paths.database)
        if removed := self.quarantine.recover():
            log.warning("removed unfinished quarantine files", extra={"count": removed})

    def _release_state(self) -> None:
        if self._lock_file is not None:
            self._lock_file.close()

    def _build_pool(self, version: ModelVersion) -> ScorerPool:
        return ScorerPool(
            version,
            workers=self.config.workers,
            max_waiting=self.config.model.max_waiting,
            hard_limit_seconds=self.config.model.hard_limit_seconds,
            metrics=self.metrics,
        )

    def _build_filter(self) -> Filter:
        return Filter(
            self.pool,
            self.quarantine,
            policy=self.config.policy.as_policy(),
            metrics=self.metrics,
            clock=self._clock,
            deadline_seconds=self.config.model.deadline_seconds,
            thresholds=self.config.model.thresholds,
            campaigns=self.upkeep.campaigns,
            observers=(self.upkeep.verdict_log, self.upkeep.drift),
        )

    def _build_intake(self) -> tuple[MailDesk | None, DropWatch | None]:
        """Build what takes users' reports, as far as it is configured."""
        reports, sink = self.config.reports, self.upkeep.corrections
        desk = drop = None
        if reports.spam_addresses or reports.ham_addresses:
            desk = MailDesk(
                sink,
                spam_addresses=reports.spam_addresses,
                ham_addresses=reports.ham_addresses,
                networks=reports.networks,
                metrics=self.metrics,
            )
        if reports.drop_directory:
            drop = DropWatch(Path(reports.drop_directory), sink, metrics=self.metrics)
        return desk, drop

    async def _start_drop(self) -> None:
        if self.drop is None:
            return
        try:
            await self.drop.start()
        except OSError as error:
            directory = self.config.reports.drop_directory
            raise ConfigError(
                f"reports.drop_directory = {directory!r}: {error.strerror or error}"
            ) from error

    async def _start_control(self, control: ControlServer) -> None:
        path = self.config.paths.control_socket
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            await control.start(path)
        except OSError as error:
            raise ConfigError(
                f"paths.control_socket = {str(path)!r}: {error.strerror or error}"
            ) from error

    # -- while running -----------------------------------------------------------------------

    async def _feed_watchdog(self) -> None:
        """Prove by judging that messages are judged; what hangs is not fed and gets restarted."""
        if not (seconds := self._notifier.watchdog_seconds):
            return
        while True:
            before = self.pool.judged
            try:
                await self.pool.score(WARM_UP_MESSAGE, timeout_seconds=seconds / 2)
            except ScoringError as error:
                log.warning("self-check failed", extra={"error": str(error)})
            if self.pool.judged > before:  # in an overload others' messages prove it as well
                self._notifier.alive()
            await asyncio.sleep(seconds / 4)

    def _in_background(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(_log_failure)

    async def reload(self) -> dict[str, Any]:
        """Read configuration and model again; if one does not work the old of both serve on.

        Policy, thresholds, deadline and model change at once; listeners, paths and the number
        of scorers need a restart.

        Raises:
            ConfigError: the new configuration is wrong.
            ModelError: the new model does not work.
        """
        return await self._take_over(self._reload_config)

    async def _follow_current(self) -> None:
        """Switch to the version that `models/current` names now.

        The file of the settings is not read: half an edit must not keep a rollback from taking
        effect, nor a promotion at night apply what nobody has reloaded.
        """
        await self._take_over(lambda: self.config)

    async def _take_over(self, read: Callable[[], Config]) -> dict[str, Any]:
        async with self._reloading:
            self._notifier.reloading()
            try:
                config = await asyncio.to_thread(read)
                await self._switch(self.store.get(config.model.version))
                self.config = config
                self.filter.policy = config.policy.as_policy()
                self.filter.thresholds = config.model.thresholds
                self.filter.deadline_seconds = config.model.deadline_seconds
            except SpamGuardError as error:
                self.metrics.count("reload_failures")
                log.error("reload failed, old settings serve on", extra={"error": str(error)})  # noqa: TRY400
                raise
            finally:
                self._notifier.ready(f"model {self.pool.version.name}")
        log.info("reloaded", extra={"model": self.pool.version.name})
        if waiting := list(_differing(self._started_with, config)):
            log.warning("needs a restart to take effect", extra={"settings": ",".join(waiting)})
        return {"model": self.pool.version.name, "needs_restart": waiting}

    async def _switch(self, version: ModelVersion) -> None:
        before = self.pool.version
        if (version.name, version.path) != (before.name, before.path):
            await self.pool.switch(version)
            self.upkeep.switched(version.name, before.name)

    def _watch_models(self, observer: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Switch when `models/current` is replaced: by a rename, so the directory is watched."""
        current = str(self.store.current_file)

        class OnReplaced(FileSystemEventHandler):
            def on_moved(self, event: FileSystemEvent) -> None:
                if isinstance(event, FileMovedEvent) and event.dest_path == current:
                    loop.call_soon_threadsafe(on_replaced)

        def on_replaced() -> None:
            self._in_background(self._follow_current())

        observer.schedule(OnReplaced(), str(self.store.directory))
        observer.start()

    async def status(self) -> dict[str, Any]:
        """Return what `spamguard status` shows."""
        return {
            "version": spamguard.__version__,
            "pid": os.getpid(),
            "uptime_seconds": round(self._clock() - self._started_at, 1),
            "model": self.pool.version.name,
            "thresholds": {
                "unsure": (self.filter.thresholds or self.pool.thresholds).unsure,
                "spam": (self.filter.thresholds or self.pool.thresholds).spam,
            },
            "scorers": self.pool.process_ids,
            "waiting": self.pool.waiting,
            "listening": self.doors.addresses,
            "counters": self.metrics.snapshot(),
            **self.upkeep.status(),
        }


def _differing(old: BaseModel, new: BaseModel, section: str = "") -> Iterator[str]:
    """Yield the keys of settings that differ and that a reload does not apply."""
    for name in type(old).model_fields:
        before, after, key = getattr(old, name), getattr(new, name), f"{section}{name}"
        if before == after or key in _RELOADED:
            continue
        if isinstance(before, BaseModel):
            yield from _differing(before, after, f"{key}.")
        else:
            yield key


def _log_failure(task: "asyncio.Task[object]") -> None:
    """Take the error of a reload that nobody waits for; it has been logged and counted."""
    with suppress(asyncio.CancelledError, SpamGuardError):
        task.result()


def serve(
    config: Config, reload_config: Callable[[], Config], retrain_command: Sequence[str] = ()
) -> None:
    """Run the daemon until a signal; the body of `spamguard serve`.

    Raises:
        SpamGuardError: see `Daemon.run`.
    """
    notifier = Notifier.from_environment(os.environ)
    passed = passed_sockets(os.environ)

    async def run() -> None:
        await Daemon(
            config,
            reload_config,
            retrain_command=retrain_command,
            notifier=notifier,
            passed=passed,
        ).run()

    asyncio.run(run())


__all__ = ["Daemon", "serve"]
