"""The doors that the configuration asks for: built, opened, drained together.

What goes on behind each is its own module under `frontends/`; nothing is decided here.
"""

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from spamguard.config import Config
from spamguard.errors import AddressError, ConfigError
from spamguard.filter import Filter
from spamguard.frontends.milter import MilterServer
from spamguard.frontends.smtp import SmtpServer
from spamguard.frontends.spamd import SpamdServer
from spamguard.next_hop import LMTP_PREFIX, NextHop
from spamguard.observe import Metrics
from spamguard.report import CorrectionSink, ReportDesk

# Another program has it, or its interface is not up yet: trying again can help.
_NOT_FREE = {errno.EADDRINUSE, errno.EADDRNOTAVAIL}
MIN_TOKEN_CHARS = 16  # 128 bits in hexadecimal are twice that


class Door(Protocol):
    """What every server of `frontends/` can do."""

    async def start_tcp(self, host: str, port: int) -> tuple[str, int]:
        """Listen on TCP; return the address bound."""

    async def start_unix(self, path: Path, mode: int) -> None:
        """Listen on a Unix socket."""

    async def start_socket(self, listening: socket.socket) -> None:
        """Listen on a socket that is already open."""

    async def drain(self, deadline_seconds: float) -> None:
        """Stop accepting, finish what is in flight, cut the rest."""


