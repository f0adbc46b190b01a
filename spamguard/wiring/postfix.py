"""A Postfix installation: what its configuration says, and what it shall say.

Everything is read and edited by Postfix's own postconf(1); edits are made in a copy of the two
files, so that nothing is touched before the difference has been seen.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from spamguard.config import Config
from spamguard.errors import ConfigError, MailServerError
from spamguard.wiring.changes import FileChange
from spamguard.wiring.lines import LOOPBACK_NAMES, PostfixLines, Way, host_and_port, postfix
from spamguard.wiring.programs import run

FILES = ("main.cf", "master.cf")
OLDEST = (3, 0)  # the first with options of its own for each milter
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service of master.cf.

    Attributes:
        key: name and type: ``smtp/inet``.
        is_chrooted: whether it runs in the queue directory.
        process_limit: how many of it at most, or None for the default.
        command: smtpd, smtp, …
        options: what stands behind ``-o``, expanded.
    """

    key: str
    is_chrooted: bool
    process_limit: int | None
    command: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_public(self) -> bool:
        """Whether it is an smtpd that takes the world's mail: port 25, or behind postscreen."""
        name, _, kind = self.key.partition("/")
        return self.command == "smtpd" and (
            kind == "pass" or name.rpartition(":")[2] in {"smtp", "25"}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MilterEntry:
    """One element of smtpd_milters: where it is, and its own options."""

    where: str
    options: Mapping[str, str]


class PostfixConfig:
    """The configuration of one instance.

    Args:
        directory: of main.cf and master.cf, or None for the default instance's.

    Raises:
        MailServerError: Postfix is not installed, too old, or its configuration cannot be read.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._values: dict[str, str] = {}
        self.directory = directory or Path(run("postconf", "-h", "-d", "config_directory").strip())
        if not (self.directory / "main.cf").is_file():
            raise MailServerError(f"{self.directory}/main.cf: not found")
        self.version = self.get("mail_version")
        if _numbers(self.version) < OLDEST:
            raise MailServerError(f"Postfix {self.version}: expected 3.0 or newer")

    def get(self, name: str) -> str:
        """Return one parameter of main.cf, expanded."""
        if name not in self._values:
            self._values[name] = self._ask("-xh", name).strip()
        return self._values[name]

    def seconds(self, name: str, service: Service | None = None) -> float:
        """Return a parameter that is a time, in seconds."""
        return seconds(self.effective(service, name) if service else self.get(name))

    def effective(self, service: Service, name: str) -> str:
        """Return a parameter as one service sees it."""
        return service.options.get(name, self.get(name))

    def services(self) -> list[Service]:
        """Return the services of master.cf."""
        options: dict[str, dict[str, str]] = {}
        for line in self._ask("-Px").splitlines():
            key, _, value = line.partition(" =")
            service, _, parameter = key.rpartition("/")
            options.setdefault(service, {})[parameter] = value.strip()
        chroot_default = self.get("compatibility_level") == "0"
        found = []
        for line in self._ask("-M").splitlines():
            name, kind, _, _, chroot, _, limit, command, *_ = line.split()
            key = f"{name}/{kind}"
            found.append(
                Service(
                    key=key,
                    is_chrooted=chroot == "y" or (chroot == "-" and chroot_default),
                    process_limit=int(limit) if limit.isdigit() else None,
                    command=command,
                    options=options.get(key, {}),
                )
            )
        return found

    @property
    def queue_directory(self) -> PurePosixPath:
        """The queue, which is the chroot too."""
        return PurePosixPath(self.get("queue_directory"))

    def lines(self, config: Config, way: Way) -> PostfixLines:
        """Return the lines for this instance.

        Raises:
            ConfigError: no door of ours can be reached from it this way.
        """
        wanted = postfix(config, way, queue_directory=self.queue_directory)
        is_outside = "unix:/" in wanted.milter  # below the queue it would be a relative path
        chrooted = [s.key for s in self.services() if s.is_public and s.is_chrooted]
        if is_outside and chrooted:
            raise ConfigError(
                f"milter.listen = {config.milter.listen[0]!r}: {chrooted[0]} runs in the chroot "
                f"{self.queue_directory} and cannot see it: put it below, or use 127.0.0.1:PORT"
            )
        return wanted

    def plan(self, wanted: PostfixLines) -> list[FileChange]:
        """Return what changes in main.cf and master.cf; nothing when all is there.

        Raises:
            ConfigError: something else is in the way.
            MailServerError: the result is not what Postfix understands.
        """
        with tempfile.TemporaryDirectory(prefix="spamguard-") as name:
            copy = Path(name)
            for file in FILES:
                shutil.copyfile(self.directory / file, copy / file)
                _age(copy / file)
            if wanted.milter:
                self._edit_milters(copy, wanted.milter)
            if wanted.content_filter:
                self._edit_content_filter(copy, wanted.content_filter)
            known = {service.key: service for service in self.services()}
            for entry in wanted.entries:
                self._edit_entry(copy, entry.key, entry.text, known.get(entry.key))
            if wanted.proxy_filter:
                self._edit_proxy_filter(copy, wanted.proxy_filter)
            run("postconf", "-c", name, "-n")
            run("postconf", "-c", name, "-M")
            return [change for file in FILES if (change := self._change(file, copy / file))]

    def _edit_milters(self, copy: Path, ours: str) -> None:
        in_force = split_milters(self.get("smtpd_milters"))
        if ours in in_force:
            return
        written = self._ask("-h", "smtpd_milters").strip()
        where = parse_milter(ours).where
        known, elsewhere = (
            [element for element in elements if is_same_socket(parse_milter(element).where, where)]
            for elements in (split_milters(written), in_force)
        )
        if elsewhere and not known:
            raise ConfigError(
                f"{self.directory}/main.cf: smtpd_milters = {written}: has {elsewhere[0]} by "
                f"way of another parameter: put {ours} there"
            )
        self._edit(copy, "-e", f"smtpd_milters={with_milter(written, ours)}")

    def _edit_content_filter(self, copy: Path, value: str) -> None:
        there = self.get("content_filter")
        if there and not there.startswith("spamguard:"):
            raise ConfigError(
                f"{self.directory}/main.cf: content_filter = {there}: there can be one alone; "
                "use the milter, or chain the two by hand"
            )
        if there != value:
            self._edit(copy, "-e", f"content_filter={value}")

    def _edit_entry(self, copy: Path, key: str, text: str, there: Service | None) -> None:
        if there is None:
            self._edit(copy, "-M", f"{key}={' '.join(text.split())}")
            return
        options = dict(re.findall(r"-o (\w+)=(\S*)", text))
        is_ours = there.command == text.split()[7] and there.options == options
        if not is_ours:
            raise ConfigError(
                f"{self.directory}/master.cf: {key} is there already and differs from\n{text}"
            )

    def _edit_proxy_filter(self, copy: Path, value: str) -> None:
        public = [service for service in self.services() if service.is_public]
        if len(public) != 1:
            raise ConfigError(
                f"{self.directory}/master.cf: expected one smtpd on port 25, found {len(public)}"
            )
        there = public[0].options.get("smtpd_proxy_filter", "")
        if there and there != value:
            raise ConfigError(
                f"{self.directory}/master.cf: {public[0].key}: smtpd_proxy_filter = {there}: "
                "there can be one alone"
            )
        if not there:
            self._edit(copy, "-P", f"{public[0].key}/smtpd_proxy_filter={value}")

    def _change(self, name: str, edited: Path) -> FileChange | None:
        path = (self.directory / name).resolve()
        before, after = path.read_bytes(), edited.read_bytes()
        return FileChange(path=path, before=before, after=after) if before != after else None

    def _edit(self, copy: Path, option: str, what: str) -> None:
        run("postconf", "-c", str(copy), option, what)
        for file in FILES:
            _age(copy / file)

    def _ask(self, *arguments: str) -> str:
        return run("postconf", "-c", str(self.directory), *arguments)


def with_milter(value: str, ours: str) -> str:
    """Return smtpd_milters with our element: in the place of the one of our socket, or at the end.

    At the end, so that what verifies DKIM and DMARC has added its results before.
    """
    where = parse_milter(ours).where
    elements = split_milters(value)
    if any(is_same_socket(parse_milter(element).where, where) for element in elements):
        kept = [ours if is_same_socket(parse_milter(e).where, where) else e for e in elements]
        return ", ".join(dict.fromkeys(kept))
    return f"{value.rstrip(', ')}, {ours}" if elements else ours


def split_milters(value: str) -> list[str]:
    """Split at commas and blanks outside of braces (postconf(5), smtpd_milters)."""
    return re.findall(r"\{[^{}]*\}|[^\s,{}]+", value)


def parse_milter(element: str) -> MilterEntry:
    """Read one element: ``inet:host:port`` or ``{ inet:host:port, name=value, … }``."""
    where, *options = [part for part in re.split(r"[\s,]+", element.strip("{} ")) if part] or [""]
    pairs = (option.partition("=") for option in options)
    return MilterEntry(where=where, options={name: value for name, _, value in pairs})


def is_same_socket(one: str, other: str) -> bool:
    """Whether two of Postfix's names lead to one socket; the loopback has several."""
    kinds = {"local": "unix"}
    parts = []
    for text in (one, other):
        kind, _, rest = text.partition(":")
        host, _, port = rest.rpartition(":")
        if kind == "inet":
            host = host.strip("[]")
            parts.append((kind, "localhost" if host in LOOPBACK_NAMES else host, port))
        else:
            parts.append((kinds.get(kind, kind), "", rest))
    return parts[0] == parts[1]


def is_our_milter(where: str, endpoint: str, queue_directory: PurePosixPath) -> bool:
    """Whether an element of smtpd_milters leads to one of our endpoints."""
    if address := host_and_port(endpoint):
        return is_same_socket(where, f"inet:{address[0]}:{address[1]}")
    kind, _, path = where.partition(":")
    is_path = kind in {"unix", "local"}
    return is_path and str(queue_directory / path) == endpoint.removeprefix("unix:")


def seconds(text: str) -> float:
    """Read one of Postfix's times: ``30s``, ``5m``, ``100``.

    Raises:
        MailServerError: it is none.
    """
    matched = re.fullmatch(r"(\d+)([smhdw]?)", text.strip())
    if matched is None:
        raise MailServerError(f"{text!r}: expected a time such as 30s")
    return float(int(matched.group(1)) * _UNITS[matched.group(2)])


def _age(path: Path) -> None:
    """Have postconf read at once: a file that was written this second it reads a second later."""
    os.utime(path, (0, 0))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
