"""A mail server of Debian that is unpacked, not installed, and started in namespaces of its own."""

import smtplib
import subprocess

from tests.support.daemons import free_port, wait_for
from tests.support.programs import require_program


class SmtpProgram:
    """Started with `run`, asked on `port`, logging to `log`."""

    def __init__(self, directory, name):
        self.port = free_port()
        self.log = directory / f"{name}.log"
        self._process = None

    def run(self, *options, script, environment):
        """Run a shell script under unshare with these options; return once it speaks SMTP."""
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [require_program("unshare"), *options, "sh", "-ec", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        wait_for(self._answers, what=f"an answer on {self.port}: {self.log.read_text()}")
        return self

    def _answers(self):
        try:
            smtplib.SMTP("127.0.0.1", self.port, timeout=5).quit()
        except OSError:
            assert self._process.poll() is None, self.log.read_text()
            return False
        return True

    def stop(self):
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
