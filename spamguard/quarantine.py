"""Held messages: durable before anybody is told, found again, released once, expired.

A message is a file ``ab/<id>.eml`` (the bytes as received) and a row in the database. The file
is written, synced and renamed before the row is committed, and only then does the MTA hear that
we have the message: a crash in between leaves a file without row, whose message the MTA still
has and sends again. Releasing sends first and marks afterwards: a crash in between can deliver
a message twice, never zero times.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

from spamguard.database import open_database
from spamguard.errors import DeliveryError, SpamGuardError, StoreError
from spamguard.message import Envelope, decode_words, edit_headers, parse_message
from spamguard.verdict import Verdict

RELEASED_HEADER = "X-SpamGuard-Released"
ORPHAN_SECONDS = 3600  # a file without row this old belongs to no hold under way
_HEADER_BYTES = 64 * 1024  # looked at for Subject and From

Send = Callable[[bytes, str, Sequence[str]], list[tuple[str, str]]]
"""Deliver (raw, reverse path, recipients); returns refused (recipient, reply) pairs."""


class NotHeldError(SpamGuardError):
    """There is no such message in the quarantine, or not in a state for this."""

    exit_code = 65  # EX_DATAERR


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldMessage:
    """One row of the quarantine's index; see `database.held_messages` for the columns."""

    id: str
    state: str
    held_at: float
    changed_at: float
    frontend: str
    queue_id: str
    client_ip: str | None
    helo: str
    authenticated_user: str
    reverse_path: str
    recipients: tuple[str, ...]
    header_from: str
    subject: str
    size: int
    label: str
    spam_probability: float | None
    model_version: str | None
    reason: str


