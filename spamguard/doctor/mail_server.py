"""Whether Postfix really hands its mail to us, and waits for as long as we may take.

Read with postconf(1), as it is in the files: a change that Postfix has not reloaded is not seen.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from spamguard.config import Config
from spamguard.doctor.access import closed_to
from spamguard.doctor.findings import Finding, error, note, ok, warning
from spamguard.errors import MailServerError
from spamguard.wiring.lines import host_and_port, socket_path
from spamguard.wiring.postfix import (
    MilterEntry,
    PostfixConfig,
    Service,
    is_our_milter,
    parse_milter,
    seconds,
    split_milters,
)
from spamguard.wiring.programs import run

SETUP = "spamguard setup postfix --write, then postfix reload"
_OVERRIDES = ("smtpd_milters", "receive_override_options", "content_filter")
SHORT_SECONDS = 5  # to connect or to send to a daemon that is busy starting


class PostfixDoctor:
    """Looks at one Postfix.

    Args:
        config: our settings.
        postfix: its configuration.
    """

    def __init__(self, config: Config, postfix: PostfixConfig) -> None:
        self._config = config
        self._postfix = postfix
        self._services = postfix.services()

    def examine(self) -> Iterator[Finding]:
        """Look at everything."""
        listeners = [s for s in self._services if s.command == "smtpd" and not self._is_back(s)]
        judged = {s.key: self._ways(s) for s in listeners}
        yield self._running()
        if not any(judged.values()):
            found = "; ".join(
                f"{name} = {self._postfix.get(name)}"
                for name in ("smtpd_milters", "content_filter")
            )
            yield error("postfix", f"no service hands mail to SpamGuard ({found})", SETUP)
            return
        for service in listeners:
            yield from self._wired(service, judged[service.key])
        if not self._milter_of(self._postfix.get("non_smtpd_milters")):
            yield note("postfix", "mail of local programs (sendmail) passes unjudged")
        if maps := self._postfix.get("smtpd_milter_maps"):
            yield note("postfix", f"smtpd_milter_maps = {maps}: its clients have other milters")
        seen: set[str] = set()
        for service in listeners:
            for finding in self._budget(service):
                if finding.found not in seen:
                    seen.add(finding.found)
                    yield finding
        yield from self._way_back(judged)
        yield from self._size()

    def _running(self) -> Finding:
        try:
            run("postfix", "-c", str(self._postfix.directory), "status")
        except MailServerError:
            return error("postfix", f"{self._postfix.directory}: does not run", "postfix start")
        return ok("postfix", f"{self._postfix.version} runs, {self._postfix.directory}")

    # -- wired -------------------------------------------------------------------------------

    def _ways(self, service: Service) -> list[str]:
        """Return by which parameters a listener's mail comes to us."""
        ways = []
        if self._milter_entry(service):
            ways.append("smtpd_milters")
        if self._leads_to_us(self._content_filter(service).partition(":")[2]):
            ways.append("content_filter")
        if self._leads_to_us(self._postfix.effective(service, "smtpd_proxy_filter")):
            ways.append("smtpd_proxy_filter")
        return ways

    def _milter_entry(self, service: Service) -> MilterEntry | None:
        if "no_milters" in self._postfix.effective(service, "receive_override_options"):
            return None
        return self._milter_of(self._postfix.effective(service, "smtpd_milters"))

    def _milter_of(self, value: str) -> MilterEntry | None:
        queue = self._postfix.queue_directory
        for entry in map(parse_milter, split_milters(value)):
            if any(is_our_milter(entry.where, e, queue) for e in self._config.milter.listen):
                return entry
        return None

    def _content_filter(self, service: Service) -> str:
        return self._postfix.effective(service, "content_filter")

    def _leads_to_us(self, destination: str) -> bool:
        """Whether ``[127.0.0.1]:10025`` or ``inet:127.0.0.1:10025`` is our SMTP door."""
        if not destination:
            return False
        host, _, port = destination.removeprefix("inet:").rpartition(":")
        where = f"inet:{host.strip('[]')}:{port}"
        queue = self._postfix.queue_directory
        return any(is_our_milter(where, e, queue) for e in self._config.smtp.listen)

    def _is_back(self, service: Service) -> bool:
        """Whether a listener is where our mail comes back."""
        name, _, kind = service.key.partition("/")
        hops = (self._config.smtp.next_hop, self._config.release_hop)
        ports = {address[1] for hop in hops if (address := host_and_port(hop))}
        port = name.rpartition(":")[2]
        return kind == "inet" and port.isdigit() and int(port) in ports

    def _wired(self, service: Service, ways: list[str]) -> Iterator[Finding]:
        if not ways and service.is_public:
            own = [name for name in _OVERRIDES if name in service.options]
            advice = f"its own -o {own[0]} in master.cf overrides main.cf" if own else SETUP
            yield error("postfix", f"{service.key} does not hand its mail to SpamGuard", advice)
        elif not ways:
            yield note("postfix", f"{service.key} does not hand its mail to SpamGuard")
        elif len(ways) > 1:
            text = f"{service.key} has its mail judged twice, by {' and '.join(ways)}"
            yield warning("postfix", text, "keep one of them")
        else:
            yield ok("postfix", f"{service.key} hands its mail over by {ways[0]}")
        entry = self._milter_entry(service)
        if entry and entry.where.partition(":")[0] in {"unix", "local"}:
            yield from self._socket(service, entry.where.partition(":")[2])

    def _socket(self, service: Service, path: str) -> Iterator[Finding]:
        """Look whether smtpd can reach the Unix socket: through its chroot, and as its user."""
        queue = self._postfix.queue_directory
        inside = queue / path.lstrip("/") if service.is_chrooted else queue / path
        ours = [socket_path(e) for e in self._config.milter.listen if e.startswith("unix:")]
        if Path(inside) not in ours:
            yield error(
                "postfix",
                f"{service.key} is chrooted: it looks for {path} below {queue}",
                f'milter.listen = ["unix:{queue}/spamguard/milter.sock"], then {SETUP}',
            )
        elif (owner := self._postfix.get("mail_owner")) and (
            closed := closed_to(owner, Path(inside))
        ):
            yield error(
                "permissions",
                f"{closed} is closed to {owner}",
                f"usermod -a -G $(stat -c %G {inside}) {owner}, socket_mode 0660, restart both",
            )

    # -- time --------------------------------------------------------------------------------

    def _budget(self, service: Service) -> Iterator[Finding]:
        entry = self._milter_entry(service)
        if entry:
            yield from self._milter_budget(entry, service)
        if "content_filter" in (ways := self._ways(service)):
            yield from self._content_filter_budget(service)
        if "smtpd_proxy_filter" in ways:
            yield self._answer_budget(
                f"{service.key}: smtpd_proxy_timeout",
                self._postfix.seconds("smtpd_proxy_timeout", service),
            )

    def _milter_budget(self, entry: MilterEntry, service: Service) -> Iterator[Finding]:
        def value(name: str) -> str:
            return entry.options.get(name) or self._postfix.effective(service, f"milter_{name}")

        action = value("default_action")
        if action == "accept":
            yield ok("time budget", "mail passes unjudged while SpamGuard is away")
        elif action == "tempfail":
            yield note("time budget", "senders are told to try again while SpamGuard is away")
        else:
            yield warning(
                "time budget",
                f"milter_default_action is {action}: mail suffers while SpamGuard is away",
                "default_action=accept or tempfail",
            )
        yield self._deadline("milter_content_timeout", seconds(value("content_timeout")))
        for name in ("connect_timeout", "command_timeout"):
            limit = seconds(value(name))
            if limit < SHORT_SECONDS:
                text = f"milter_{name} is {limit:g} s"
                yield warning("time budget", text, f"at least {SHORT_SECONDS} s")

    def _deadline(self, name: str, limit: float) -> Finding:
        """Compare a time that Postfix grants with those that a verdict may take."""
        model = self._config.model
        text = (
            f"{name} {limit:g} s, our deadline {model.deadline_seconds:g} s,"
            f" hard limit {model.hard_limit_seconds:g} s"
        )
        if limit <= model.deadline_seconds:
            advice = f"more than {model.hard_limit_seconds:g} s there, or a lower deadline_seconds"
            return error("time budget", text, advice)
        if limit <= model.hard_limit_seconds:
            advice = f"more than {model.hard_limit_seconds:g} s there, for messages that waited"
            return warning("time budget", text, advice)
        return ok("time budget", text)

    def _content_filter_budget(self, service: Service) -> Iterator[Finding]:
        transport = self._content_filter(service).partition(":")[0]
        client = next((s for s in self._services if s.key == f"{transport}/unix"), None)
        if client is None:
            text = f"content_filter names {transport}, which master.cf has not"
            yield error("postfix", text, "spamguard setup postfix --as content-filter --write")
            return
        yield self._answer_budget(
            f"{client.key}: smtp_data_done_timeout",
            self._postfix.seconds("smtp_data_done_timeout", client),
        )
        if self._postfix.effective(client, "smtp_send_xforward_command") != "yes":
            text = f"{client.key} does not tell who the client was"
            yield warning("postfix", text, "-o smtp_send_xforward_command=yes")
        most = self._config.smtp.max_connections
        limit = client.process_limit or int(self._postfix.get("default_process_limit"))
        if limit > most:
            text = f"{client.key}: {limit} clients at once, smtp.max_connections is {most}"
            yield warning("postfix", text, "a smaller limit in master.cf, or more connections")

    def _answer_budget(self, name: str, limit: float) -> Finding:
        """Compare a time with what judging and handing on take: our 250 comes after both."""
        ours = self._config.model.deadline_seconds + self._config.smtp.next_hop_timeout_seconds
        text = f"{name} {limit:g} s, ours with the next hop at most {ours:g} s"
        if limit <= self._config.model.deadline_seconds:
            return error("time budget", text, f"more than {ours:g} s there")
        if limit <= ours:
            advice = f"more than {ours:g} s there, or a lower smtp.next_hop_timeout_seconds"
            return warning("time budget", text, f"{advice}: mail may come twice otherwise")
        return ok("time budget", text)

    # -- back --------------------------------------------------------------------------------

    def _way_back(self, judged: dict[str, list[str]]) -> Iterator[Finding]:
        back = [s for s in self._services if s.command == "smtpd" and self._is_back(s)]
        for service in back:
            if ways := self._ways(service):
                yield error(
                    "postfix",
                    f"{service.key}, where mail comes back, filters again by {' and '.join(ways)}",
                    f"-o {ways[0]}= there",
                )
        uses_next_hop = any(
            {"content_filter", "smtpd_proxy_filter"} & set(w) for w in judged.values()
        )
        hops = {"quarantine.release_hop": self._config.release_hop}
        if uses_next_hop:
            hops["smtp.next_hop"] = self._config.smtp.next_hop
        for name, hop in hops.items():
            if (address := host_and_port(hop)) and not _listens(address[1], back):
                problem = error if name == "smtp.next_hop" else warning
                yield problem("postfix", f"{name} {hop}: Postfix does not listen there", SETUP)

    def _size(self) -> Iterator[Finding]:
        theirs, ours = int(self._postfix.get("message_size_limit")), self._config.max_message_bytes
        if theirs == 0 or theirs > ours:
            text = f"message_size_limit {theirs}, max_message_bytes {ours}"
            yield warning("postfix", text, "raise max_message_bytes: larger ones are never held")


def _listens(port: int, services: list[Service]) -> bool:
    return any(re.fullmatch(rf"(.*:)?{port}/inet", s.key) for s in services)
