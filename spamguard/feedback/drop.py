"""The drop directory: files put into it are reports.

::

    DROP/spam/*.eml     DROP/ham/*.eml         a copy by hand, by a script, by a mail program
    DROP/spam/new, cur  DROP/ham/new, cur      as Maildirs; tmp/ is never looked at
    DROP/done                                  recorded files, where the administrator has made it
    DROP/failed                                what holds no report; the log says why

A recorded file is moved to ``done`` if that directory is there, else deleted: the record keeps
the message for as long as it may. Files that are being written are left alone, and so is
everything while the record fails. The reporter is the file's owner; only in a Maildir's ``new``,
and only of a file that the daemon's own user wrote, a first line
``X-SpamGuard-Report: SOURCE USER`` says who it was, as `deploy/dovecot/spamguard-report` writes.
"""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import pwd
import re
import signal
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watchdog.events import (
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

from spamguard.errors import ReportError, StoreError
from spamguard.observe import Metrics
from spamguard.report import CorrectionSink, Report, ReportSource
from spamguard.verdict import Label

log = logging.getLogger(__name__)

MAX_BYTES = 2 * 1024 * 1024  # read of a file: what the record keeps of a message
MAX_FILES = 500  # of one sweep, so that stopping does not wait for a whole mailbox
QUIET_SECONDS = 1.0  # without a change: then a file counts as written
WRITING_SECONDS = 3600.0  # a file held open for longer is taken: some file systems always say so
RETRY_SECONDS = 15.0  # after a failure of the record
LOOK_SECONDS = 60.0  # between sweeps without an event: network file systems send none
_OWN_LINE = re.compile(rb"X-SpamGuard-Report: ([a-z]{1,10}) ([^\x00-\x1f]{1,254})\r?\n")


@dataclass(slots=True, kw_only=True)
class Sweep:
    """What one look at the directory did, as counts.

    Attributes:
        recorded: files recorded.
        failed: files that held no report.
        waiting: files that are being written, or were too many for one sweep.
        is_failing: whether the record failed; the files are still there.
    """

    recorded: int = 0
    failed: int = 0
    waiting: int = 0
    is_failing: bool = False


class DropDirectory:
    """Takes what is in the directory; blocking, for one thread at a time.

    Args:
        root: the directory.
        sink: where reports end.
    """

    def __init__(self, root: Path, sink: CorrectionSink) -> None:
        self.root = root
        self._sink = sink
        self._stuck: set[tuple[Path, int]] = set()  # cannot be moved away: not taken again

    def prepare(self) -> None:
        """Create what is missing, for the daemon's user alone.

        Raises:
            OSError: it cannot be created.
        """
        for label in (Label.SPAM, Label.HAM):
            for part in ("tmp", "new", "cur"):
                (self.root / label / part).mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.root / "failed").mkdir(exist_ok=True, mode=0o700)

    def sweep(self) -> Sweep:
        """Record every complete file, oldest first: of two reports the newer one wins."""
        done = Sweep()
        files = sorted(self._files())
        self._stuck &= {(path, changed_ns) for changed_ns, path, _ in files}
        done.waiting = max(0, len(files) - MAX_FILES)
        for changed_ns, path, label in files[:MAX_FILES]:
            if (path, changed_ns) in self._stuck:
                continue
            try:
                report = _read(path, label)
                receipt = self._sink.record(report) if report else None
            except FileNotFoundError:
                continue  # somebody took it back
            except StoreError as error:
                log.error("report not recorded", extra={"file": str(path), "error": str(error)})  # noqa: TRY400
                done.is_failing = True
                return done
            except ReportError as error:
                done.failed += 1
                log.warning("no report", extra={"file": str(path), "error": str(error)})
                self._put_away(path, changed_ns, self.root / "failed")
                continue
            if report is None or receipt is None:
                done.waiting += 1
            else:
                done.recorded += 1
                log.info(
                    "report dropped",
                    extra={
                        "file": path.name,
                        "label": report.label,
                        "reporter": report.reporter,
                        "correction": receipt.correction_id,
                        "standing": receipt.standing,
                    },
                )
                self._put_away(path, changed_ns, self.root / "done")
        return done

    def _files(self) -> list[tuple[int, Path, Label]]:
        """Return what may be a report: time of the last change in ns, path, label."""
        found = []
        for label in (Label.SPAM, Label.HAM):
            for part in ("", "new", "cur"):
                directory = self.root / label / part
                with contextlib.suppress(OSError), os.scandir(directory) as entries:
                    for entry in entries:
                        if entry.name.startswith(".") or not (part or entry.name.endswith(".eml")):
                            continue
                        with contextlib.suppress(OSError):
                            if not entry.is_dir(follow_symlinks=False):
                                changed_ns = entry.stat(follow_symlinks=False).st_ctime_ns
                                found.append((changed_ns, Path(entry.path), label))
        return found

    def _put_away(self, path: Path, changed_ns: int, target: Path) -> None:
        try:
            if target.is_dir():
                path.replace(target / f"{changed_ns}-{path.name}")
            else:
                path.unlink()
        except OSError as error:
            log.error("file stays", extra={"file": str(path), "error": str(error)})  # noqa: TRY400
            self._stuck.add((path, changed_ns))


