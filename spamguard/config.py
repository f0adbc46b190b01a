"""The administrator's settings: typed, from TOML, with errors that name file, key and value.

Precedence, weakest first: the defaults here, the file, environment variables
(``SPAMGUARD_SECTION__KEY``), the command line. Every key is described in
`deploy/spamguard.toml`; a test compares that file with this module. All mistakes of a file are
reported at once.
"""

import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from spamguard.errors import ConfigError
from spamguard.verdict import LOWEST_UNSURE, Disposition, Policy, SenderList, Thresholds

DEFAULT_PATH = Path("/etc/spamguard/spamguard.toml")
ENVIRONMENT_PREFIX = "SPAMGUARD_"

_ADDRESS = re.compile(r"[^@\s]*@[^@\s]+")


def _endpoint(value: str) -> str:
    """Accept ``unix:/path`` and ``host:port`` (``[::1]:port`` for IPv6)."""
    if value.startswith("unix:/") or value == "":
        return value
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("expected host:port, [v6]:port or unix:/path")
    return value


def _hop(value: str) -> str:
    """Accept an endpoint, behind ``lmtp:`` where LMTP is spoken."""
    _endpoint(value.removeprefix("lmtp:"))
    return value


def _is_loopback(endpoint: str) -> bool:
    host = endpoint.rpartition(":")[0].strip("[]")
    if endpoint.startswith("unix:") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _network(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(f"expected a network such as 192.0.2.0/24: {error}") from error


def _lower(value: str) -> str:
    return value.lower()


def _address_or_domain(value: str) -> str:
    if not _ADDRESS.fullmatch(value):
        raise ValueError("expected user@example.org, or @example.org for a whole domain")
    return value.lower()


def _mail_address(value: str) -> str:
    if value and (not _ADDRESS.fullmatch(value) or value.startswith("@")):
        raise ValueError("expected a mail address")
    return value


def _full_address(value: str) -> str:
    if not value:
        raise ValueError("expected a mail address")
    return _mail_address(value).lower()


def _absolute(value: str) -> str:
    if value and not value.startswith("/"):
        raise ValueError("expected an absolute path")
    return value


Endpoint = Annotated[str, AfterValidator(_endpoint)]
Hop = Annotated[str, AfterValidator(_hop)]
IpNetwork = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, BeforeValidator(_network)]
Domain = Annotated[str, AfterValidator(_lower)]
ReversePath = Annotated[str, AfterValidator(_address_or_domain)]
MailAddress = Annotated[str, AfterValidator(_mail_address)]
ReportAddress = Annotated[str, AfterValidator(_full_address)]
SocketMode = Annotated[str, Field(pattern=r"^0?[0-7]{3}$")]
Probability = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Milter(_Section):
    """The milter door; an empty list of endpoints closes it."""

    listen: tuple[Endpoint, ...] = ("127.0.0.1:11332",)
    socket_mode: SocketMode = "0660"
    idle_timeout_seconds: Seconds = 3600


class Smtp(_Section):
    """The SMTP content filter; `next_hop` is where accepted mail goes."""

    listen: tuple[Endpoint, ...] = ("127.0.0.1:10025",)
    next_hop: Endpoint = "127.0.0.1:10026"
    next_hop_timeout_seconds: Seconds = 300
    max_connections: int = Field(default=100, ge=1, le=10_000)
    xforward_networks: tuple[IpNetwork, ...] = (
        ipaddress.ip_network("127.0.0.0/8"),
        ipaddress.ip_network("::1/128"),
    )


class Lmtp(_Section):
    """The LMTP door, between the MTA and the mail store; closed unless told where to listen."""

    listen: tuple[Endpoint, ...] = ()
    socket_mode: SocketMode = "0660"
    next_hop: Endpoint = ""

    @model_validator(mode="after")
    def _leads_on(self) -> "Lmtp":
        if self.listen and not self.next_hop:
            raise ValueError("next_hop: expected where the mail store takes LMTP")
        return self


class Spamd(_Section):
    """The spamd door; closed unless it is told where to listen."""

    listen: tuple[Endpoint, ...] = ()
    socket_mode: SocketMode = "0660"
    allow_tell: bool = False


class Http(_Section):
    """The HTTP door; closed unless it is told where to listen."""

    listen: tuple[Endpoint, ...] = ()
    socket_mode: SocketMode = "0660"
    token_file: Annotated[str, AfterValidator(_absolute)] = ""

    @model_validator(mode="after")
    def _safe(self) -> "Http":
        for endpoint in self.listen:
            if not self.token_file and not _is_loopback(endpoint):
                raise ValueError(f"token_file: expected one, since {endpoint} is not loopback")
        return self


