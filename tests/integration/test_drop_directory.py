"""The drop directory with real files, real events and other users' files."""

import asyncio
import os
import time
from contextlib import asynccontextmanager

import pytest

from spamguard.feedback import drop
from spamguard.feedback.drop import DropDirectory, DropWatch
from spamguard.observe import Metrics
from spamguard.report import ReportSource
from spamguard.verdict import Label
from tests.support.sinks import MemorySink

pytestmark = pytest.mark.timeout(60)

RAW = b"From: n@shop.example\r\nSubject: watches\r\n\r\nBuy.\r\n"
OWN_LINE = b"X-SpamGuard-Report: imap Carla@test.example\n"
NOBODY = 65534


@pytest.fixture
def sink():
    return MemorySink()


@pytest.fixture
def directory(tmp_path, sink):
    made = DropDirectory(tmp_path / "drop", sink)
    made.prepare()
    return made


def deliver(root, label, name="1.host", raw=RAW):
    """As maildir(5) wants it."""
    part = root / label / "tmp" / name
    part.write_bytes(raw)
    part.rename(root / label / "new" / name)


def files(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def user_name():
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def test_directories_are_made_for_the_daemon_alone(directory):
    found = sorted(str(p.relative_to(directory.root)) for p in directory.root.rglob("*"))
    labels = [
        f"{label}{part}" for label in ("ham", "spam") for part in ("", "/cur", "/new", "/tmp")
    ]
    assert sorted(["failed", *labels]) == found


def test_maildir_files_are_recorded_at_once_and_deleted(directory, sink):
    deliver(directory.root, "spam")
    (directory.root / "ham" / "cur" / "2:2,S").write_bytes(RAW)
    done = directory.sweep()
    assert (2, 0, 0, False) == (done.recorded, done.failed, done.waiting, done.is_failing)
    assert [
        (Label.SPAM, user_name(), ReportSource.DROP, RAW),
        (Label.HAM, user_name(), ReportSource.DROP, RAW),
    ] == [(r.label, r.reporter, r.source, r.raw) for r in sink.reports]
    assert [] == files(directory.root)


def test_a_plain_file_is_taken_once_it_is_quiet(directory, sink, monkeypatch):
    (directory.root / "spam" / "a.eml").write_bytes(RAW)
    assert 1 == directory.sweep().waiting
    monkeypatch.setattr(drop, "QUIET_SECONDS", 0.0)
    assert 1 == directory.sweep().recorded


def test_a_file_that_is_open_for_writing_is_left_alone(directory, sink, monkeypatch):
    monkeypatch.setattr(drop, "QUIET_SECONDS", 0.0)
    for name in ("spam/a.eml", "spam/new/b"):
        with (directory.root / name).open("wb") as stream:
            stream.write(RAW[:20])
            stream.flush()
            done = directory.sweep()
            assert (0, 1) == (done.recorded, done.waiting)
            stream.write(RAW[20:])
        assert 1 == directory.sweep().recorded
    assert [RAW] == [report.raw for report in sink.reports]  # the same twice


def test_what_is_hidden_or_unfinished_or_something_else_is_not_looked_at(directory, monkeypatch):
    monkeypatch.setattr(drop, "QUIET_SECONDS", 0.0)
    names = ["spam/.a.eml", "spam/a.eml.part", "spam/notes.txt", "spam/tmp/1", "ham/new/.2"]
    for name in names:
        (directory.root / name).write_bytes(RAW)
    done = directory.sweep()
    assert (0, 0, 0) == (done.recorded, done.failed, done.waiting)
    assert sorted(names) == files(directory.root)


def test_a_file_without_a_report_goes_to_failed(directory, sink):
    sink.refuses = b"watches"
    deliver(directory.root, "spam")
    (directory.root / "ham" / "new" / "link").symlink_to("/etc/passwd")
    os.mkfifo(directory.root / "ham" / "new" / "pipe")
    assert 3 == directory.sweep().failed
    assert [] == sink.reports
    left = {p.name.partition("-")[2] for p in (directory.root / "failed").iterdir()}
    assert {"1.host", "link", "pipe"} == left


def test_recorded_files_are_kept_where_the_administrator_has_made_done(directory):
    (directory.root / "done").mkdir()
    deliver(directory.root, "spam")
    directory.sweep()
    [kept] = (directory.root / "done").iterdir()
    assert RAW == kept.read_bytes()


def test_files_stay_while_the_record_fails(directory, sink):
    sink.fails = True
    deliver(directory.root, "spam")
    assert directory.sweep().is_failing
    assert ["spam/new/1.host"] == files(directory.root)
    sink.fails = False
    assert 1 == directory.sweep().recorded


def test_the_newer_of_two_files_is_recorded_last(directory, sink):
    deliver(directory.root, "spam", "1")
    time.sleep(0.02)
    deliver(directory.root, "ham", "0")
    directory.sweep()
    assert [Label.SPAM, Label.HAM] == [report.label for report in sink.reports]


def test_our_own_program_names_source_and_reporter(directory, sink):
    deliver(directory.root, "spam", raw=OWN_LINE + RAW)
    directory.sweep()
    [report] = sink.reports
    assert ("carla@test.example", ReportSource.IMAP, RAW) == (
        report.reporter,
        report.source,
        report.raw,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("part", ["new/1", "a.eml"])
def test_a_user_cannot_speak_for_another(directory, sink, part, monkeypatch):
    monkeypatch.setattr(drop, "QUIET_SECONDS", 0.0)
    path = directory.root / "spam" / part
    path.write_bytes(OWN_LINE + RAW)
    os.chown(path, NOBODY, NOBODY)
    directory.sweep()
    [report] = sink.reports
    assert ("nobody", ReportSource.DROP) == (report.reporter, report.source)


def test_a_recorded_file_that_cannot_be_deleted_is_not_taken_again(directory, sink, monkeypatch):
    def fails(self, *arguments, **options):
        raise PermissionError(1, "Operation not permitted")

    deliver(directory.root, "spam")
    monkeypatch.setattr(drop.Path, "unlink", fails)
    assert [1, 0, 0] == [directory.sweep().recorded for _ in range(3)]


def test_a_sweep_takes_so_many_files_and_says_that_more_wait(directory, monkeypatch):
    monkeypatch.setattr(drop, "MAX_FILES", 2)
    for number in range(5):
        deliver(directory.root, "spam", str(number))
    assert [(2, 3), (2, 1), (1, 0)] == [
        (done.recorded, done.waiting) for done in (directory.sweep() for _ in range(3))
    ]


# -- watching --------------------------------------------------------------------------------


@asynccontextmanager
async def watch(root, sink):
    made = DropWatch(root, sink, metrics=Metrics())
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
        assert {asyncio.current_task()} == asyncio.all_tasks()


async def until(condition, seconds=10):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_was_there_before_the_start_is_taken_too(directory, sink):
    deliver(directory.root, "spam")
    async with watch(directory.root, sink):
        await until(lambda: sink.reports)


async def test_a_delivered_file_is_recorded_within_a_second(directory, sink):
    async with watch(directory.root, sink):
        await asyncio.sleep(0.2)
        started = time.monotonic()
        deliver(directory.root, "spam")
        await until(lambda: sink.reports)
        assert time.monotonic() - started < 1


async def test_a_growing_file_is_recorded_whole(directory, sink):
    async with watch(directory.root, sink):
        with (directory.root / "ham" / "slow.eml").open("wb") as stream:
            for start in range(0, len(RAW), 10):
                stream.write(RAW[start : start + 10])
                stream.flush()
                await asyncio.sleep(0.05)
        await until(lambda: sink.reports)
    assert [RAW] == [report.raw for report in sink.reports]


async def test_a_failing_record_is_tried_again(directory, sink, monkeypatch):
    monkeypatch.setattr(drop, "RETRY_SECONDS", 0.05)
    sink.fails = True
    async with watch(directory.root, sink) as made:
        deliver(directory.root, "spam")
        await until(lambda: made._metrics.snapshot().get("report_failures", 0) > 1)
        sink.fails = False
        await until(lambda: sink.reports)


async def test_an_idle_watch_sleeps(directory, sink):
    sweeps = []
    async with watch(directory.root, sink) as made:
        real = made._drop.sweep
        made._drop.sweep = lambda: sweeps.append(1) or real()
        (directory.root / "ham" / ".hidden.eml").write_bytes(RAW)
        deliver(directory.root, "spam")
        await until(lambda: sink.reports)
        await asyncio.sleep(0.3)
        count = len(sweeps)
        await asyncio.sleep(0.7)
        assert count == len(sweeps)
