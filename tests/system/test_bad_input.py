"""What an administrator meets: each with one clear message and the code of sysexits.h.

A disk that is full or read-only is a real one, mounted where only the daemon sees it; rights are
checked by the kernel once root's privilege to pass them by is dropped.
"""

import os
import shutil
import smtplib
import socket
import sqlite3
import subprocess
import sys
import time
from asyncio import to_thread
from contextlib import closing

import pytest
from sqlite_utils import Database

from spamguard.database import migrate, migrations
from tests.support.daemons import Daemon
from tests.support.mail import SPAM, message
from tests.support.next_hop_server import next_hop_server
from tests.support.programs import cannot_run, require_program
from tests.support.toy_model import write_toy_model

pytestmark = pytest.mark.timeout(120)

NO_PRIVILEGE = (
    "setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--",
)  # fmt: skip
DISK_KILOBYTES = 2048


@pytest.fixture(scope="module")
def _fresh_mailbox():
    """Take the place of the Postfix tests' fixture, which would start a whole site."""


@pytest.fixture
def daemon(tmp_path):
    require_program("setpriv")
    made = Daemon(tmp_path, **{"model.version": str(write_toy_model(tmp_path / "toy"))})
    made.state.mkdir(mode=0o700)
    yield made
    made.stop()


def on_mount(daemon, how):
    """Return a command that gives what follows a state directory of its own."""
    if os.geteuid() != 0:
        cannot_run("mounting takes root")
    script = how.format(state=daemon.state) + '; exec "$@"'
    return [require_program("unshare"), "--mount", "sh", "-ec", script, "sh"]


def refused(daemon, *prefix):
    """Start it; return its exit code and the one line that it says."""
    ended = subprocess.run(
        [*prefix, *daemon.command("serve")], capture_output=True, text=True, timeout=60, check=False
    )
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("info ")]
    assert 1 == len(lines), ended.stderr
    return ended.returncode, lines[0]


def test_an_occupied_port(daemon):
    with socket.create_server(("127.0.0.1", daemon.milter_port)):
        code, line = refused(daemon)
    assert os.EX_OSERR == code
    assert f"milter.listen = '127.0.0.1:{daemon.milter_port}'" in line
    assert "address already in use" in line


def test_half_a_configuration(daemon):
    path = daemon.directory / "half.toml"
    path.write_text('[milter]\nlisten = "127.0.0.1:\nsocket_mode = ')
    serve = [sys.executable, "-m", "spamguard", "-c", str(path), "serve"]
    daemon.command = lambda *_: serve
    code, line = refused(daemon)
    assert os.EX_CONFIG == code
    assert f"{path}: not valid TOML" in line
    assert "at line 2" in line
    path.write_text("")
    path.chmod(0)
    code, line = refused(daemon, *NO_PRIVILEGE)
    assert (os.EX_CONFIG, f"spamguard: {path}: Permission denied") == (code, line)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda file: file.chmod(0), "linear.safetensors: Permission denied"),
        (lambda file: os.truncate(file, 1000), "linear.safetensors: SHA-256"),
        (lambda file: file.unlink(), "linear.safetensors: No such file"),
        (lambda file: (file.parent / "manifest.json").write_text("{"), "expected a model manifest"),
    ],
    ids=["mode", "cut", "missing", "manifest"],
)
def test_an_unreadable_model(daemon, spoil, words):
    spoil(daemon.directory / "toy" / "linear.safetensors")
    code, line = refused(daemon, *NO_PRIVILEGE)
    assert os.EX_CONFIG == code
    assert words in line


@pytest.mark.parametrize("name", ["", "spamguard.db", "daemon.lock"])
def test_wrong_permissions(daemon, name):
    migrate(daemon.state / "spamguard.db")
    (daemon.state / "daemon.lock").touch()
    (daemon.state / name).chmod(0o500 if not name else 0o000)
    code, line = refused(daemon, *NO_PRIVILEGE)
    (daemon.state / name).chmod(0o700)
    assert os.EX_NOPERM == code
    assert str(daemon.state) in line


def test_a_state_directory_of_somebody_else(daemon):
    migrate(daemon.state / "spamguard.db")
    shutil.chown(daemon.state / "spamguard.db", 65534)
    (daemon.state / "spamguard.db").chmod(0o644)
    code, line = refused(daemon, *NO_PRIVILEGE)
    assert os.EX_NOPERM == code
    assert "spamguard.db" in line


def test_a_full_disk(daemon):
    full = "mount -t tmpfs -o size=64k tmpfs {state}; head -c 60k /dev/zero >{state}/other"
    code, line = refused(daemon, *on_mount(daemon, full))
    assert os.EX_IOERR == code
    assert "full" in line or "No space left" in line


