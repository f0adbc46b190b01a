"""One Postfix, one daemon and one mailbox for each module of system tests."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.support.daemons import Daemon
from tests.support.postfix import Mailbox, Postfix
from tests.support.toy_model import write_toy_model


class Site:
    """A mail server with SpamGuard."""

    def __init__(self, directory):
        self.mailbox = Mailbox()
        self.mailbox.start()
        model = write_toy_model(directory / "toy")
        self.daemon = Daemon(
            directory,
            **{
                "model.version": str(model),
                "policy.subject_prefix": "[SPAM] ",
            },
        )
        self.postfix = Postfix(
            directory,
            milter=f"inet:127.0.0.1:{self.daemon.milter_port}",
            filter_port=self.daemon.smtp_port,
            mailbox=self.mailbox,
        )
        self.daemon.settings["smtp.next_hop"] = f"127.0.0.1:{self.postfix.reinjection_port}"

    def start(self):
        self.postfix.start()
        self.daemon.start()

    def stop(self):
        self.daemon.stop()
        self.postfix.stop()
        self.mailbox.stop()

    def restart_with(self, **settings):
        self.daemon.stop()
        self.daemon.settings.update(settings)
        self.daemon.start()


@pytest.fixture(scope="module")
def site():
    # Under /tmp itself: Postfix's unprivileged processes must be able to search every parent.
    directory = Path(tempfile.mkdtemp(prefix="sg-", dir="/tmp"))
    directory.chmod(0o755)
    built = Site(directory)
    try:
        built.start()
        yield built
    finally:
        built.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(autouse=True)
def _fresh_mailbox(site):
    site.mailbox.messages.clear()


@pytest.fixture(scope="module")
def open_directory():
    """A directory below /tmp itself, where servers that run as other users find their files."""
    made = Path(tempfile.mkdtemp(prefix="sg-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)
