"""A private OpenSMTPD on an unprivileged loopback port, with the lines that setup printed."""

import shlex

from tests.support.debian import need_user, unpacked
from tests.support.smtp_program import SmtpProgram


class OpenSmtpd(SmtpProgram):
    """`smtpd -d` with a spool of its own: its paths are fixed, so it sees another /var.

    Args:
        directory: below /tmp itself.
        lines: what setup printed.
        mailbox: where the administrator's own action hands mail over.
    """

    def __init__(self, directory, lines, mailbox):
        super().__init__(directory, "smtpd")
        self._config = directory / "smtpd.conf"
        self._config.write_text(
            f"listen on 127.0.0.1 port {self.port}\n"
            f'action "local" relay host "smtp://127.0.0.1:{mailbox.port}"\n'
            f"{lines}"
        )

    def start(self):
        package = unpacked("opensmtpd")
        for name in ("opensmtpd", "opensmtpq"):
            need_user(name)
        command = [package.path("usr/sbin/smtpd"), "-d", "-F", "-f", str(self._config)]
        script = (
            "for folder in /var/lib /var/spool; do mount -t tmpfs -o mode=755 none $folder; done\n"
            "mkdir -p /var/lib/opensmtpd/empty /var/spool/smtpd\n"
            "chmod 711 /var/spool/smtpd\n"
            f"exec {shlex.join(command)}\n"
        )
        return self.run("--mount", script=script, environment=package.environment)