class QuarantineStore:
    """The quarantine of one state directory.

    Args:
        directory: of the message files.
        database: the SQLite file, already migrated.
        clock: seconds since the epoch.
    """

    def __init__(
        self, directory: Path, database: Path, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._directory = directory
        self._database = database
        self._clock = clock

    def path_of(self, message_id: str) -> Path:
        """Return where a message's file is; ids are our own hex digits."""
        if not message_id.isalnum():
            raise NotHeldError(f"{message_id!r}: expected an id of hex digits")
        # The last two digits are random; the first are the time.
        return self._directory / message_id[-2:] / f"{message_id}.eml"

    def hold(self, raw: bytes, *, envelope: Envelope, verdict: Verdict) -> None:
        """Make one message durable.

        Raises:
            StoreError: it is not; the caller keeps the message.
        """
        path = self.path_of(verdict.id)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write_durably(path, raw)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}") from error
        message = parse_message(raw[:_HEADER_BYTES])
        now = self._clock()
        row: dict[str, Any] = {
            "id": verdict.id,
            "state": "held",
            "held_at": now,
            "changed_at": now,
            "frontend": envelope.frontend,
            "queue_id": _storable(envelope.queue_id),
            "client_ip": envelope.client_ip,
            "helo": _storable(envelope.helo),
            "authenticated_user": _storable(envelope.authenticated_user),
            "reverse_path": _storable(envelope.reverse_path),
            "recipients": json.dumps(envelope.recipients),
            "header_from": _storable(decode_words(message.header("from"))[:300]),
            "subject": _storable(message.header("subject")[:300]),
            "size": len(raw),
            "label": str(verdict.label),
            "spam_probability": verdict.spam_probability,
            "model_version": verdict.model_version,
            "reason": verdict.reason,
        }
        try:
            with open_database(self._database) as database:
                database.table("held").insert(row)
        except StoreError:
            path.unlink(missing_ok=True)
            raise

    def find(
        self,
        *,
        state: str | None = "held",
        recipient: str = "",
        sender: str = "",
        subject: str = "",
        since: float = 0.0,
        until: float | None = None,
        limit: int = 1000,
    ) -> list[HeldMessage]:
        """Return held messages, newest first.

        Args:
            state: held, released or deleted; None for all.
            recipient: part of a recipient's address, compared without case.
            sender: part of the reverse path or From field, likewise.
            subject: part of the subject, likewise.
            since: held at this time or later, seconds since the epoch.
            until: held at this time or before.
            limit: at most so many.

        Raises:
            StoreError: the database cannot be read.
        """
        where = ["held_at >= :since", "held_at <= :until"]
        values: dict[str, Any] = {
            "since": since,
            "until": until if until is not None else 1e12,
            "state": state,
            "recipient": f"%{_like(json.dumps(recipient)[1:-1])}%",
            "sender": f"%{_like(sender)}%",
            "subject": f"%{_like(subject)}%",
        }
        if state is not None:
            where.append("state = :state")
        if recipient:
            where.append("recipients like :recipient escape '\\'")
        if sender:
            where.append(
                "(reverse_path like :sender escape '\\' or header_from like :sender escape '\\')"
            )
        if subject:
            where.append("subject like :subject escape '\\'")
        with open_database(self._database) as database:
            rows = list(
                database.table("held").rows_where(
                    " and ".join(where), values, order_by="held_at desc, id desc", limit=limit
                )
            )
        return [_held(row) for row in rows]

    def get(self, message_id: str) -> HeldMessage:
        """Return one message by its id or an unambiguous beginning of it.

        Raises:
            NotHeldError: there is none, or several.
        """
        if not message_id.isalnum():
            raise NotHeldError(f"{message_id!r}: expected an id of hex digits")
        with open_database(self._database) as database:
            rows = list(database.table("held").rows_where("id like ?", [f"{message_id}%"], limit=2))
        if not rows:
            raise NotHeldError(f"{message_id}: not in the quarantine")
        if len(rows) > 1 and rows[0]["id"] != message_id:
            raise NotHeldError(f"{message_id}: several ids begin so, give more digits")
        return _held(rows[0])

    def raw(self, message_id: str) -> bytes:
        """Return the bytes of a message as received.

        Raises:
            StoreError: the file is not there any more.
        """
        path = self.path_of(message_id)
        try:
            return path.read_bytes()
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}") from error

    def release(self, message_id: str, send: Send) -> HeldMessage:
        """Deliver a held message with its original envelope, then mark it released.

        The message goes out byte for byte as it came, with one trace field on top. Recipients
        that the next hop refuses stay held.

        Raises:
            NotHeldError: it is not held (any more), or another release is under way.
            DeliveryError: it was not delivered to all; it stays held for the others.
            StoreError: it cannot be read or marked.
        """
        with self._locked(message_id) as message:
            trace = f"{message.id}; {formatdate(self._clock())}"
            raw = edit_headers(self.raw(message.id), add=[(RELEASED_HEADER, trace)])
            refused = send(raw, message.reverse_path, message.recipients)
            if refused:
                left = [recipient for recipient, _ in refused]
                self._update(message.id, {"recipients": json.dumps(left)})
                raise DeliveryError(
                    f"{message.id}: refused for " + ", ".join(f"{r} ({why})" for r, why in refused)
                )
            self._update(message.id, {"state": "released"})
        return message

    def delete(self, message_id: str) -> HeldMessage:
        """Delete a held message's bytes; its row stays until it expires.

        Raises:
            NotHeldError: it is not held (any more).
            StoreError: the database cannot be written.
        """
        with self._locked(message_id) as message:
            self._update(message.id, {"state": "deleted"})
            self.path_of(message.id).unlink(missing_ok=True)
        return message

    def expire(self, *, before: float) -> int:
        """Forget everything held before that time; return how many messages that were.

        Raises:
            StoreError: the database cannot be written.
        """
        with open_database(self._database) as database:
            rows = list(database.table("held").rows_where("held_at < ?", [before], select="id"))
            database.table("held").delete_where("held_at < ?", [before])
        for row in rows:
            self.path_of(row["id"]).unlink(missing_ok=True)
        return len(rows)

    def recover(self) -> int:
        """Remove what a crash left: parts, and files without row; return how many.

        Their messages were never acknowledged, so the MTA has them still.
        """
        if not self._directory.is_dir():
            return 0
        with open_database(self._database) as database:
            known = {row["id"] for row in database.table("held").rows_where(select="id")}
        removed = 0
        for path in self._directory.glob("??/*"):
            is_stray = path.suffix == ".part" or path.stem not in known
            if is_stray and self._clock() - path.stat().st_mtime > ORPHAN_SECONDS:
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    @contextmanager
    def _locked(self, message_id: str) -> Iterator[HeldMessage]:
        """Hold the file's lock, so that two releases at once send one message."""
        message = self.get(message_id)
        path = self.path_of(message.id)
        try:
            stream = path.open("rb")
        except OSError as error:
            if message.state != "held":
                raise NotHeldError(f"{message.id}: already {message.state}") from error
            raise StoreError(f"{path}: {error.strerror or error}") from error
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise NotHeldError(f"{message.id}: is being released") from error
            message = self.get(message.id)  # as it is now that nobody else changes it
            if message.state != "held":
                raise NotHeldError(f"{message.id}: already {message.state}")
            yield message

    def _update(self, message_id: str, changes: dict[str, Any]) -> None:
        with open_database(self._database) as database:
            changes = {**changes, "changed_at": self._clock()}
            database.table("held").update(message_id, changes)


def _write_durably(path: Path, raw: bytes) -> None:
    """Write beside, sync, rename, sync the directory: the file is whole or not there."""
    part = path.with_suffix(".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with open(descriptor, "wb", closefd=False) as stream:
            stream.write(raw)
            stream.flush()
            os.fsync(descriptor)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    part.replace(path)
    for directory in (path.parent, path.parent.parent):  # the second may have a new entry
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _held(row: dict[str, Any]) -> HeldMessage:
    return HeldMessage(**{**row, "recipients": tuple(json.loads(row["recipients"]))})


def _storable(text: str) -> str:
    """Replace what is no Unicode text: SQLite stores UTF-8."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _like(text: str) -> str:
    return text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
