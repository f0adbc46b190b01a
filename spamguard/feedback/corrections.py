"""The record of corrections: append-only rows, the reported messages beside them.

Rows are never changed. A reporter who changes his mind, or takes a report back, adds a row; what
each row is worth is worked out by `trust`. The message is written and synced before the row, as
in the quarantine: a crash in between leaves a file that nothing names, and the next report of
the same message uses it. Only reported mail is kept.
"""

import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sqlite_utils import Database
from sqlite_utils.db import NotFoundError

from spamguard.campaign import campaign_of, simhash
from spamguard.database import open_database, write_transaction
from spamguard.errors import ReportError, StoreError
from spamguard.feedback.trust import UNDO, Correction, Review, Standings, standings
from spamguard.feedback.verdict_log import hash_name, key_of, local_part
from spamguard.message import ParsedMessage, edit_headers, parse_message
from spamguard.model_input import build_model_input
from spamguard.report import Receipt, Report, ReportSource
from spamguard.verdict import ID_HEADER, OUR_HEADERS

MAX_REPORT_BYTES = 2 * 1024 * 1024  # of a message kept; the models read far less
MAX_REPORTER_CHARS = 254  # RFC 5321 section 4.5.3.1.3
# Of one reporter; a tenth counts (`trust.Rules.per_day`). Beyond that somebody fills the disk.
MAX_REPORTS_A_DAY = 1000
_DAY_SECONDS = 86_400
_VERDICT_ID = re.compile(r"[0-9a-f]{21}")
# Ways in where the reporter has the message in his own mailbox or is the administrator: a
# report without a verdict on record is as good as one with.
_BELIEVED_WITHOUT_VERDICT = frozenset({ReportSource.IMAP, ReportSource.CLI, ReportSource.DROP})
# Ways in by which users report; the administrator may bring his own mail by the thousand.
_BOUNDED = frozenset(ReportSource) - {ReportSource.CLI, ReportSource.DROP}
_BULK_FIELDS = frozenset({"list-id", "list-unsubscribe", "list-post", "feedback-id"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """What we had said of a message; see `database.corrections` for the table."""

    verdict_id: str = ""
    predicted: str = ""
    spam_probability: float | None = None
    model_version: str = ""
    recipients: frozenset[str] | None = None


class CorrectionStore:
    """The corrections of one state directory; a `CorrectionSink`.

    Args:
        database: the SQLite file, already migrated.
        directory: of the reported messages.
        clock: seconds since the epoch.
        subject_prefix: what our tagging put before subjects, to be taken off again.
    """

    def __init__(
        self,
        database: Path,
        directory: Path,
        *,
        clock: Callable[[], float] = time.time,
        subject_prefix: str = "",
    ) -> None:
        self._database = database
        self._directory = directory
        self._clock = clock
        self._subject_prefix = subject_prefix

    # -- writing -----------------------------------------------------------------------------

    def record(self, report: Report) -> Receipt:
        """Make one report durable; see `report.CorrectionSink`."""
        if not report.raw.strip():
            raise ReportError("the report holds no message")
        reporter = _checked_reporter(report.reporter)
        wanted = parse_message(report.raw).header(ID_HEADER.lower()).strip()
        raw = self._as_it_came(report.raw)
        message = parse_message(raw)
        if not (message.text or message.html_text or message.header("subject")):
            raise ReportError("the reported message has neither subject nor text")
        if report.source in _BOUNDED:
            self._refuse_a_flood(reporter)
        self._keep(message.fingerprint, raw)
        value = simhash(build_model_input(message).text)
        with write_transaction(self._database) as database:
            original = _find_original(database, wanted, message, reporter)
            is_recipient = _is_recipient(database, original, reporter, report.source)
            if (known := _newest(database, reporter, message.fingerprint)) and (
                known["label"] == report.label
            ):
                correction_id, is_new = known["id"], False
            else:
                row = {
                    "reported_at": self._clock(),
                    "label": str(report.label),
                    "reporter": reporter,
                    "source": str(report.source),
                    "comment": report.comment[:500],
                    "fingerprint": message.fingerprint,
                    "campaign": _campaign(database, message.fingerprint, value),
                    "simhash": "" if value is None else f"{value:016x}",
                    "message_id": message.message_id[:250],
                    "from_address": message.address("from")[1].lower()[:254],
                    "is_bulk": int(_is_bulk(message)),
                    "is_original": int(report.is_original),
                    "is_recipient": is_recipient,
                    "verdict_id": original.verdict_id,
                    "predicted": original.predicted,
                    "spam_probability": original.spam_probability,
                    "model_version": original.model_version,
                }
                correction_id, is_new = database.table("corrections").insert(row).last_pk, True
            standing, reason = _standings(database)[int(correction_id)]
        return Receipt(
            correction_id=int(correction_id), is_new=is_new, standing=standing, reason=reason
        )

    def undo(self, reporter: str, raw: bytes) -> bool:
        """Take back what a reporter said of a message; False when there was nothing."""
        reporter = _checked_reporter(reporter)
        fingerprint = parse_message(self._as_it_came(raw)).fingerprint
        with write_transaction(self._database) as database:
            known = _newest(database, reporter, fingerprint)
            if known is None or known["label"] == UNDO:
                return False
            row = {**known, "label": UNDO, "reported_at": self._clock()}
            del row["id"]
            database.table("corrections").insert(row)
            return True

    def review(self, correction_id: int, decision: str, *, by: str, reason: str = "") -> None:
        """Accept, reject or hold one correction.

        Raises:
            ReportError: there is no such correction.
        """
        with write_transaction(self._database) as database:
            try:
                database.table("corrections").get(correction_id)
            except NotFoundError as error:
                raise ReportError(f"{correction_id}: no such correction") from error
            database.table("reviews").insert(
                {
                    "correction_id": correction_id,
                    "reviewed_at": self._clock(),
                    "decision": decision,
                    "by": by[:MAX_REPORTER_CHARS],
                    "reason": reason[:500],
                }
            )

    def forget(self, person: str) -> int:
        """Erase a person's reports and the messages from or reported by them.

        Args:
            person: a mail address or user name.

        Returns:
            How many rows went. Models that have learned from them are not changed; the next
            retraining does without.
        """
        name = person.strip().lower()
        with write_transaction(self._database) as database:
            doomed = list(
                database.query(
                    "SELECT id, fingerprint FROM corrections"
                    " WHERE reporter = :name OR from_address = :name",
                    {"name": name},
                )
            )
            digest = hash_name(name, key_of(database))
            database.execute(
                "DELETE FROM verdicts WHERE ' ' || recipients || ' ' LIKE ?", [f"% {digest} %"]
            )
            for row in doomed:
                database.execute("DELETE FROM reviews WHERE correction_id = ?", [row["id"]])
                database.execute("DELETE FROM corrections WHERE id = ?", [row["id"]])
            left = _fingerprints(database)
        for fingerprint in {row["fingerprint"] for row in doomed} - left:
            self.path_of(fingerprint).unlink(missing_ok=True)
        return len(doomed)

    def expire(self, *, before: float) -> int:
        """Erase corrections older than a time, and messages that no row names any more."""
        with write_transaction(self._database) as database:
            database.execute(
                "DELETE FROM reviews WHERE correction_id IN"
                " (SELECT id FROM corrections WHERE reported_at < ?)",
                [before],
            )
            cursor = database.execute("DELETE FROM corrections WHERE reported_at < ?", [before])
            left = _fingerprints(database)
        for path in self._directory.glob("*/*.eml"):
            if path.stem not in left and path.stat().st_mtime < before:
                path.unlink(missing_ok=True)
        return int(cursor.rowcount)

    # -- reading -----------------------------------------------------------------------------

    def all(self) -> tuple[list[Correction], Standings]:
        """Return the whole record, oldest first, and what each row is worth."""
        with open_database(self._database) as database:
            corrections = _corrections(database)
            return corrections, standings(corrections, _reviews(database))

    def get(self, correction_id: int) -> tuple[Correction, str, str]:
        """Return one correction with its standing and reason.

        Raises:
            ReportError: there is none of that number.
        """
        corrections, worth = self.all()
        for correction in corrections:
            if correction.id == correction_id:
                standing, reason = worth[correction.id]
                return correction, standing, reason
        raise ReportError(f"{correction_id}: no such correction")

    def raw(self, fingerprint: str) -> bytes:
        """Return a reported message.

        Raises:
            StoreError: its file is gone.
        """
        path = self.path_of(fingerprint)
        try:
            return path.read_bytes()
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}") from error

    def path_of(self, fingerprint: str) -> Path:
        """Return where a reported message is kept; fingerprints are hex digits of our own."""
        if not re.fullmatch(r"[0-9a-f]{8,64}", fingerprint):
            raise ReportError(f"{fingerprint!r}: expected a fingerprint of hex digits")
        return self._directory / fingerprint[:2] / f"{fingerprint}.eml"

    def export(self, target: Path, *, everything: bool = False) -> int:
        """Write corrections as a data set that `train` and `evaluate` read.

        Args:
            target: a new directory.
            everything: also what does not count; its standing is in the last column.

        Raises:
            StoreError: the directory is there already or cannot be written.
        """
        corrections, worth = self.all()
        lines = ["path\tlabel\tkind\tlang\tdate\tcorpus\tuse\tgroup\tstanding"]
        try:
            target.mkdir(parents=True)
            for correction in corrections:
                standing, _ = worth[correction.id]
                if correction.label == UNDO or not (everything or standing == "counted"):
                    continue
                name = f"{correction.id}.eml"
                (target / name).write_bytes(self.raw(correction.fingerprint))
                day = time.strftime("%Y-%m-%d", time.gmtime(correction.reported_at))
                lines.append(
                    f"{name}\t{correction.label}\t{correction.source}\t\t{day}\tcorrections"
                    f"\ttrain\t{correction.campaign}\t{standing}"
                )
            (target / "index.tsv").write_text("\n".join(lines) + "\n", "utf-8")
        except OSError as error:
            raise StoreError(f"{target}: {error.strerror or error}") from error
        return len(lines) - 1

    # -- inside ------------------------------------------------------------------------------

    def _as_it_came(self, raw: bytes) -> bytes:
        """Take off what we had put on: our fields, and the mark before the subject."""
        prefix = self._subject_prefix.strip().encode("ascii", "ignore")
        if prefix:
            pattern = rb"(?im)^(subject:[ \t]*)" + re.escape(prefix) + rb"[ \t]*"
            head, gap, rest = raw.partition(b"\n\r\n" if b"\n\r\n" in raw[:65536] else b"\n\n")
            raw = re.sub(pattern, rb"\1", head, count=1) + gap + rest
        return edit_headers(raw, delete=OUR_HEADERS)

    def _refuse_a_flood(self, reporter: str) -> None:
        with open_database(self._database) as database:
            today = database.table("corrections").count_where(
                "reporter = ? AND reported_at > ?", [reporter, self._clock() - _DAY_SECONDS]
            )
        if today >= MAX_REPORTS_A_DAY:
            raise ReportError(f"more than {MAX_REPORTS_A_DAY} reports in a day")

    def _keep(self, fingerprint: str, raw: bytes) -> None:
        path = self.path_of(fingerprint)
        if path.exists():
            return
        part = path.with_name(f"{path.name}.{os.getpid()}-{time.monotonic_ns()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(raw[:MAX_REPORT_BYTES])
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise StoreError(f"{path}: {error.strerror or error}") from error


def _checked_reporter(reporter: str) -> str:
    name = reporter.strip().lower()
    if not name or len(name) > MAX_REPORTER_CHARS or not name.isprintable():
        raise ReportError(f"reporter {reporter[:60]!r}: expected a mail address or user name")
    return name


def _is_bulk(message: ParsedMessage) -> bool:
    """Whether it is list mail or a newsletter (RFC 2919, RFC 2369, RFC 3834 section 3.1.8)."""
    names = {name for name, _ in message.headers}
    precedence = message.header("precedence").strip().lower()
    return bool(names & _BULK_FIELDS) or precedence in {"bulk", "list", "junk"}


def _find_original(
    database: Database, verdict_id: str, message: ParsedMessage, reporter: str
) -> Original:
    """Find what we had said: by our own id, by Message-ID and recipient, by fingerprint.

    An id counts only with the content it was given to: senders can write any field.
    """
    table = database.table("verdicts")
    if _VERDICT_ID.fullmatch(verdict_id):
        for row in table.rows_where("id = ?", [verdict_id]):
            if row["fingerprint"] == message.fingerprint:
                return _original(row)
    key = key_of(database)
    names = {hash_name(reporter, key), hash_name(local_part(reporter), key)}
    if message.message_id:
        same_id = table.rows_where(
            "message_id = ?", [message.message_id[:250]], order_by="judged_at desc", limit=20
        )
        for row in same_id:
            if names & set(row["recipients"].split()):
                return _original(row)
    newest_first = "judged_at desc"
    rows = list(
        table.rows_where("fingerprint = ?", [message.fingerprint], order_by=newest_first, limit=200)
    )
    own = [row for row in rows if names & set(row["recipients"].split())]
    return _original((own or rows)[0]) if rows else Original()


def _original(row: dict[str, Any]) -> Original:
    return Original(
        verdict_id=row["id"],
        predicted=row["label"],
        spam_probability=row["spam_probability"],
        model_version=row["model_version"] or "",
        recipients=frozenset(row["recipients"].split()),
    )


def _is_recipient(
    database: Database, original: Original, reporter: str, source: ReportSource
) -> int | None:
    """Whether the reporter got the message: 1, 0, or None when nobody can say."""
    if source is ReportSource.CLI:
        return 1  # the administrator's own word
    if original.recipients is None:
        return 1 if source in _BELIEVED_WITHOUT_VERDICT else 0
    key = key_of(database)
    names = {hash_name(reporter, key), hash_name(local_part(reporter), key)}
    if names & original.recipients:
        return 1
    # The IMAP server delivered it to him: an alias, or a shared mailbox.
    return None if source is ReportSource.IMAP else 0


def _newest(database: Database, reporter: str, fingerprint: str) -> dict[str, Any] | None:
    rows = database.table("corrections").rows_where(
        "reporter = ? AND fingerprint = ?", [reporter, fingerprint], order_by="id desc", limit=1
    )
    return next(iter(rows), None)


def _campaign(database: Database, fingerprint: str, value: int | None) -> str:
    known = database.execute("SELECT campaign, simhash FROM corrections WHERE simhash != ''")
    return campaign_of(fingerprint, value, known.fetchall())


def _fingerprints(database: Database) -> set[str]:
    return {row[0] for row in database.execute("SELECT DISTINCT fingerprint FROM corrections")}


_FLAGS = frozenset({"is_bulk", "is_original", "is_recipient"})
_NAMES = tuple(field.name for field in fields(Correction))


def _corrections(database: Database) -> list[Correction]:
    rows: Iterable[dict[str, Any]] = database.table("corrections").rows_where(order_by="id")
    found = []
    for row in rows:
        values: dict[str, Any] = {name: row[name] for name in _NAMES}
        for name in _FLAGS:
            values[name] = None if values[name] is None else bool(values[name])
        found.append(Correction(**values))
    return found


def _reviews(database: Database) -> list[Review]:
    return [
        Review(
            correction_id=row["correction_id"],
            decision=row["decision"],
            by=row["by"],
            reason=row["reason"] or "",
        )
        for row in database.table("reviews").rows_where(order_by="id")
    ]


def _standings(database: Database) -> Standings:
    return standings(_corrections(database), _reviews(database))
