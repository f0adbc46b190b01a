"""The lines that each mail server needs, from our configuration. Pure: nothing is read or written.

deploy/README.md shows the same lines for the default configuration; a test compares them.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

from spamguard.config import Config
from spamguard.errors import ConfigError

# Between our deadline and the moment at which the MTA gives up: a message that waits for its
# turn, a busy machine. With the default deadline this makes Postfix's line say 30 s.
MARGIN_SECONDS = 20
PROCESS_LIMIT = 8  # of Postfix's client for the content filter; two scorers keep up with that
DATA_DONE_SECONDS = 1200  # FILTER_README: the filter answers only when the next hop has

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a wildcard is reached by
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

_TO_FILTER = (
    ("smtp_send_xforward_command", "yes"),
    ("disable_mime_output_conversion", "yes"),
    ("disable_dns_lookups", "yes"),
    ("smtp_data_done_timeout", str(DATA_DONE_SECONDS)),
    ("smtp_tls_security_level", "none"),
)


class Way(StrEnum):
    """How Postfix hands mail over."""

    MILTER = "milter"
    CONTENT_FILTER = "content-filter"
    BEFORE_QUEUE = "before-queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterEntry:
    """One service of master.cf that is ours.

    Attributes:
        key: name and type, as postconf(1) writes them: ``spamguard/unix``.
        fields: private to command, blank separated.
        options: what stands behind ``-o``.
    """

    key: str
    fields: str
    options: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """The entry as it stands in the file."""
        first = f"{self.key.replace('/', ' ')} {self.fields}"
        return "\n".join([first, *(f"  -o {name}={value}" for name, value in self.options)])


@dataclass(frozen=True, slots=True, kw_only=True)
class PostfixLines:
    """What Postfix needs.

    Attributes:
        milter: one element of smtpd_milters, or "".
        content_filter: the parameter's value, or "".
        proxy_filter: for the smtpd service that listens for the world, or "".
        entries: services to add to master.cf.
    """

    milter: str = ""
    content_filter: str = ""
    proxy_filter: str = ""
    entries: tuple[MasterEntry, ...] = ()

    @property
    def text(self) -> str:
        """The lines for people, each under the name of its file."""
        main = []
        if self.milter:
            main.append(f"smtpd_milters = {self.milter}")
        if self.content_filter:
            main.append(f"content_filter = {self.content_filter}")
        master = [entry.text for entry in self.entries]
        if self.proxy_filter:
            master.insert(0, f"smtp inet …\n  -o smtpd_proxy_filter={self.proxy_filter}")
        parts = [
            (name, found) for name, found in (("main.cf", main), ("master.cf", master)) if found
        ]
        return "\n\n".join("\n".join([f"# {name}", *found]) for name, found in parts)


def host_and_port(endpoint: str) -> tuple[str, int] | None:
    """Return where SMTP on TCP is reached from this machine; None for a Unix socket, or LMTP."""
    if endpoint.startswith(("unix:", "lmtp:")):
        return None
    host, _, port = endpoint.rpartition(":")
    host = host.strip("[]")
    return _ANYWHERE.get(host, host), int(port)


def socket_path(endpoint: str) -> Path:
    """Return the path of an endpoint on a Unix socket."""
    return Path(endpoint.removeprefix("unix:"))


def first(endpoints: tuple[str, ...], *, key: str, example: str) -> str:
    """Return the endpoint that a mail server is told of.

    Raises:
        ConfigError: the door is closed, or its port is left to chance.
    """
    if not endpoints:
        raise ConfigError(f"{key} = []: the door is closed; set it, for example {key} = {example}")
    if endpoints[0].endswith(":0"):
        raise ConfigError(f"{key} = {endpoints[0]!r}: expected a fixed port")
    return endpoints[0]


def postfix(config: Config, way: Way, *, queue_directory: PurePosixPath) -> PostfixLines:
    """Return Postfix's lines.

    Args:
        config: our settings.
        way: how mail is handed over.
        queue_directory: Postfix's; a socket below it is named relative to it, which is right
            for services in and out of the chroot.

    Raises:
        ConfigError: our configuration has no door that Postfix can use this way.
    """
    reinjection = _reinjection(config)
    if way is Way.MILTER:
        return PostfixLines(milter=_milter(config, queue_directory), entries=reinjection)
    endpoint = first(config.smtp.listen, key="smtp.listen", example='["127.0.0.1:10025"]')
    address = host_and_port(endpoint)
    if address is None or not reinjection:
        wrong = "smtp.listen" if address is None else "smtp.next_hop"
        raise ConfigError(f"{wrong}: Postfix's filter needs host:port on this machine")
    if way is Way.BEFORE_QUEUE:
        return PostfixLines(proxy_filter=_with_port(address, "{}:{}"), entries=reinjection)
    client = MasterEntry(
        key="spamguard/unix", fields=f"- - n - {PROCESS_LIMIT} smtp", options=_TO_FILTER
    )
    return PostfixLines(
        content_filter=f"spamguard:[{address[0]}]:{address[1]}", entries=(client, *reinjection)
    )


def _milter(config: Config, queue_directory: PurePosixPath) -> str:
    endpoint = first(config.milter.listen, key="milter.listen", example='["127.0.0.1:11332"]')
    seconds = math.ceil(config.model.deadline_seconds) + MARGIN_SECONDS
    options = f"default_action=accept, content_timeout={seconds}s"
    if address := host_and_port(endpoint):
        return f"{{ inet:{_with_port(address, '{}:{}')}, {options} }}"
    path = PurePosixPath(socket_path(endpoint))
    if path.is_relative_to(queue_directory):
        path = path.relative_to(queue_directory)
    return f"{{ unix:{path}, {options} }}"


def _reinjection(config: Config) -> tuple[MasterEntry, ...]:
    """Return the listener that takes mail back, where it is one of this machine's."""
    address = host_and_port(config.release_hop)
    if address is None or address[0] not in LOOPBACK_NAMES:
        return ()
    network = "[::1]/128" if ":" in address[0] else "127.0.0.0/8"
    # What a listener behind a filter needs (FILTER_README): it must filter nothing again.
    options = (
        ("content_filter", ""),
        ("smtpd_milters", ""),
        (
            "receive_override_options",
            "no_unknown_recipient_checks,no_header_body_checks,no_milters,no_address_mappings",
        ),
        ("smtpd_authorized_xforward_hosts", network),
        ("smtpd_relay_restrictions", "permit_mynetworks,reject"),
        ("smtpd_recipient_restrictions", "permit_mynetworks,reject"),
        ("mynetworks", network),
    )
    key = _with_port(address, "{}:{}/inet")
    return (MasterEntry(key=key, fields="n - n - - smtpd", options=options),)