class Model(_Section):
    """Which model judges, and with how many processes."""

    version: str = ""
    workers: int = Field(default=0, ge=0, le=256)
    deadline_seconds: Seconds = 10
    hard_limit_seconds: Seconds = 20
    max_waiting: int = Field(default=200, ge=1, le=100_000)
    unsure_threshold: Probability | None = None
    spam_threshold: Probability | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Model":
        if self.hard_limit_seconds < self.deadline_seconds:
            raise ValueError("hard_limit_seconds: expected at least deadline_seconds")
        unsure, spam = self.unsure_threshold, self.spam_threshold
        if (unsure is None) != (spam is None):
            raise ValueError("unsure_threshold and spam_threshold: expected both or neither")
        if unsure is not None and spam is not None and unsure > spam:
            raise ValueError("unsure_threshold: expected at most spam_threshold")
        if unsure is not None and unsure < LOWEST_UNSURE:
            raise ValueError(f"unsure_threshold: expected at least {LOWEST_UNSURE}")
        return self

    @property
    def thresholds(self) -> Thresholds | None:
        """The administrator's thresholds, or None for the model's own."""
        if self.unsure_threshold is None or self.spam_threshold is None:
            return None
        return Thresholds(unsure=self.unsure_threshold, spam=self.spam_threshold)


class Senders(_Section):
    """An allow or deny list."""

    reverse_paths: frozenset[ReversePath] = frozenset()
    from_domains: frozenset[Domain] = frozenset()
    networks: tuple[IpNetwork, ...] = ()

    def as_list(self) -> SenderList:
        """Return it as `decide` wants it."""
        return SenderList(
            reverse_paths=self.reverse_paths,
            from_domains=self.from_domains,
            networks=self.networks,
        )


class PolicySection(_Section):
    """What is done with a message of each verdict."""

    ham: Literal["deliver"] = "deliver"
    unsure: Literal["deliver", "tag", "quarantine", "redirect"] = "tag"
    spam: Literal["deliver", "tag", "quarantine", "redirect", "reject"] = "quarantine"
    overloaded: Literal["deliver", "defer"] = "deliver"
    outgoing: Literal["deliver", "tag", "quarantine", "reject"] = "tag"
    null_sender: Literal["deliver", "tag", "quarantine", "reject"] = "tag"
    subject_prefix: str = Field(default="", max_length=40, pattern=r"^[ -~]*$")
    redirect_to: MailAddress = ""
    mark_ham: bool = True
    local_networks: tuple[IpNetwork, ...] = (
        ipaddress.ip_network("127.0.0.0/8"),
        ipaddress.ip_network("::1/128"),
    )
    trusted_authserv_ids: frozenset[Domain] = frozenset()
    allow: Senders = Senders()
    deny: Senders = Senders()

    @model_validator(mode="after")
    def _redirect_has_a_target(self) -> "PolicySection":
        if "redirect" in {self.unsure, self.spam} and not self.redirect_to:
            raise ValueError("redirect_to: expected an address, since mail is to be redirected")
        return self

    def as_policy(self) -> Policy:
        """Return it as `decide` wants it."""
        return Policy(
            ham=Disposition(self.ham),
            unsure=Disposition(self.unsure),
            spam=Disposition(self.spam),
            overloaded=Disposition(self.overloaded),
            outgoing=Disposition(self.outgoing),
            null_sender=Disposition(self.null_sender),
            local_networks=self.local_networks,
            subject_prefix=self.subject_prefix,
            redirect_to=self.redirect_to,
            trusted_authserv_ids=self.trusted_authserv_ids,
            allow=self.allow.as_list(),
            deny=self.deny.as_list(),
            mark_ham=self.mark_ham,
        )


class QuarantineSection(_Section):
    """How long held messages are kept."""

    retention_days: int = Field(default=30, ge=1, le=3650)
    release_hop: Hop = ""


class Reports(_Section):
    """Where users report mistakes, besides the command line."""

    spam_addresses: tuple[ReportAddress, ...] = ()
    ham_addresses: tuple[ReportAddress, ...] = ()
    networks: tuple[IpNetwork, ...] = ()
    drop_directory: Annotated[str, AfterValidator(_absolute)] = ""

    @model_validator(mode="after")
    def _unambiguous(self) -> "Reports":
        if both := set(self.spam_addresses) & set(self.ham_addresses):
            raise ValueError(f"{min(both)}: expected as spam or as ham address, not both")
        return self


class FeedbackSection(_Section):
    """What users' corrections may do, and how long they are kept."""

    retention_days: int = Field(default=365, ge=1, le=3650)
    campaigns: bool = True


def _cron(value: str) -> str:
    if value:
        from apscheduler.triggers.cron import CronTrigger

        try:
            CronTrigger.from_crontab(value)
        except ValueError as error:
            raise ValueError(f"expected a cron expression such as '30 3 * * *': {error}") from error
    return value


