"""What the doctor asks of the running daemon: its control socket, and each door by its protocol."""

import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import spamguard
from spamguard.config import Config
from spamguard.doctor.findings import Finding, error, note, ok, warning
from spamguard.errors import MailServerError, ModelError
from spamguard.frontends.control import ask
from spamguard.model.store import ModelStore
from spamguard.wire import milter
from spamguard.wire.milter_packets import VERSION, ActionFlags, Negotiate, StepFlags
from spamguard.wiring.lines import host_and_port, socket_path
from spamguard.wiring.programs import run

ANSWER_SECONDS = 5.0  # to a greeting, which costs the daemon nothing
_ANSWER_BYTES = 4096
UNSCORED_SHARE = 0.01  # of all messages; below, a crash or a burst explains it
_SYSTEMD = Path("/run/systemd/system")  # as sd_booted(3) looks
_START = "systemctl start spamguard, and see its log"

# What each door is asked, and what its answer must contain. By SMTP and LMTP we speak first.
_NEGOTIATION = milter.encode(
    Negotiate(version=VERSION, actions=ActionFlags(0x1FF), steps=StepFlags(0x1FFFFF))
)
_QUESTIONS = {
    "milter": (_NEGOTIATION, b"O\x00\x00\x00"),
    "smtp": (b"QUIT\r\n", b"220 "),
    "lmtp": (b"QUIT\r\n", b"220 "),
    "spamd": (b"PING SPAMC/1.5\r\n\r\n", b"PONG"),
    "http": (b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b" 200 "),
}


def daemon(config: Config) -> tuple[list[Finding], Mapping[str, Any]]:
    """Ask the daemon how it is; its answer is empty when there is none."""
    path = config.paths.control_socket
    try:
        status = ask(path, "status")
    except PermissionError:
        advice = "run the doctor as root, or as the daemon's user"
        return [error("daemon", f"{path}: permission denied", advice)], {}
    except (OSError, ValueError) as problem:
        return [error("daemon", f"no answer on {path}: {problem}", _START)], {}
    found = [ok("daemon", f"runs, process {status.get('pid')}, model {status.get('model')}")]
    if status.get("version") != spamguard.__version__:
        text = f"runs version {status.get('version')}, installed is {spamguard.__version__}"
        found.append(warning("daemon", text, "systemctl restart spamguard"))
    return [*found, *_model(config, status), *_counters(config, status)], status


def at_boot() -> Iterator[Finding]:
    """Look whether systemd, where it runs, starts the daemon after a reboot."""
    if not _SYSTEMD.is_dir():
        return
    units = ("spamguard.service", "spamguard.socket")
    try:
        said = run("systemctl", "show", "--value", "--property=UnitFileState", *units).split()
    except MailServerError as problem:
        yield note("service", f"systemd was not asked: {problem}")
        return
    if "enabled" in said:
        yield ok("service", "starts at boot")
    elif "disabled" in said:
        yield warning("service", "does not start at boot", "systemctl enable spamguard")
    else:
        yield note("service", "systemd has no unit of it", "spamguard setup systemd --write")


def _model(config: Config, status: Mapping[str, Any]) -> Iterator[Finding]:
    try:
        wanted = ModelStore(config.paths.models).get(config.model.version).name
    except ModelError:
        return  # said where the model is checked
    if status.get("model") != wanted:
        text = f"judges with {status.get('model')}, the configuration says {wanted}"
        yield warning("daemon", text, "spamguard reload")


def _counters(config: Config, status: Mapping[str, Any]) -> Iterator[Finding]:
    counters = status.get("counters", {})
    messages = counters.get("messages", 0)
    unscored = counters.get("verdict.unscored", 0)
    if messages and unscored / messages > UNSCORED_SHARE:
        yield warning(
            "daemon",
            f"{unscored} of {messages} messages since its start unscored",
            "see its log for the reason; more model.workers, or a longer model.deadline_seconds",
        )
    for name in ("quarantine_failures", "report_failures", "reload_failures"):
        if counters.get(name):
            yield warning("daemon", f"{name}: {counters[name]} since its start", "see its log")
    if len(status.get("scorers", ())) < config.workers:
        text = f"{len(status.get('scorers', ()))} of {config.workers} scorers"
        yield warning("daemon", text, "see its log: a scorer has just ended, or needs a restart")


def doors(config: Config, status: Mapping[str, Any]) -> Iterator[Finding]:
    """Ask every door for a sign of life."""
    listening = status.get("listening", {})
    for name, section in (
        ("milter", config.milter),
        ("smtp", config.smtp),
        ("lmtp", config.lmtp),
        ("spamd", config.spamd),
        ("http", config.http),
    ):
        # A port 0 is another after each start: the daemon knows which.
        has_choice = any(endpoint.endswith(":0") for endpoint in section.listen)
        endpoints = listening.get(name, ()) if has_choice else section.listen
        if not endpoints:
            yield note("doors", f"{name} is closed")
        for endpoint in endpoints:
            yield _door(name, endpoint)
            if endpoint.startswith("unix:"):
                yield from _mode(name, socket_path(endpoint))


def _door(name: str, endpoint: str) -> Finding:
    question, expected = _QUESTIONS[name]
    try:
        answer = exchange(endpoint, question, expected)
    except OSError as problem:
        text = f"{name} at {endpoint}: {problem.strerror or problem}"
        return error("doors", text, f"{_START}; a new address needs a restart")
    if expected not in answer:
        text = f"{name} at {endpoint} gives another answer than ours would"
        return error("doors", text, "find out who listens there: ss -lxtp")
    return ok("doors", f"{name} answers at {endpoint}")


def exchange(endpoint: str, question: bytes, expected: bytes) -> bytes:
    """Send a question, return what came until the expected bytes, the end or the limit.

    Raises:
        OSError: nobody listens, or nothing came in time.
    """
    address = host_and_port(endpoint)
    if address is None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        connection = socket.create_connection(address, timeout=ANSWER_SECONDS)
    with connection:
        connection.settimeout(ANSWER_SECONDS)
        if address is None:
            connection.connect(str(socket_path(endpoint)))
        connection.sendall(question)
        answer = b""
        while expected not in answer and len(answer) < _ANSWER_BYTES:
            data = connection.recv(_ANSWER_BYTES)
            if not data:
                break
            answer += data
    return answer


def _mode(name: str, path: Path) -> Iterator[Finding]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return  # said where it was asked
    if mode & 0o002:
        yield warning(
            "permissions",
            f"{path}: every user of this machine may connect ({mode:04o})",
            f"set {name}.socket_mode, and put who needs it into the group",
        )
