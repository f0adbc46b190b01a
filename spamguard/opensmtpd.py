"""The program that OpenSMTPD runs as a filter: it asks the daemon, on standard input and output.

smtpd ends when its filter does, so nothing that goes wrong here may: whatever happens to a
message, its lines go back, as they came where there is no verdict. A message cannot be held
this way, OpenSMTPD knows no such answer: what policy would hold is tagged.
"""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Protocol

from spamguard.errors import DaemonError, PeerProtocolError
from spamguard.message import Envelope, edit_headers
from spamguard.verdict import Action, Disposition
from spamguard.wire.opensmtpd import FilterProtocol, Request, encode_message

log = logging.getLogger(__name__)

THREADS = 16  # messages that wait for the daemon; it works on as many as it has scorers


class Judge(Protocol):
    """Who is asked: `client.Client`."""

    def check(self, envelope: Envelope, raw: bytes) -> Action:
        """Have a message judged, or raise DaemonError."""


class Bridge:
    """Between smtpd's two streams and the daemon.

    Args:
        judge: who is asked.
        output: smtpd's end of our answers.
        max_message_bytes: larger messages pass unjudged.
    """

    def __init__(self, judge: Judge, output: BinaryIO, *, max_message_bytes: int) -> None:
        self._judge = judge
        self._output = output
        self._protocol = FilterProtocol(max_message_bytes)
        self._lock = threading.Lock()  # of protocol and output

    def run(self, source: BinaryIO) -> None:
        """Work until smtpd closes its end."""
        with ThreadPoolExecutor(THREADS) as threads:
            for line in source:
                with self._lock:
                    try:
                        answer, request = self._protocol.receive(line)
                    except PeerProtocolError as error:
                        log.error("line of smtpd not understood", extra={"error": str(error)})  # noqa: TRY400
                        continue
                    self._write(answer)
                if request is not None:
                    threads.submit(self._answer, request)

    def _answer(self, request: Request) -> None:
        raw = request.raw
        try:
            raw, refusal = self._judged(request)
        except DaemonError as error:
            refusal = ""
            log.warning("unscored", extra={"error": str(error)})
        except Exception:
            refusal = ""
            log.exception("bug while asking for a verdict")
        with self._lock:
            if self._protocol.knows(request):
                request.session.refusal = refusal
                self._write(encode_message(request, raw))

    def _judged(self, request: Request) -> tuple[bytes, str]:
        session = request.session
        envelope = Envelope(
            frontend="opensmtpd",
            reverse_path=session.reverse_path,
            recipients=tuple(session.recipients),
            queue_id=session.queue_id,
            client_ip=session.client_ip or None,
            client_name=session.client_name,
            helo=session.helo,
            authenticated_user=session.user,
        )
        action = self._judge.check(envelope, request.raw)
        is_refused = action.disposition in {Disposition.REJECT, Disposition.DEFER}
        edited = edit_headers(
            request.raw,
            delete=action.delete_headers,
            add=action.add_headers,
            subject_prefix=action.subject_prefix,
        )
        return edited, action.smtp_reply if is_refused else ""

    def _write(self, data: bytes) -> None:
        if data:
            self._output.write(data)
            self._output.flush()