def _read(path: Path, label: Label) -> Report | None:
    """Return the report in a file, or None while somebody writes it.

    Raises:
        ReportError: it is no regular file, or cannot be read.
        FileNotFoundError: it is gone.
    """
    try:
        return _read_file(path, label)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ReportError(error.strerror or str(error)) from error


def _read_file(path: Path, label: Label) -> Report | None:
    # Others may write into the directory: follow no link, wait for no pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ReportError("no regular file")
        in_maildir = path.parent.name in {"new", "cur"}
        if not _is_at_rest(descriptor, time.time() - status.st_ctime, in_maildir=in_maildir):
            return None
        raw = stream.read(MAX_BYTES)
    reporter, source = _owner(status.st_uid), ReportSource.DROP
    if path.parent.name == "new" and (said := _OWN_LINE.match(raw)):
        raw = raw[said.end() :]
        if status.st_uid == os.geteuid():
            reporter = said[2].decode("utf-8", "replace")
            with contextlib.suppress(ValueError):
                source = ReportSource(said[1].decode("ascii"))
    return Report(label=label, reporter=reporter.lower(), source=source, raw=raw)


def _is_at_rest(descriptor: int, unchanged_seconds: float, *, in_maildir: bool) -> bool:
    """Whether nobody writes to a file any more.

    A read lease is given only while nobody has the file open for writing (fcntl(2)); where it is
    not ours to ask, and for files that appear under their own name, quiet has to do.
    """
    try:
        # A lease that is broken sends a signal; the default one would end the process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return unchanged_seconds >= WRITING_SECONDS
    else:
        if in_maildir:  # moved there complete, as maildir(5) wants it
            return True
    return unchanged_seconds >= QUIET_SECONDS


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


class DropWatch:
    """Sweeps the directory at the start and whenever a file appears in it.

    Args:
        root: the directory.
        sink: where reports end.
        metrics: counters.
    """

    def __init__(self, root: Path, sink: CorrectionSink, *, metrics: Metrics) -> None:
        self._drop = DropDirectory(root, sink)
        self._metrics = metrics
        self._changed = asyncio.Event()
        self._observer: Any = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; what is there already is taken first.

        Raises:
            OSError: the directory cannot be created or watched.
        """
        self._drop.prepare()
        loop, changed = asyncio.get_running_loop(), self._changed

        class OnFile(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                del event
                loop.call_soon_threadsafe(changed.set)

        observer = Observer()
        for label in (Label.SPAM, Label.HAM):
            # Not every event: our own reading must not wake us.
            observer.schedule(
                OnFile(),
                str(self._drop.root / label),
                recursive=True,
                event_filter=[FileCreatedEvent, FileMovedEvent, FileClosedEvent],
            )
        observer.start()
        self._observer = observer
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(_log_bug)

    async def stop(self) -> None:
        """End, after the sweep under way."""
        if self._observer is not None:
            self._observer.stop()
            await asyncio.to_thread(self._observer.join)
            self._observer = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            sweep = asyncio.create_task(asyncio.to_thread(self._drop.sweep))
            try:
                done = await asyncio.shield(sweep)
            except asyncio.CancelledError:
                await asyncio.wait([sweep])
                raise
            self._metrics.count("reports_dropped", "recorded", by=done.recorded)
            self._metrics.count("reports_dropped", "failed", by=done.failed)
            if done.is_failing:
                self._metrics.count("report_failures")
                await asyncio.sleep(RETRY_SECONDS)
                continue
            wait = QUIET_SECONDS if done.waiting else LOOK_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()


def _log_bug(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("bug: the drop directory is no longer watched", exc_info=error)