def _with_port(address: tuple[str, int], form: str) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return form.format(host, address[1])


def exim(config: Config) -> str:
    """Return Exim's lines: of the main section, a blank line, of the ACL of acl_smtp_data.

    Raises:
        ConfigError: the spamd door is closed.
    """
    example = '["unix:/run/spamguard/spamd.sock"]'
    endpoint = first(config.spamd.listen, key="spamd.listen", example=example)
    address = host_and_port(endpoint)
    shown = f"{address[0]} {address[1]}" if address else str(socket_path(endpoint))
    if ":" in shown:
        shown = f"<; {shown}"  # the option is a list, whose separator would be the colon
    return f"""\
spamd_address = {shown}

  warn  spam       = nobody:true/defer_ok
        add_header = X-Spam-Score: $spam_score
        add_header = X-Spam-Report: $spam_report
  warn  condition  = ${{if >={{$spam_score_int}}{{50}}}}
        add_header = X-Spam-Flag: YES
"""


def sendmail(config: Config) -> str:
    """Return the lines for sendmail.mc.

    Raises:
        ConfigError: the milter door is closed.
    """
    endpoint = first(config.milter.listen, key="milter.listen", example='["127.0.0.1:11332"]')
    seconds = math.ceil(config.model.deadline_seconds) + MARGIN_SECONDS
    if address := host_and_port(endpoint):
        family = "inet6" if ":" in address[0] else "inet"
        where = f"{family}:{address[1]}@{address[0]}"
    else:
        where = f"unix:{socket_path(endpoint)}"
    # F= is neither R (reject) nor T (tempfail): mail passes unjudged while we are away.
    return f"INPUT_MAIL_FILTER(`spamguard', `S={where}, F=, T=C:10s;S:10s;R:{seconds}s;E:5m')dnl\n"


def opensmtpd_filter(config: Config, program: str) -> str:
    """Return the lines for smtpd.conf by which it asks us about each message it takes.

    Args:
        config: our settings.
        program: the absolute path of `spamguard`; smtpd looks for others in its own folder.

    Raises:
        ConfigError: the HTTP door is closed, behind which the filter asks.
    """
    first(config.http.listen, key="http.listen", example='["unix:/run/spamguard/http.sock"]')
    return f"""\
filter "spamguard" proc-exec "{program} filter-opensmtpd" user spamguard group spamguard
listen on 0.0.0.0 filter "spamguard"
"""


def opensmtpd_relay(config: Config) -> str:
    """Return the lines for smtpd.conf, around the administrator's own domains and action.

    Raises:
        ConfigError: the SMTP filter's doors are not on TCP of this machine.
    """
    endpoint = first(config.smtp.listen, key="smtp.listen", example='["127.0.0.1:10025"]')
    there, back = host_and_port(endpoint), host_and_port(config.smtp.next_hop)
    if there is None or back is None or back[0] not in LOOPBACK_NAMES:
        wrong = "smtp.listen" if there is None else "smtp.next_hop"
        raise ConfigError(f"{wrong}: OpenSMTPD's filter needs host:port on this machine")
    return f"""\
listen on {back[0]} port {back[1]} tag SPAMGUARD
action "spamguard" relay host "smtp://{_with_port(there, "{}:{}")}"
match tag SPAMGUARD from any for domain "example.org" action "local"
match from any for domain "example.org" action "spamguard"
"""
