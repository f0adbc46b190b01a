"""Dovecot's part: the files by which a move into or out of Junk becomes a report.

They are those of deploy/dovecot, put where the administrator's page says. Only whole files of ours
are written, none of Dovecot's own is edited.
"""

import re
import shlex
from pathlib import Path

from spamguard.config import Config
from spamguard.errors import ConfigError, MailServerError
from spamguard.wiring.programs import run

FILES = Path(__file__).with_name("dovecot_files")
SNIPPET = "90-spamguard.conf"
SCRIPTS = ("report-spam.sieve", "report-ham.sieve")
PROGRAM = "spamguard-report"
PROGRAM_DIRECTORY = Path("/usr/local/lib/spamguard")
DEFAULT_DIRECTORY = Path("/etc/dovecot")
_DEFAULT_DROP = "/var/lib/spamguard/drop"


def files(
    config: Config,
    *,
    directory: Path = DEFAULT_DIRECTORY,
    program_directory: Path = PROGRAM_DIRECTORY,
    mail_user: str = "vmail",
) -> dict[Path, bytes]:
    """Return every file with its content.

    Args:
        config: our settings; the drop directory stands in the program.
        directory: Dovecot's.
        program_directory: where the program goes.
        mail_user: as whom Dovecot's imap runs.

    Raises:
        ConfigError: there is no drop directory.
    """
    drop = config.reports.drop_directory
    if not drop:
        raise ConfigError(
            f'reports.drop_directory = "": set it, for example to "{_DEFAULT_DROP}", and restart'
        )
    replace = {
        "/etc/dovecot/sieve": str(directory / "sieve"),
        str(PROGRAM_DIRECTORY): str(program_directory),
        "user = vmail": f"user = {mail_user}",
        _DEFAULT_DROP: shlex.quote(drop),
    }
    targets = {
        directory / "conf.d" / SNIPPET: SNIPPET,
        program_directory / PROGRAM: PROGRAM,
        **{directory / "sieve" / name: name for name in SCRIPTS},
    }
    return {target: _fitted(name, replace) for target, name in targets.items()}


def _fitted(name: str, replace: dict[str, str]) -> bytes:
    text = (FILES / name).read_text("utf-8")
    for old, new in replace.items():
        text = text.replace(old, new)
    return text.encode()


def check_version() -> str:
    """Return Dovecot's version.

    Raises:
        MailServerError: it is not installed, or 2.4, whose configuration is another language.
    """
    version = run("dovecot", "--version").split()[0]
    if not re.match(r"2\.3\b", version):
        raise MailServerError(f"Dovecot {version}: these files are for 2.3")
    return version


def mail_user(directory: Path = DEFAULT_DIRECTORY) -> str:
    """Return as whom Dovecot's imap runs, or "" where each user has a uid of their own."""
    config = directory / "dovecot.conf"
    return run("doveconf", "-c", str(config), "-h", "mail_uid").strip()
