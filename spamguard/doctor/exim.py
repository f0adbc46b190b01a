"""Whether Exim asks our spamd door; which ACL does so it does not tell, `--send` proves that."""

from collections.abc import Iterator

from spamguard.config import Config
from spamguard.doctor.access import closed_to
from spamguard.doctor.findings import Finding, error, ok, warning
from spamguard.errors import MailServerError
from spamguard.wiring.lines import host_and_port, socket_path
from spamguard.wiring.programs import find, run

PROGRAMS = ("exim4", "exim")
_SETUP = "spamguard setup exim"


def program() -> str | None:
    """Return the name of the Exim that is installed, or None."""
    return next((name for name in PROGRAMS if find(name)), None)


def examine(config: Config, exim: str) -> Iterator[Finding]:
    """Look at an Exim's configuration as it reads it."""
    try:
        shown = run(exim, "-bP", "spamd_address").partition("=")[2].strip()
        user = run(exim, "-bP", "exim_user").partition("=")[2].strip()
    except MailServerError as problem:
        # A daemon without content scanning does not know the option.
        yield error("exim", str(problem), "install exim4-daemon-heavy; exim4 -bV names the mistake")
        return
    if not config.spamd.listen:
        yield warning(
            "exim", "the spamd door is closed: Exim cannot ask", f"spamd.listen, {_SETUP}"
        )
        return
    for endpoint in config.spamd.listen:
        address = host_and_port(endpoint)
        words = [str(word) for word in address or (socket_path(endpoint),)]
        if not any(words == server[: len(words)] for server in _servers(shown)):
            continue
        if address is None and (closed := closed_to(user, socket_path(endpoint))):
            advice = f"usermod -a -G spamguard {user}, spamd.socket_mode 0660, restart both"
            yield error("permissions", f"{closed} is closed to {user}", advice)
        else:
            yield ok("exim", f"spamd_address is our {endpoint}")
        return
    text = f"spamd_address = {shown}: not ours ({', '.join(config.spamd.listen)})"
    yield error("exim", text, _SETUP)


def _servers(value: str) -> list[list[str]]:
    """Split Exim's list: at colons, or at what stands behind a leading ``<``."""
    separator = ":"
    if value.startswith("<"):
        separator, value = value[1], value[2:]
    return [server.split() for server in value.split(separator)]
