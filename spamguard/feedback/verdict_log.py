"""What we said of which message, kept for a month so that a correction finds its original.

Written in batches off the event loop: one commit a second costs a busy server nothing, and what
a crash loses is a second of look-ups, no mail. Recipients are kept as keyed hashes; subject and
text are not kept at all.
"""

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from spamguard.database import open_database, write_transaction
from spamguard.errors import StoreError
from spamguard.message import Envelope
from spamguard.verdict import Score, Verdict

log = logging.getLogger(__name__)

RETENTION_DAYS = 30
FLUSH_SECONDS = 1.0
MAX_WAITING = 20_000  # rows kept in memory while the database cannot be written
_DAY_SECONDS = 86_400


class VerdictLog:
    """Collects verdicts and writes them.

    Args:
        database: the SQLite file, already migrated.
        clock: seconds since the epoch.
    """

    def __init__(self, database: Path, *, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._waiting: deque[dict[str, Any]] = deque(maxlen=MAX_WAITING)
        self._task: asyncio.Task[None] | None = None
        self._key = b""

    def note(self, verdict: Verdict, envelope: Envelope, score: Score) -> None:
        """Remember one verdict; returns at once."""
        self._waiting.append(
            {
                "id": verdict.id,
                "judged_at": self._clock(),
                "fingerprint": score.fingerprint,
                "message_id": score.message_id[:250],
                "recipients": hash_addresses(envelope.recipients, self._key),
                "label": str(verdict.label),
                "spam_probability": verdict.spam_probability,
                "model_version": verdict.model_version,
            }
        )

    async def start(self) -> None:
        """Read the key and begin to write."""
        self._key = await asyncio.to_thread(address_key, self._database)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Write what is left."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            await self._flush()

    async def expire(self) -> None:
        """Forget what is older than the retention."""
        await asyncio.to_thread(self._expire)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self._flush()

    async def _flush(self) -> None:
        if not self._waiting:
            return
        rows = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            await asyncio.to_thread(self._write, rows)
        except StoreError as error:
            # Mail goes on; corrections of these messages are matched by their content alone.
            log.warning("verdict log not written", extra={"error": str(error)})
            self._waiting.extendleft(reversed(rows[-MAX_WAITING // 2 :]))

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with open_database(self._database) as database:
            database.conn.execute("PRAGMA synchronous=NORMAL")  # a lost second is no lost mail
            database.table("verdicts").insert_all(rows, ignore=True)

    def _expire(self) -> None:
        before = self._clock() - RETENTION_DAYS * _DAY_SECONDS
        with write_transaction(self._database) as database:
            database.execute("DELETE FROM verdicts WHERE judged_at < ?", [before])


def address_key(database: Path) -> bytes:
    """Return this installation's key for hashing addresses."""
    with open_database(database) as opened:
        return key_of(opened)


def key_of(database: Database) -> bytes:
    """Return the key from an open database."""
    value: bytes = database.table("secrets").get("address-hash")["value"]
    return value


def hash_addresses(addresses: Iterable[str], key: bytes) -> str:
    """Return the keyed hashes of addresses and of their local parts, blank separated.

    IMAP servers often know a user by the local part alone.
    """
    names = dict.fromkeys(
        name for address in addresses for name in (address.lower(), local_part(address))
    )
    return " ".join(hash_name(name, key) for name in names)


def hash_name(name: str, key: bytes) -> str:
    """Return one name's keyed hash, 12 hex digits: enough to compare, too short to list."""
    data = name.lower().encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, key=key, digest_size=6).hexdigest()


def local_part(address: str) -> str:
    """Return what stands before the @, without a ``+detail`` (RFC 5233), in lower case."""
    return address.rpartition("@")[0].lower().partition("+")[0] or address.lower()
