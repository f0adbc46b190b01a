"""A small HTTP client on the standard library, for TCP and Unix sockets."""

import http.client
import json
import socket
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Answer:
    """One response."""

    status: int
    headers: dict[str, str] = field(repr=False)
    body: bytes

    def json(self):
        return json.loads(self.body)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


def ask(where, method, path, body=None, headers=()):
    """Ask once; ``where`` is a port of loopback or the path of a Unix socket."""
    if isinstance(where, int):
        connection = http.client.HTTPConnection("127.0.0.1", where, timeout=30)
    else:
        connection = _UnixConnection(where)
    try:
        connection.putrequest(method, path)
        if isinstance(body, str):
            body = body.encode()
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        for name, value in headers.items() if isinstance(headers, dict) else headers:
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()