class Retrain(_Section):
    """When and how the daemon learns from corrections."""

    schedule: Annotated[str, AfterValidator(_cron)] = "30 3 * * *"
    minimum_corrections: int = Field(default=20, ge=1, le=100_000)
    promote: bool = True
    threads: int = Field(default=1, ge=1, le=256)
    memory_megabytes: int = Field(default=2560, ge=512, le=1_048_576)
    replay: tuple[Path, ...] = ()
    never_flag: tuple[Path, ...] = ()


class Paths(_Section):
    """Where state and sockets are."""

    state: Path = Path("/var/lib/spamguard")
    control_socket: Path = Path("/run/spamguard/control.sock")

    @property
    def models(self) -> Path:
        """Model versions."""
        return self.state / "models"

    @property
    def database(self) -> Path:
        """The SQLite database."""
        return self.state / "spamguard.db"

    @property
    def quarantine(self) -> Path:
        """Held messages."""
        return self.state / "quarantine"

    @property
    def corrections(self) -> Path:
        """Reported messages."""
        return self.state / "corrections"


class Log(_Section):
    """The log on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["logfmt", "json"] = "logfmt"
    addresses: bool = False


class Config(_Section):
    """All settings."""

    milter: Milter = Milter()
    smtp: Smtp = Smtp()
    lmtp: Lmtp = Lmtp()
    spamd: Spamd = Spamd()
    http: Http = Http()
    model: Model = Model()
    policy: PolicySection = PolicySection()
    quarantine: QuarantineSection = QuarantineSection()
    reports: Reports = Reports()
    feedback: FeedbackSection = FeedbackSection()
    retrain: Retrain = Retrain()
    paths: Paths = Paths()
    log: Log = Log()
    max_message_bytes: int = Field(default=100 * 1024 * 1024, ge=1024)
    drain_seconds: Seconds = 20

    @property
    def workers(self) -> int:
        """Scorer processes: as configured, or one a core."""
        return self.model.workers or len(os.sched_getaffinity(0))

    @property
    def release_hop(self) -> str:
        """Where released messages are handed in: behind us, so that none is judged again."""
        if self.lmtp.listen and not self.quarantine.release_hop:
            return f"lmtp:{self.lmtp.next_hop}"
        return self.quarantine.release_hop or self.smtp.next_hop


def load_config(
    path: Path | None,
    *,
    environment: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Read the settings.

    Args:
        path: the file, or None for `DEFAULT_PATH` where it exists.
        environment: usually ``os.environ``.
        overrides: of the command line, by dotted key.

    Raises:
        ConfigError: lists every mistake with its source, key, value and what was expected.
    """
    values: dict[str, Any] = {}
    source = "built-in defaults"
    try:
        if path is None and DEFAULT_PATH.exists():
            path = DEFAULT_PATH
    except OSError as error:  # its directory is closed to us
        raise ConfigError(f"{DEFAULT_PATH}: {error.strerror or error}") from error
    if path is not None:
        source = str(path)
        values = _read_toml(path)
    origin: dict[str, str] = {}
    for name, text in environment.items():
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            _set(values, key, _parse_value(text))
            origin[key] = f"environment variable {name}"
    for key, value in (overrides or {}).items():
        _set(values, key, value)
        origin[key] = "command line"
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, source, origin)) from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _parse_value(text: str) -> Any:
    """Read an environment variable as JSON where it is some, else as the text it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _set(values: dict[str, Any], dotted_key: str, value: Any) -> None:
    *sections, key = dotted_key.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{dotted_key}: {section} is a value, not a section")
        values = inner
    values[key] = value


def _explain(error: ValidationError, source: str, origin: Mapping[str, str]) -> str:
    lines = []
    for mistake in error.errors(include_url=False):
        key = ".".join(
            str(part) for part in mistake["loc"] if not str(part).startswith("function-")
        )
        where = next((text for k, text in origin.items() if key.startswith(k)), source)
        message = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            message = f"no such setting{_suggest(key)}"
        given = mistake.get("input")
        shown = "" if isinstance(given, dict | BaseModel) else f" = {given!r}"
        lines.append(f"{where}: {key or 'settings'}{shown}: {message}")
    return "\n".join(lines)


def _suggest(key: str) -> str:
    """Return a hint at the setting that was probably meant, or ""."""
    import difflib

    close = difflib.get_close_matches(key, all_keys(), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def template() -> str:
    """Return the commented configuration file with every key."""
    return Path(__file__).with_name("spamguard.toml").read_text("utf-8")


def all_keys() -> list[str]:
    """Return the dotted name of every setting, for documentation tests and hints."""

    def walk(model: type[BaseModel], prefix: str) -> list[str]:
        keys = []
        for name, info in model.model_fields.items():
            inner = info.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                keys += walk(inner, f"{prefix}{name}.")
            else:
                keys.append(prefix + name)
        return keys

    return walk(Config, "")
