"""What a service says to systemd, and the sockets that systemd opens for it.

The two protocols are a datagram and three variables (sd_notify(3), sd_listen_fds(3)); the
libraries for them are unmaintained or need a C compiler. Without systemd nothing here does
anything.
"""

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress

from spamguard.errors import ConfigError

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
_MICROSECONDS = 1_000_000


class Notifier:
    """Tells the service manager how we are.

    Args:
        address: path of its datagram socket, ``@`` first for an abstract one; "" for none.
        watchdog_seconds: how often it wants to hear of us, or 0.
    """

    def __init__(self, address: str = "", watchdog_seconds: float = 0.0) -> None:
        self.watchdog_seconds = watchdog_seconds
        self._address = "\0" + address[1:] if address.startswith("@") else address

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> "Notifier":
        """Read the manager's variables, and take them out: our children are not the service."""
        address = environment.pop("NOTIFY_SOCKET", "")
        interval = environment.pop("WATCHDOG_USEC", "")
        wanted = environment.pop("WATCHDOG_PID", "") in {"", str(os.getpid())}
        seconds = int(interval) / _MICROSECONDS if interval.isdigit() and wanted else 0.0
        return cls(address, seconds)

    def ready(self, status: str) -> None:
        """Say that we serve, also again after a reload."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Say that a reload has begun."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Say that we finish what is in flight and end."""
        self._send("STOPPING=1", "STATUS=finishing messages in flight")

    def alive(self) -> None:
        """Feed the watchdog; only after a check that proves it."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.setblocking(False)  # noqa: FBT003 - mail does not wait for the manager
            try:
                channel.connect(self._address)
                channel.sendall("\n".join(lines).encode())
            except OSError:
                return  # the manager is gone or does not read: mail goes on


def passed_sockets(environment: MutableMapping[str, str]) -> list[tuple[str, socket.socket]]:
    """Return the sockets that were opened for this process, with their names, and take them.

    Raises:
        ConfigError: the variables contradict each other, or a descriptor is no listening socket.
    """
    count = environment.pop("LISTEN_FDS", "")
    names = [name for name in environment.pop("LISTEN_FDNAMES", "").split(":") if name]
    if environment.pop("LISTEN_PID", "") != str(os.getpid()) or not count.isdigit():
        return []
    if len(names) != int(count):
        raise ConfigError(f"LISTEN_FDNAMES: expected {count} names, got {':'.join(names)!r}")
    return [(name, _open(number, name)) for number, name in enumerate(names, FIRST_DESCRIPTOR)]


def _open(number: int, name: str) -> socket.socket:
    try:
        os.set_inheritable(number, False)  # noqa: FBT003 - the scorers must not hold it open
        passed = socket.socket(fileno=number)
    except OSError as error:
        raise ConfigError(f"LISTEN_FDS: {name!r} is no socket: {error.strerror}") from error
    listens = False
    with suppress(OSError):  # not every kind of socket knows the option
        listens = bool(passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    if passed.type != socket.SOCK_STREAM or not listens:
        raise ConfigError(
            f"LISTEN_FDS: {name!r}: expected a listening stream socket (ListenStream=, Accept=no)"
        )
    return passed
