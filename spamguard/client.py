"""Asking the running daemon for a verdict, for programs of ours that mail servers start.

They load no model and cost little: the daemon has it, behind its HTTP door.
"""

import http.client
import json
import socket
import urllib.parse
from pathlib import Path
from typing import Any

from spamguard.config import Config
from spamguard.errors import ConfigError, DaemonError
from spamguard.message import Envelope
from spamguard.verdict import Action, Disposition

MARGIN_SECONDS = 5.0  # beyond the daemon's deadline, within which it answers in any case
MAX_ANSWER_BYTES = 64 * 1024
MAX_QUERY_CHARS = 16 * 1024  # recipients beyond are not told: the door bounds a request's line
_HOST = "localhost"


class Client:
    """Asks one door; each message is a connection of its own, so threads may share it.

    Args:
        endpoint: ``unix:/path`` or ``host:port``.
        token: what opens a door on TCP, or "".
        timeout_seconds: for connecting and for each read.
    """

    def __init__(self, endpoint: str, *, token: str = "", timeout_seconds: float) -> None:
        self.endpoint = endpoint
        self._token = token
        self._timeout_seconds = timeout_seconds

    @classmethod
    def of(cls, config: Config) -> "Client":
        """Return a client of the configured door; a Unix socket comes first, it wants no token.

        Raises:
            ConfigError: the door is closed, or its token cannot be read.
        """
        endpoints = sorted(config.http.listen, key=lambda e: not e.startswith("unix:"))
        if not endpoints:
            example = '["unix:/run/spamguard/http.sock"]'
            raise ConfigError(f"http.listen = []: the door is closed; set it to {example}")
        token, path = "", config.http.token_file
        if path and not endpoints[0].startswith("unix:"):
            try:
                token = Path(path).read_text("utf-8").split()[0]
            except (OSError, ValueError, IndexError) as error:
                raise ConfigError(f"http.token_file = {path!r}: {error}") from error
        seconds = config.model.deadline_seconds + MARGIN_SECONDS
        return cls(endpoints[0], token=token, timeout_seconds=seconds)

    def check(self, envelope: Envelope, raw: bytes) -> Action:
        """Have a message judged; it is never held there.

        Raises:
            DaemonError: no daemon, or no answer of ours.
        """
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        connection = self._connection()
        try:
            connection.request("POST", f"/v1/check?{_query(envelope)}", raw, headers)
            response = connection.getresponse()
            answer = response.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise DaemonError(f"{self.endpoint}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if response.status != 200:
            said = answer.decode("utf-8", "replace")[:200]
            raise DaemonError(f"{self.endpoint}: {response.status} {said}")
        try:
            return _action(json.loads(answer))
        except (ValueError, KeyError, TypeError) as error:
            raise DaemonError(f"{self.endpoint}: not an answer of ours: {error}") from error

    def _connection(self) -> http.client.HTTPConnection:
        if self.endpoint.startswith("unix:"):
            return _UnixConnection(self.endpoint.removeprefix("unix:"), self._timeout_seconds)
        host, _, port = self.endpoint.rpartition(":")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))  # noqa: S104
        return http.client.HTTPConnection(host, int(port), timeout=self._timeout_seconds)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_seconds: float) -> None:
        super().__init__(_HOST, timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket in place of the host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _query(envelope: Envelope) -> str:
    """Return the envelope as `POST /v1/check` takes it."""
    query = urllib.parse.urlencode(
        {
            "from": envelope.reverse_path,
            "ip": envelope.client_ip or "",
            "name": envelope.client_name,
            "helo": envelope.helo,
            "user": envelope.authenticated_user,
            "queue_id": envelope.queue_id,
        }
    )
    for recipient in envelope.recipients:
        part = "&" + urllib.parse.urlencode({"rcpt": recipient})
        if len(query) + len(part) > MAX_QUERY_CHARS:
            break
        query += part
    return query


def _action(answer: dict[str, Any]) -> Action:
    return Action(
        disposition=Disposition(answer["disposition"]),
        delete_headers=tuple(map(str, answer["delete_headers"])),
        add_headers=tuple((str(h["name"]), str(h["value"])) for h in answer["add_headers"]),
        subject_prefix=str(answer["subject_prefix"]),
        smtp_reply=str(answer["smtp_reply"]),
        redirect_to=str(answer["redirect_to"]),
    )
