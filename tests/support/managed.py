"""The daemon as a child of a service manager: with its socket, and descriptors it opened."""

import os
import socket
import subprocess
import sys
import time

from tests.support.daemons import Daemon

# Takes the place of the manager between fork and exec: descriptors from 3 on, and LISTEN_PID.
_LAUNCH = """
import fcntl, os, sys
passed = [int(number) for number in sys.argv[1].split(",") if number]
passed = [fcntl.fcntl(number, fcntl.F_DUPFD, 100) for number in passed]  # out of the way
for place, number in enumerate(passed, start=3):
    os.dup2(number, place)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(passed)))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Managed(Daemon):
    """A daemon with a manager's socket, and descriptors that the manager opened."""

    def __init__(self, directory, *, sockets=(), names=(), watchdog_seconds=0.0, **settings):
        super().__init__(directory, **settings)
        self.sockets = sockets
        self.names = names
        self.watchdog_seconds = watchdog_seconds
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.channel.bind(f"\0spamguard-test-{os.getpid()}-{id(self)}")
        self.heard = []

    def command(self, *arguments):
        if arguments != ("serve",):
            return super().command(*arguments)
        numbers = ",".join(str(s.fileno()) for s in self.sockets)
        return [sys.executable, "-c", _LAUNCH, numbers, *super().command(*arguments)[1:]]

    def start(self):
        address = self.channel.getsockname().decode().replace("\0", "@", 1)
        environment = {**os.environ, "NOTIFY_SOCKET": address}
        if self.names:
            environment["LISTEN_FDNAMES"] = ":".join(self.names)
        if self.watchdog_seconds:
            environment["WATCHDOG_USEC"] = str(int(self.watchdog_seconds * 1e6))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("serve"),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment,
                pass_fds=[s.fileno() for s in self.sockets],
            )
        return self

    def hear(self, seconds=30):
        """Return the next message to the manager, as a dict."""
        self.channel.settimeout(seconds)
        text = self.channel.recv(4096).decode()
        self.heard.append(dict(line.partition("=")[::2] for line in text.splitlines()))
        return self.heard[-1]

    def hear_until(self, key, seconds=30):
        deadline = time.monotonic() + seconds
        while key not in (said := self.hear(max(0.1, deadline - time.monotonic()))):
            pass
        return said

    def __exit__(self, *error):
        super().__exit__(*error)
        self.channel.close()
