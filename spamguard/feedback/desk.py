"""The desk behind the report addresses: who may report, and the reply his mail gets.

Mail doors ask it (as `report.ReportDesk`) by recipient and only render its replies. A report is
on disk before it is answered with 250; when the record fails, 451 leaves the mail with its
sender. A report mail is never judged for its own sake: it quotes spam.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Collection, Sequence

from spamguard.errors import ReportError, StoreError
from spamguard.feedback.mail_reports import read_reports
from spamguard.message import Envelope
from spamguard.observe import Metrics
from spamguard.report import CorrectionSink
from spamguard.verdict import Label, Network

log = logging.getLogger(__name__)

MAX_REPLY_CHARS = 400  # RFC 5321 section 4.5.3.1.5: 512 with code and line end
_REFUSAL = "550 5.7.1 only logged-in users may report mail: log in for sending and try again"
# What the SMTP door calls a submission by the sendmail command, see there: no user's name.
_LOCAL_SUBMISSION = "local"
_LOOPBACK = "127.0.0.1"


class MailDesk:
    """Takes reports by mail.

    Args:
        sink: where they end.
        spam_addresses: recipients that mean "this is spam", in lower case.
        ham_addresses: recipients that mean "this is not".
        networks: clients that may report without a login; their reverse path is believed, and
            so is the reporting user that Dovecot names.
        metrics: counters.
    """

    def __init__(
        self,
        sink: CorrectionSink,
        *,
        spam_addresses: Collection[str],
        ham_addresses: Collection[str],
        networks: Sequence[Network],
        metrics: Metrics,
    ) -> None:
        self._sink = sink
        self._labels = dict.fromkeys(spam_addresses, Label.SPAM)
        self._labels.update(dict.fromkeys(ham_addresses, Label.HAM))
        self._networks = tuple(networks)
        self._metrics = metrics

    def label_of(self, recipient: str) -> Label | None:
        """Return what a report address stands for, or None for any other recipient."""
        return self._labels.get(recipient.lower())

    def refusal(self, envelope: Envelope) -> str:
        """Return the SMTP reply for a client that may not report, or ""."""
        return "" if _user(envelope) or self._is_trusted(envelope) else _REFUSAL

    async def take(self, envelope: Envelope, raw: bytes) -> str:
        """Record the reports in a mail and return the SMTP reply to it.

        Args:
            envelope: with the report addresses alone as recipients.
            raw: the mail.
        """
        reply, count = self.refusal(envelope), 0
        if not reply:
            try:
                count = await asyncio.to_thread(self._record, envelope, raw)
                reply = f"250 2.0.0 Ok: {count} reported, thank you"
            except ReportError as error:
                reply = _reply("550 5.6.0", str(error))
            except StoreError as error:
                self._metrics.count("report_failures")
                log.error("report not recorded", extra={"error": str(error)})  # noqa: TRY400
                reply = "451 4.3.0 the report could not be recorded, try again"
        self._metrics.count("report_mails", reply[:3])
        log.info(
            "report mail",
            extra={
                "queue_id": envelope.queue_id,
                "client": envelope.client_ip,
                "from": envelope.reverse_path,
                "user": envelope.authenticated_user,
                "to": ",".join(envelope.recipients),
                "reports": count,
                "reply": reply,
            },
        )
        return reply

    def _record(self, envelope: Envelope, raw: bytes) -> int:
        """Record what can be; one report that cannot does not cost the others.

        Raises:
            ReportError: none could be.
            StoreError: the record failed; the mail may be tried again as a whole.
        """
        labels = {self._labels[recipient.lower()] for recipient in envelope.recipients}
        if len(labels) != 1:
            raise ReportError("addressed as spam and as not spam")
        user = _user(envelope)
        reports = read_reports(
            raw,
            label=labels.pop(),
            reporter=user or envelope.reverse_path,
            # A login is stronger: webmail sends its users' mail from a trusted address too.
            may_name_reporter=not user and self._is_trusted(envelope),
        )
        refused: ReportError | None = None
        taken = 0
        for report in reports:
            try:
                self._sink.record(report)
                taken += 1
            except ReportError as error:
                refused = error
        if refused is not None and not taken:
            raise refused
        return taken

    def _is_trusted(self, envelope: Envelope) -> bool:
        is_local = envelope.client_ip is None and envelope.authenticated_user == _LOCAL_SUBMISSION
        try:
            address = ipaddress.ip_address(_LOOPBACK if is_local else envelope.client_ip or "")
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def _user(envelope: Envelope) -> str:
    user = envelope.authenticated_user
    return "" if envelope.frontend == "smtp" and user == _LOCAL_SUBMISSION else user


def _reply(code: str, text: str) -> str:
    """Return one reply line: ASCII, and short enough whatever the text quotes."""
    clean = "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
    return f"{code} {clean}"[:MAX_REPLY_CHARS]
