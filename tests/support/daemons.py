"""A real `spamguard serve` in a subprocess, with its own state directory and free ports."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from spamguard.frontends.control import ask

READY_SECONDS = 60


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(condition, *, seconds=30, what="condition"):
    """Poll until the condition returns something true; return that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise TimeoutError(f"not within {seconds} s: {what}")


class Daemon:
    """`spamguard serve`, started, asked, reloaded, killed."""

    def __init__(self, directory: Path, **settings):
        self.directory = directory
        self.state = directory / "state"
        self.control = directory / "control.sock"
        self.log = directory / "daemon.log"
        self.milter_port = free_port()
        self.smtp_port = free_port()
        self.settings = {
            "paths.state": str(self.state),
            "paths.control_socket": str(self.control),
            "milter.listen": [f"127.0.0.1:{self.milter_port}"],
            "smtp.listen": [f"127.0.0.1:{self.smtp_port}"],
            "model.workers": 1,
            **settings,
        }
        self.process = None

    @property
    def options(self):
        pairs = (("--set", f"{key}={json.dumps(value)}") for key, value in self.settings.items())
        return ["-c", os.devnull, *(part for pair in pairs for part in pair)]

    def command(self, *arguments):
        return [sys.executable, "-m", "spamguard", *self.options, *arguments]

    def run(self, *arguments, **options):
        return subprocess.run(
            self.command(*arguments), capture_output=True, timeout=120, check=False, **options
        )

    @property
    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def start(self):
        if self.is_running:
            return self
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("serve"), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        wait_for(self._is_ready, seconds=READY_SECONDS, what=f"daemon ready, see {self.log}")
        return self

    def _is_ready(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"daemon ended: {self.log.read_text()}")
        try:
            return ask(self.control, "status")
        except OSError:
            return None

    def status(self):
        return ask(self.control, "status")

    def kill(self):
        """End it as a power cut would, scorers too once they notice."""
        self.process.kill()
        self.process.wait(10)

    def stop(self):
        if self.is_running:
            self.process.send_signal(signal.SIGTERM)
            return self.process.wait(60)
        return None

    def __enter__(self):
        return self.start()

    def __exit__(self, *error):
        if self.is_running:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
