"""The one SQLite database: opened safely, migrated forward, never by two threads at once.

Whoever needs it opens a connection for one piece of work and closes it again: a connection
belongs to its thread, and opening one costs less than a millisecond.
"""

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlite_utils import Database, Migrations

from spamguard.errors import (
    ClockError,
    SchemaError,
    StoreAccessError,
    StoreBusyError,
    StoreError,
)

BUSY_TIMEOUT_SECONDS = 30  # writers wait for each other this long
# How far the clock may stand before our last write. Retention counts in days; a machine that
# starts without a clock is years off.
MAX_CLOCK_LAG_SECONDS = 24 * 3600.0
# SQLite's words for owner or mode being wrong; a whole file system that is read-only is found
# before a database is opened.
_NO_ACCESS = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}

migrations = Migrations("spamguard")


@migrations()
def held_messages(database: Database) -> None:
    """Create the index of the quarantine."""
    database.table("held").create(
        {
            "id": str,
            "state": str,  # held, released, deleted
            "held_at": float,
            "changed_at": float,
            "frontend": str,
            "queue_id": str,
            "client_ip": str,
            "helo": str,
            "authenticated_user": str,
            "reverse_path": str,
            "recipients": str,  # a JSON list
            "header_from": str,
            "subject": str,
            "size": int,
            "label": str,
            "spam_probability": float,
            "model_version": str,
            "reason": str,
        },
        pk="id",
        not_null={"id", "state", "held_at", "reverse_path", "recipients"},
    ).create_index(["state", "held_at"])


@migrations()
def corrections(database: Database) -> None:
    """Create what users' corrections need: verdicts to find the original, the record, reviews."""
    database.table("verdicts").create(
        {
            "id": str,
            "judged_at": float,
            "fingerprint": str,
            "message_id": str,
            "recipients": str,  # keyed hashes, blank separated; see feedback.verdict_log
            "label": str,
            "spam_probability": float,
            "model_version": str,
        },
        pk="id",
        not_null={"id", "judged_at", "fingerprint"},
    )
    for columns in (["fingerprint"], ["message_id"], ["judged_at"]):
        database.table("verdicts").create_index(columns)
    database.table("corrections").create(
        {
            "id": int,
            "reported_at": float,
            "label": str,  # ham, spam, or undo
            "reporter": str,
            "source": str,
            "comment": str,
            "fingerprint": str,
            "campaign": str,  # near-duplicates share it; see feedback.campaign
            "simhash": str,  # 16 hex digits, or "" for a short text
            "message_id": str,
            "from_address": str,
            "is_bulk": int,
            "is_original": int,
            "is_recipient": int,  # 1 yes, 0 no, null when the original is not on record
            "verdict_id": str,
            "predicted": str,
            "spam_probability": float,
            "model_version": str,
        },
        pk="id",
        not_null={"reported_at", "label", "reporter", "source", "fingerprint", "campaign"},
    )
    for columns in (["fingerprint"], ["campaign"], ["reporter", "reported_at"]):
        database.table("corrections").create_index(columns)
    database.table("reviews").create(
        {
            "id": int,
            "correction_id": int,
            "reviewed_at": float,
            "decision": str,  # accept, reject, hold
            "by": str,
            "reason": str,
        },
        pk="id",
        not_null={"correction_id", "reviewed_at", "decision", "by"},
        foreign_keys=[("correction_id", "corrections", "id")],
    ).create_index(["correction_id"])
    database.table("drift_references").create(
        {"version": str, "made_at": float, "reference": str}, pk="version"
    )
    database.table("secrets").create({"name": str, "value": bytes}, pk="name")
    database.table("secrets").insert({"name": "address-hash", "value": secrets.token_bytes(32)})


@contextmanager
def open_database(path: Path) -> Iterator[Database]:
    """Open the database for one piece of work.

    Raises:
        StoreBusyError: another process kept it locked.
        StoreAccessError: its owner or mode, or its directory's, are wrong.
        StoreError: it cannot be opened or written, or the work fails in SQLite.
    """
    connection = None
    try:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS)
        connection.execute("PRAGMA synchronous=FULL")  # a commit survives a power cut
        yield Database(connection)
    except sqlite3.Error as error:
        # The primary code is in the low byte: SQLITE_BUSY_SNAPSHOT and others are busy too.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_BUSY:
            raise StoreBusyError(f"{path}: {error}") from error
        if code in _NO_ACCESS:
            raise StoreAccessError(
                f"{path}: {error}: expected it and its directory to be user {os.geteuid()}'s"
            ) from error
        raise StoreError(f"{path}: {error}") from error
    except OSError as error:
        raise store_error(path, error) from error
    finally:
        if connection is not None:
            connection.close()


