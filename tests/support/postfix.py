"""A private Postfix on unprivileged loopback ports, and what it delivers to.

Postfix's own services run from a queue directory of the test. Listeners: one that filters
through the milter, one that hands mail to the content filter, one before-queue proxy, one that
filters nothing, and the re-injection port behind the content filter.
"""

import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP

from tests.support.daemons import free_port, wait_for
from tests.support.programs import require_program

SERVICES = """\
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 1 1 qmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
local     unix  - n n - - local
virtual   unix  - n n - - virtual
lmtp      unix  - - n - - lmtp
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
tlsmgr    unix  - - n 1000? 1 tlsmgr
postlog   unix-dgram n - n - 1 postlogd
"""


class _AnyLine(SMTP):
    line_length_limit = 2**22


class Mailbox:
    """Where Postfix delivers: an SMTP server that keeps every message, and can be down."""

    def __init__(self):
        self.port = free_port()
        self.messages = []
        self._lock = threading.Lock()
        self._controller = None

    async def handle_DATA(self, server, session, envelope):
        with self._lock:
            self.messages.append(
                (envelope.mail_from, tuple(envelope.rcpt_tos), bytes(envelope.content))
            )
        return "250 2.0.0 Ok"

    def start(self):
        owner = self

        class Server(Controller):
            def factory(self):
                return _AnyLine(owner, enable_SMTPUTF8=True, data_size_limit=None, loop=self.loop)

        self._controller = Server(self, hostname="127.0.0.1", port=self.port)
        self._controller.start()

    def stop(self):
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    def wait(self, count, *, seconds=60):
        wait_for(lambda: len(self.messages) >= count, seconds=seconds, what=f"{count} messages")
        return self.messages


class Postfix:
    def __init__(
        self,
        directory: Path,
        *,
        milter: str,
        filter_port: int,
        mailbox: Mailbox,
        others=(),
        relay_transport="",
    ):
        for program in ("postfix", "postqueue", "postsuper", "postconf"):
            require_program(program)
        self.directory = directory
        self.conf = directory / "conf"
        self.milter_port = free_port()  # through the milter
        self.filtered_port = free_port()  # through content_filter
        self.proxy_port = free_port()  # through smtpd_proxy_filter
        self.plain_port = free_port()  # through nothing
        self.reinjection_port = free_port()
        self._milter = milter
        # More milters to compare with: (name, endpoint), each behind a port of its own.
        self._others = dict(others)
        self.ports = {name: free_port() for name in self._others}
        self._filter_port = filter_port
        self._mailbox = mailbox
        self._relay_transport = relay_transport or f"smtp:[127.0.0.1]:{mailbox.port}"
        self._master = None

    def start(self):
        for name in ("conf", "spool", "data", "log"):
            (self.directory / name).mkdir(exist_ok=True)
        for parent in [self.directory, *self.directory.parents]:
            if parent.owner() == "root" and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o055)
        shutil.chown(self.directory / "data", "postfix")
        self._write_main()
        self._write_master()
        self._run("postfix", "check")
        # set-permissions would touch the system's files; the queue's own are made by check.
        self._master = subprocess.Popen(
            ["/usr/lib/postfix/sbin/master", "-c", str(self.conf), "-d"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(self.listens, what=f"postfix listening, see {self.directory / 'log'}")
        return self

    @property
    def process(self):
        """The master, for what measures it."""
        return self._master

    def listens(self):
        return self.is_open(self.plain_port) and self.is_open(self.reinjection_port)

    def is_open(self, port):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def _write_main(self):
        root = self.directory
        (self.conf / "main.cf").write_text(
            f"""\
compatibility_level = 3.6
queue_directory = {root}/spool
data_directory = {root}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
meta_directory = /etc/postfix
shlib_directory = /usr/lib/postfix
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mx.test.example
mydomain = test.example
myorigin = $myhostname
mydestination = mx.test.example
mynetworks = 127.0.0.0/8
local_recipient_maps =
alias_maps =
alias_database =
relay_domains = test.example
relay_transport = {self._relay_transport}
default_transport = error:no-outbound
maillog_file = {root}/log/postfix.log
maillog_file_prefixes = {root}
biff = no
smtputf8_enable = yes
message_size_limit = 52428800
mailbox_size_limit = 0
smtp_tls_security_level = none
disable_dns_lookups = yes
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_authorized_xforward_hosts = 127.0.0.0/8
smtpd_authorized_xclient_hosts = 127.0.0.0/8
minimal_backoff_time = 2s
maximal_backoff_time = 4s
queue_run_delay = 2s
milter_protocol = 6
"""
        )

    def _write_master(self):
        no_filter = (
            "receive_override_options=no_unknown_recipient_checks,no_header_body_checks,"
            "no_milters,no_address_mappings"
        )
        others = "".join(
            f"127.0.0.1:{self.ports[name]} inet n - n - - smtpd\n"
            f"  -o smtpd_milters={{{endpoint},default_action=tempfail,content_timeout=60s}}\n"
            for name, endpoint in self._others.items()
        )
        (self.conf / "master.cf").write_text(
            SERVICES
            + others
            + f"""\
127.0.0.1:{self.plain_port} inet n - n - - smtpd
127.0.0.1:{self.milter_port} inet n - n - - smtpd
  -o smtpd_milters={{{self._milter},default_action=tempfail,content_timeout=60s}}
127.0.0.1:{self.filtered_port} inet n - n - - smtpd
  -o content_filter=spamguard:[127.0.0.1]:{self._filter_port}
127.0.0.1:{self.proxy_port} inet n - n - - smtpd
  -o smtpd_proxy_filter=127.0.0.1:{self._filter_port}
127.0.0.1:{self.reinjection_port} inet n - n - - smtpd
  -o content_filter=
  -o smtpd_milters=
  -o {no_filter}
  -o smtpd_relay_restrictions=permit_mynetworks,reject
spamguard unix - - n - 4 smtp
  -o smtp_send_xforward_command=yes
  -o disable_mime_output_conversion=yes
  -o disable_dns_lookups=yes
  -o smtp_data_done_timeout=1200
  -o smtp_tls_security_level=none
"""
        )

    def _run(self, *command):
        name, *arguments = command
        return subprocess.run(
            [require_program(name), "-c", str(self.conf), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )

    def queued(self):
        """Return how many messages are in the queue."""
        listing = self._run("postqueue", "-j").stdout
        return len(listing.splitlines())

    def flush(self):
        self._run("postqueue", "-f")

    def logged(self):
        log = self.directory / "log" / "postfix.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def stop(self):
        if self._master is not None:
            self._master.terminate()
            self._master.wait(20)
            time.sleep(0.2)  # its children see the closed pipe
