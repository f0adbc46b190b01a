"""rspamd, SpamAssassin and bogofilter, started from their Debian packages for one comparison.

Each is configured as its manual says, without what asks the network: none of them has DNS here,
and a mail server's own figures depend on it. Only what decides by itself is compared.
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import psutil

from tests.support.daemons import free_port, wait_for

# What asks others: DNS lists, fuzzy storages, greylisting and the like.
_NETWORKED = (
    "antivirus arc asn aws_s3 bimi clickhouse dcc dkim dkim_signing dmarc elastic external_relay "
    "external_services fuzzy_check greylist history_redis hfilter metadata_exporter "
    "metric_exporter mx_check neural p0f phishing ratelimit rbl replies reputation "
    "rspamd_update spf surbl url_redirector"
).split()


class Rival:
    """A filter in the folder of a comparison.

    Attributes:
        milter: the endpoint that Postfix is given.
        processes: what was started, for its memory.
    """

    name = ""
    programs = ()

    def __init__(self, directory):
        self.directory = Path(directory)
        self.processes = []
        self.milter = ""

    @classmethod
    def missing(cls):
        """Return the programs that are not installed."""
        path = f"{os.environ['PATH']}:/usr/sbin"
        return [name for name in cls.programs if not shutil.which(name, path=path)]

    def spawn(self, *command, **options):
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **options
            )
        self.processes.append(process)
        return process

    def stop(self):
        for process in self.processes:
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.terminate()
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)

    def megabytes(self):
        """Return PSS of everything that was started, with children."""
        total = 0
        for process in self.processes:
            with contextlib.suppress(psutil.Error):
                family = psutil.Process(process.pid)
                for member in [family, *family.children(recursive=True)]:
                    total += member.memory_full_info().pss
        return total / 2**20


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _give(directory, user):
    entry = pwd.getpwnam(user)
    for path in [directory, *directory.rglob("*")]:
        os.chown(path, entry.pw_uid, entry.pw_gid)


class _NoNames:
    """A DNS server that knows no name, and says so at once."""

    def __init__(self):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self):
        with contextlib.suppress(OSError):
            while True:
                asked, address = self._socket.recvfrom(4096)
                # The question again, with the bits for a response and NXDOMAIN (RFC 1035 4.1.1).
                self._socket.sendto(asked[:2] + b"\x81\x83" + asked[4:], address)

    def close(self):
        self._socket.close()


class Rspamd(Rival):
    """rspamd with its rules; with Bayes when it has been taught."""

    name = "rspamd, rules"
    programs = ("rspamd", "rspamc")
    has_bayes = False

    def start(self):
        # A Unix socket: on TCP Nagle's algorithm and the delayed ACK cost it 40 ms a message.
        proxy, normal, control = self.directory / "milter.sock", free_port(), free_port()
        self.names = _NoNames()
        for folder in ("local.d", "override.d", "db", "run", "rlog"):
            (self.directory / folder).mkdir()
        local, override = self.directory / "local.d", self.directory / "override.d"
        bound = 'bind_socket = "127.0.0.1:{}";\n'
        (local / "worker-normal.inc").write_text(bound.format(normal) + "count = 2;\n")
        (local / "worker-controller.inc").write_text(
            bound.format(control) + 'secure_ip = ["127.0.0.1"];\npassword = "bench";\n'
        )
        (override / "worker-proxy.inc").write_text(
            f'bind_socket = "{proxy} mode=0666";\n' + "milter = yes;\ntimeout = 120s;\ncount = 2;\n"
            'upstream "local" {\n  default = yes;\n  self_scan = yes;\n}\n'
        )
        (local / "options.inc").write_text(
            f'dns {{ nameserver = ["127.0.0.1:{self.names.port}"]; }}\n'
        )
        for module in _NETWORKED:
            (override / f"{module}.conf").write_text("enabled = false;\n")
        if self.has_bayes:
            redis = free_port()
            self.spawn("redis-server", "--port", str(redis), "--bind", "127.0.0.1", "--save", "")
            wait_for(lambda: _listens(redis), what="redis")
            (local / "redis.conf").write_text(f'servers = "127.0.0.1:{redis}";\n')
            (local / "classifier-bayes.conf").write_text('backend = "redis";\nmin_learns = 100;\n')
        else:
            (local / "statistic.conf").write_text("")
            (override / "statistic.conf").write_text("classifier { }\n")
        _give(self.directory, "_rspamd")
        self.spawn(
            "rspamd", "-f", "-c", "/etc/rspamd/rspamd.conf",
            f"--var=LOCAL_CONFDIR={self.directory}", f"--var=DBDIR={self.directory}/db",
            f"--var=RUNDIR={self.directory}/run", f"--var=LOGDIR={self.directory}/rlog",
            "-u", "_rspamd", "-g", "_rspamd",
        )  # fmt: skip
        for port in (normal, control):
            wait_for(lambda port=port: _listens(port), seconds=60, what=f"rspamd, {self.directory}")
        wait_for(proxy.is_socket, what=f"rspamd's milter, {self.directory}")
        self.milter, self.control = f"unix:{proxy}", control
        return self

    def teach(self, ham, spam):
        """Teach Bayes, where it is in use."""
        if not self.has_bayes:
            return
        for verb, mail in (("learn_ham", ham), ("learn_spam", spam)):
            for raw in mail:
                subprocess.run(
                    ["rspamc", "-h", f"127.0.0.1:{self.control}", "-P", "bench", verb],
                    input=raw, capture_output=True, check=False,
                )  # fmt: skip

    def stop(self):
        super().stop()
        self.names.close()


class RspamdBayes(Rspamd):
    name = "rspamd, rules and Bayes"
    programs = ("rspamd", "rspamc", "redis-server")
    has_bayes = True


class SpamAssassin(Rival):
    """spamd with two children behind spamass-milter."""

    name = "SpamAssassin"
    programs = ("spamd", "spamass-milter", "sa-learn")

    def start(self):
        port = free_port()
        site = self.directory / "sa"
        site.mkdir()
        (site / "local.cf").write_text(
            "skip_rbl_checks 1\nuse_razor2 0\nuse_pyzor 0\nbayes_auto_learn 0\n"
            f"dns_available no\nbayes_path {self.directory}/bayes\n"
        )
        for name in ("init.pre", "v310.pre", "v312.pre", "v320.pre", "v330.pre", "v340.pre"):
            if Path("/etc/spamassassin", name).exists():
                shutil.copy(Path("/etc/spamassassin", name), site)
        _give(self.directory, "debian-spamd")
        self.site = site
        self.spawn(
            "spamd", "--min-children=2", "--max-children=2", "--max-conn-per-child=100000",
            "-x", "-L", "-l", "-u", "debian-spamd", f"--siteconfigpath={site}",
            "-i", "127.0.0.1", "-p", str(port), "-r", str(self.directory / "pid"),
        )  # fmt: skip
        wait_for(lambda: _listens(port), seconds=90, what="spamd")
        milter = self.directory / "milter.sock"
        self.spawn(
            "/usr/sbin/spamass-milter", "-p", str(milter), "-m",
            "--", "-d", "127.0.0.1", "-p", str(port),
        )  # fmt: skip
        wait_for(milter.is_socket, what="spamass-milter")
        milter.chmod(0o666)
        self.milter = f"unix:{milter}"
        return self

    def teach(self, ham, spam):
        """Teach Bayes: 200 messages of each are its minimum."""
        for side, mail in (("--ham", ham), ("--spam", spam)):
            with tempfile.TemporaryDirectory(dir=self.directory) as folder:
                for number, raw in enumerate(mail):
                    (Path(folder) / str(number)).write_bytes(raw)
                os.chmod(folder, 0o755)
                subprocess.run(
                    ["sa-learn", f"--siteconfigpath={self.site}", side, folder],
                    capture_output=True, check=False, user="debian-spamd",
                    env={**os.environ, "HOME": str(self.directory)},
                )  # fmt: skip