def store_error(path: Path, error: OSError) -> StoreError:
    """Return what an error of the operating system means for our state."""
    kind = StoreAccessError if isinstance(error, PermissionError) else StoreError
    return kind(f"{path}: {error.strerror or error}")


def check_clock(path: Path, now: float) -> None:
    """Refuse a clock that has not been set: what is written with it would expire at once later.

    Raises:
        ClockError: it stands long before the last write to the database.
    """
    files = (path, path.with_name(f"{path.name}-wal"))
    written_at = max((file.stat().st_mtime for file in files if file.exists()), default=0.0)
    if now < written_at - MAX_CLOCK_LAG_SECONDS:
        said, known = (
            f"{datetime.fromtimestamp(t, UTC):%Y-%m-%d %H:%M}Z" for t in (now, written_at)
        )
        raise ClockError(
            f"{path}: the clock says {said}, but this was written at {known}: set the clock, or"
            " touch the file if that time was wrong"
        )


@contextmanager
def write_transaction(path: Path) -> Iterator[Database]:
    """Open the database and take its write lock before anything is read.

    A transaction that reads first and writes later fails at once, without waiting, when another
    writer was faster in between (SQLITE_BUSY_SNAPSHOT): ten reports at once would lose some.

    Raises:
        StoreError: see `open_database`; nothing of the work is kept then.
    """
    with open_database(path) as database:
        database.conn.execute("BEGIN IMMEDIATE")
        try:
            yield database
        except BaseException:
            database.conn.rollback()
            raise
        database.conn.commit()


def migrate(path: Path) -> None:
    """Bring the database to this version's schema, creating it when it is not there.

    Before an existing one is changed it is copied to ``NAME.before-MIGRATION``.

    Raises:
        SchemaError: it was written by a newer version.
        StoreError: it cannot be changed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        is_new = not path.exists()
    except OSError as error:
        raise store_error(path.parent, error) from error
    with open_database(path) as database:
        database.enable_wal()
        known = {migration.name for migration in migrations._migrations}  # noqa: SLF001
        applied = {migration.name for migration in migrations.applied(database)}
        if newer := applied - known:
            raise SchemaError(
                f"{path}: written by a newer SpamGuard (migration {min(newer)}): "
                "install that version again, or restore the backup beside the database"
            )
        pending = migrations.pending(database)
        if pending and not is_new and applied:
            _back_up(database, path.with_name(f"{path.name}.before-{pending[0].name}"))
        migrations.apply(database)
        path.chmod(0o600)


def examine(path: Path) -> list[str]:
    """Return what is wrong with a database, in words; nothing is written to it.

    Raises:
        StoreError: it cannot be opened or is no database.
    """
    connection = None
    try:
        connection = sqlite3.connect(
            # Not mode=ro, which leaves -shm and -wal behind where no daemon runs.
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=BUSY_TIMEOUT_SECONDS,
        )
        connection.execute("PRAGMA query_only=ON")
        rows = connection.execute("PRAGMA quick_check(10)").fetchall()
        problems = [text for (text,) in rows if text != "ok"]
        database = Database(connection)
        known = {migration.name for migration in migrations._migrations}  # noqa: SLF001
        applied = {migration.name for migration in migrations.applied(database)}
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{path}: {error}") from error
    finally:
        if connection is not None:
            connection.close()
    problems += [f"written by a newer SpamGuard (migration {name})" for name in applied - known]
    return problems + [f"not migrated yet ({name})" for name in sorted(known - applied)]


def _back_up(database: Database, target: Path) -> None:
    part = target.with_suffix(".part")
    try:
        with closing(sqlite3.connect(part)) as copy:
            database.conn.backup(copy)
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)  # a full disk has no room for half a copy
        raise