def test_a_read_only_state(daemon):
    migrate(daemon.state / "spamguard.db")
    read_only = "mount --bind {state} {state}; mount -o remount,bind,ro {state}"
    code, line = refused(daemon, *on_mount(daemon, read_only))
    assert (os.EX_IOERR, f"spamguard: {daemon.state}: Read-only file system") == (code, line)


def test_a_newer_database(daemon):
    path = daemon.state / "spamguard.db"
    migrate(path)
    database = Database(path)
    newer = {"migration_set": "spamguard", "name": "from_the_future", "applied_at": "2030"}
    database.table(migrations.migrations_table).insert(newer)
    database.close()
    before = path.read_bytes()
    code, line = refused(daemon)
    assert os.EX_CONFIG == code
    assert "written by a newer SpamGuard (migration from_the_future)" in line
    assert before == path.read_bytes()


def write_older_database(daemon, rows=1):
    database = Database(daemon.state / "spamguard.db")
    migrations.apply(database, stop_before="corrections")
    kept = {
        "state": "released",
        "held_at": time.time(),
        "reverse_path": "x" * 1000,
        "recipients": "[]",
    }
    database.table("held").insert_all({"id": f"{number:021}", **kept} for number in range(rows))
    database.close()


def test_an_older_database_is_copied_then_migrated_and_the_copy_goes_back(daemon):
    write_older_database(daemon)
    path = daemon.state / "spamguard.db"
    daemon.start()
    copy = daemon.state / "spamguard.db.before-corrections"
    with closing(sqlite3.connect(copy)) as before:
        tables = {name for (name,) in before.execute("select name from sqlite_master")}
        assert (1,) == before.execute("select count(*) from held").fetchone()
    assert "held" in tables
    assert "corrections" not in tables
    assert 0o600 == copy.stat().st_mode & 0o777
    daemon.stop()
    copy.replace(path)  # as the page says
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    daemon.start()
    assert copy.exists()


def test_a_disk_without_room_for_the_copy_changes_nothing(daemon):
    write_older_database(daemon, rows=500)
    kept = daemon.directory / "kept.db"
    shutil.copy(daemon.state / "spamguard.db", kept)
    size = kept.stat().st_size * 3 // 2048  # in KB: half a copy beside it
    small = (
        f"mount -t tmpfs -o mode=700,size={size}k tmpfs {{state}}; cp {kept} {{state}}/spamguard.db"
    )
    script = f'{small}; "$@"; code=$?; ls {{state}} >{daemon.directory}/left; exit $code'
    command = [
        require_program("unshare"), "--mount", "sh", "-c",
        script.format(state=daemon.state), "sh", *daemon.command("serve"),
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert os.EX_IOERR == ended.returncode, ended.stderr
    assert "full" in ended.stderr
    left = (daemon.directory / "left").read_text().split()
    assert not [name for name in left if "before" in name or "part" in name]


@pytest.mark.parametrize("keep", [0, 20_000], ids=["not a database", "cut"])
def test_a_broken_database(daemon, keep):
    path = daemon.state / "spamguard.db"
    migrate(path)
    path.write_bytes(path.read_bytes()[:keep] or os.urandom(5000))
    code, line = refused(daemon)
    assert os.EX_IOERR == code
    assert str(path) in line


def test_a_clock_that_stands_before_what_was_written(daemon):
    path = daemon.state / "spamguard.db"
    migrate(path)
    later = time.time() + 40 * 86_400
    os.utime(path, (later, later))
    code, line = refused(daemon)
    assert os.EX_TEMPFAIL == code
    assert "the clock says" in line


async def test_a_disk_that_fills_while_mail_flows_costs_the_hold_and_not_the_mail(daemon):
    disk = "mount -t tmpfs -o mode=700,size=%dk tmpfs {state}" % DISK_KILOBYTES
    plain = daemon.command
    daemon.command = lambda *arguments: [*on_mount(daemon, disk), *plain(*arguments)]

    def send():
        with smtplib.SMTP("127.0.0.1", daemon.smtp_port, timeout=30) as client:
            client.sendmail("ann@sender.example", ["bob@test.example"], message(SPAM))

    async with next_hop_server() as next_hop:
        daemon.settings["smtp.next_hop"] = next_hop.endpoint
        await to_thread(daemon.start)
        inside = f"/proc/{daemon.process.pid}/root{daemon.state}"
        await to_thread(send)
        assert [] == next_hop.messages  # held
        with open(f"{inside}/other", "wb") as file, pytest.raises(OSError, match="No space"):
            while True:
                os.write(file.fileno(), bytes(1024))
        await to_thread(send)
        assert 1 == len(next_hop.messages)  # tagged
        assert 1 == daemon.status()["counters"]["quarantine_failures"]
        os.unlink(f"{inside}/other")
        await to_thread(send)
        assert 1 == len(next_hop.messages)  # held again
        assert 0 == await to_thread(daemon.stop)
    assert "Traceback" not in daemon.log.read_text()
