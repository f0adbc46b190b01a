"""The one SQLite database: opened safely, migrated forward, never by two threads at once.

Whoever needs it opens a connection for one piece of work and closes it again: a connection
belongs to its thread, and opening one costs less than a millisecond.
"""

import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlite_utils import Database, Migrations

from spamguard.errors import StoreBusyError, StoreError

BUSY_TIMEOUT_SECONDS = 30  # writers wait for each other this long

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
        StoreError: it cannot be opened or written, or the work fails in SQLite.
    """
    connection = None
    try:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS)
        connection.execute("PRAGMA synchronous=FULL")  # a commit survives a power cut
        yield Database(connection)
    except (sqlite3.Error, OSError) as error:
        # The primary code is in the low byte: SQLITE_BUSY_SNAPSHOT and others are busy too.
        is_busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
        kind = StoreBusyError if is_busy else StoreError
        raise kind(f"{path}: {error}") from error
    finally:
        if connection is not None:
            connection.close()


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
        StoreError: it was written by a newer version, or cannot be changed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StoreError(f"{path.parent}: {error.strerror or error}") from error
    is_new = not path.exists()
    with open_database(path) as database:
        database.enable_wal()
        known = {migration.name for migration in migrations._migrations}  # noqa: SLF001
        applied = {migration.name for migration in migrations.applied(database)}
        if newer := applied - known:
            raise StoreError(
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
    copy = sqlite3.connect(part)
    try:
        database.conn.backup(copy)
    finally:
        copy.close()
    shutil.move(part, target)