class Doors:
    """All doors of one daemon.

    Args:
        config: the settings.
        sink: where reports end.
        desk: takes mail to report addresses, or None where there are none.
        metrics: counters.
        clock: wall clock, seconds since the epoch.
    """

    def __init__(
        self,
        config: Config,
        sink: CorrectionSink,
        *,
        desk: ReportDesk | None,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._sink = sink
        self._desk = desk
        self._metrics = metrics
        self._clock = clock
        self._open: list[Door] = []
        self.addresses: dict[str, list[str]] = {}

    async def open(
        self,
        mail_filter: Filter,
        status: Callable[[], Awaitable[dict[str, Any]]],
        passed: Sequence[tuple[str, socket.socket]] = (),
    ) -> None:
        """Open every door that is configured, or that a socket was passed for.

        Args:
            mail_filter: the core.
            status: what `spamguard status` shows.
            passed: listening sockets that were opened for us, with the name of their door.

        Raises:
            AddressError: an address is taken, or not ours (yet).
            ConfigError: it cannot be listened on for another reason, a socket is for no door, or
                the token file is no use.
        """
        config = self._config
        doors: dict[str, tuple[Callable[[], Door], tuple[str, ...], str]] = {
            "milter": (
                lambda: self._milter(mail_filter),
                config.milter.listen,
                config.milter.socket_mode,
            ),
            "smtp": (lambda: self._smtp(mail_filter), config.smtp.listen, "0660"),
            "lmtp": (
                lambda: self._lmtp(mail_filter),
                config.lmtp.listen,
                config.lmtp.socket_mode,
            ),
            "spamd": (
                lambda: self._spamd(mail_filter),
                config.spamd.listen,
                config.spamd.socket_mode,
            ),
            "http": (
                lambda: self._http(mail_filter, status),
                config.http.listen,
                config.http.socket_mode,
            ),
        }
        for name, _ in passed:
            if name not in doors:
                expected = ", ".join(doors)
                raise ConfigError(f"FileDescriptorName={name}: expected one of {expected}")
        for name, (make, endpoints, socket_mode) in doors.items():
            sockets = [listening for wanted, listening in passed if wanted == name]
            if not sockets and not endpoints:
                continue
            door = make()
            self._open.append(door)
            for listening in sockets:
                await door.start_socket(listening)
                self.addresses.setdefault(name, []).append(_shown(listening.getsockname()))
            await self._listen(name, door, endpoints, socket_mode)

    async def drain(self, deadline_seconds: float) -> None:
        """Close all doors once what is in flight has been finished."""
        await asyncio.gather(*(door.drain(deadline_seconds) for door in self._open))

    def _milter(self, mail_filter: Filter) -> MilterServer:
        return MilterServer(
            mail_filter,
            metrics=self._metrics,
            clock=self._clock,
            max_message_bytes=self._config.max_message_bytes,
            idle_timeout_seconds=self._config.milter.idle_timeout_seconds,
            desk=self._desk,
        )

    def _smtp(self, mail_filter: Filter) -> SmtpServer:
        settings = self._config.smtp
        hostname = socket.gethostname()
        return SmtpServer(
            mail_filter,
            NextHop(
                settings.next_hop,
                hostname=hostname,
                timeout_seconds=settings.next_hop_timeout_seconds,
            ),
            metrics=self._metrics,
            clock=self._clock,
            max_message_bytes=self._config.max_message_bytes,
            max_connections=settings.max_connections,
            xforward_networks=settings.xforward_networks,
            hostname=hostname,
            desk=self._desk,
        )

    def _lmtp(self, mail_filter: Filter) -> SmtpServer:
        hostname = socket.gethostname()
        return SmtpServer(
            mail_filter,
            NextHop(f"{LMTP_PREFIX}{self._config.lmtp.next_hop}", hostname=hostname),
            metrics=self._metrics,
            clock=self._clock,
            max_message_bytes=self._config.max_message_bytes,
            hostname=hostname,
            is_lmtp=True,
        )

    def _spamd(self, mail_filter: Filter) -> SpamdServer:
        return SpamdServer(
            mail_filter,
            self._sink if self._config.spamd.allow_tell else None,
            metrics=self._metrics,
            clock=self._clock,
            max_message_bytes=self._config.max_message_bytes,
        )

    def _http(self, mail_filter: Filter, status: Callable[[], Awaitable[dict[str, Any]]]) -> Door:
        # The web framework costs 10 MB and a tenth of a second: only who wants it pays.
        from spamguard.frontends.http.server import HttpServer

        return HttpServer(
            mail_filter,
            self._sink,
            status=status,
            tokens=read_tokens(self._config.http.token_file),
            metrics=self._metrics,
            clock=self._clock,
            max_message_bytes=self._config.max_message_bytes,
        )

    async def _listen(
        self, name: str, door: Door, endpoints: tuple[str, ...], socket_mode: str
    ) -> None:
        for endpoint in endpoints:
            if endpoint in self.addresses.get(name, ()):
                continue  # a socket was passed for it
            try:
                if endpoint.startswith("unix:"):
                    path = Path(endpoint.removeprefix("unix:"))
                    await door.start_unix(path, int(socket_mode, 8))
                    bound = endpoint
                else:
                    host, _, port = endpoint.rpartition(":")
                    address = await door.start_tcp(host.strip("[]"), int(port))
                    bound = _shown(address)
            except OSError as error:
                kind = AddressError if error.errno in _NOT_FREE else ConfigError
                raise kind(f"{name}.listen = {endpoint!r}: {error.strerror or error}") from error
            self.addresses.setdefault(name, []).append(bound)


def _shown(address: str | tuple[Any, ...]) -> str:
    """Write a socket's address as the configuration does."""
    if isinstance(address, str):
        return f"unix:{address}"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def read_tokens(path: str) -> tuple[bytes, ...]:
    """Return the tokens of a file that nobody else can read; none without a path.

    Raises:
        ConfigError: it cannot be read, others can read it, or its tokens are too short.
    """
    if not path:
        return ()
    try:
        with Path(path).open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            tokens = tuple(line.strip() for line in file if line.strip())
    except OSError as error:
        raise ConfigError(f"http.token_file = {path!r}: {error.strerror or error}") from error
    if mode & 0o077:
        raise ConfigError(f"http.token_file = {path!r}: mode {mode:04o}, expected 0600")
    if not tokens or min(map(len, tokens)) < MIN_TOKEN_CHARS:
        raise ConfigError(
            f"http.token_file = {path!r}: expected a token of {MIN_TOKEN_CHARS} characters or more"
            " on each line"
        )
    return tokens
