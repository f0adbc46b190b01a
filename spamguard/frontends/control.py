"""The control socket: how `spamguard status` asks the running daemon. Loopback of one machine.

One JSON object a line in, one out, over a Unix socket that only the daemon's user and root may
open. It tells and reloads; it never takes mail.
"""

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from spamguard.errors import SpamGuardError

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 64 * 1024
TIMEOUT_SECONDS = 30.0

Answer = Callable[[], Awaitable[Mapping[str, Any]]]


class ControlServer:
    """Answers commands by name.

    Args:
        commands: what each command does.
    """

    def __init__(self, commands: Mapping[str, Answer]) -> None:
        self._commands = commands
        self._server: asyncio.Server | None = None

    async def start(self, path: Path) -> None:
        """Listen, replacing a stale socket; mode 0600.

        Raises:
            OSError: the directory is missing or not ours.
        """
        self._server = await asyncio.start_unix_server(
            self._answer, str(path), limit=MAX_LINE_BYTES
        )
        path.chmod(0o600)

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                request = json.loads(await reader.readline())
                answer = await self._run(str(request.get("command", "")))
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError, AttributeError, RecursionError, TimeoutError) as error:
            log.warning("control connection failed", extra={"error": str(error)})
        finally:
            writer.close()

    async def _run(self, name: str) -> Mapping[str, Any]:
        command = self._commands.get(name)
        if command is None:
            known = ", ".join(sorted(self._commands))
            return {"error": f"no command {name!r}: expected one of {known}"}
        try:
            return await command()
        except SpamGuardError as error:
            return {"error": str(error), "exit_code": error.exit_code}


def ask(path: Path, command: str) -> dict[str, Any]:
    """Ask the running daemon; blocking, for the command line.

    Raises:
        OSError: no daemon listens there.
        ValueError: it answered with something else than a JSON object.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(str(path))
        connection.sendall(json.dumps({"command": command}).encode() + b"\n")
        with connection.makefile("rb") as stream:
            answer = json.loads(stream.readline(MAX_LINE_BYTES))
    if not isinstance(answer, dict):
        raise ValueError(f"expected a JSON object, got {answer!r}")  # noqa: TRY004
    return answer
