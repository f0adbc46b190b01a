"""Listening, for every door alike: TCP, Unix sockets, and sockets that were opened for us."""

import asyncio
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

BACKLOG = 512  # connections that wait while we start or are busy: more than Postfix opens
# While we stop, a connection may be silent for so long between two messages. An MTA whose client
# pauses would have to refuse it the next one (Postfix: milter_default_action).
LINGER_SECONDS = 3.0
_LOOK_SECONDS = 0.02


class Connection(Protocol):
    """What can be closed between two messages."""

    def close_if_idle(self, silent_seconds: float) -> None:
        """Close unless a message is under way or the peer has spoken that recently."""


class Listener:
    """Accepts connections for one protocol.

    Args:
        protocol: makes the protocol of one connection.
    """

    def __init__(self, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        self._protocol = protocol
        self.is_closing = False  # the end of a message is the end of its connection
        self._servers: list[asyncio.Server] = []
        self._unix_paths: list[Path] = []

    async def start_tcp(self, host: str, port: int) -> tuple[str, int]:
        """Listen on TCP; port 0 takes a free one. Returns the address bound.

        Raises:
            OSError: the address is taken or not ours.
        """
        # asyncio sets TCP_NODELAY on each connection; without it an answer waits up to 40 ms
        # for the acknowledgement of the one before (Nagle against delayed ACK).
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._protocol, host, port, backlog=BACKLOG)
        self._servers.append(server)
        bound: tuple[str, int] = server.sockets[0].getsockname()[:2]
        return bound

    async def start_unix(self, path: Path, mode: int) -> None:
        """Listen on a Unix socket with the given file mode, replacing a stale socket.

        Raises:
            OSError: the directory is missing or not ours, or there is another kind of file.
        """
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(self._protocol, str(path), backlog=BACKLOG)
        self._servers.append(server)
        self._unix_paths.append(path)
        path.chmod(mode)

    async def start_socket(self, listening: socket.socket) -> None:
        """Listen on a socket that is already open (socket activation), TCP or Unix."""
        loop = asyncio.get_running_loop()
        # The backlog again: asyncio calls listen(2), which would cut it to asyncio's own 100.
        server = await loop.create_server(self._protocol, sock=listening, backlog=BACKLOG)
        self._servers.append(server)

    async def stop_listening(self) -> None:
        """Accept no more; connections that are there go on, and all of them are known then."""
        for server in self._servers:
            server.close()
        for path in self._unix_paths:
            path.unlink(missing_ok=True)
        # Between accept(2) and connection_made lie a few turns of the event loop.
        await asyncio.sleep(_LOOK_SECONDS)

    async def let_finish(
        self, connections: Collection[Connection], deadline_seconds: float
    ) -> None:
        """Wait until all connections are gone, or until the deadline.

        For the first half of it messages may follow each other on a connection.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        while connections and (elapsed := loop.time() - started) < deadline_seconds:
            self.is_closing = self.is_closing or elapsed >= deadline_seconds / 2
            for connection in list(connections):
                connection.close_if_idle(0.0 if self.is_closing else LINGER_SECONDS)
            await asyncio.sleep(_LOOK_SECONDS)
