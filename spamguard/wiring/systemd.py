"""systemd's part: the units of deploy/systemd, with the program where it is installed.

A package brings them; who installs with pip or pipx gets them from here.
"""

import pwd
from pathlib import Path

from spamguard.errors import ConfigError

UNITS = Path(__file__).with_name("systemd_units")
DIRECTORY = Path("/etc/systemd/system")
_PROGRAM = "/opt/spamguard/bin/spamguard"
_HIDDEN = (Path("/home"), Path("/root"), Path("/run/user"))  # by ProtectHome
_USER = "spamguard"


def files(program: Path, directory: Path = DIRECTORY) -> dict[Path, bytes]:
    """Return every unit with its content.

    Args:
        program: `spamguard`, as it was called.
        directory: where the administrator's units are.

    Raises:
        ConfigError: the units' sandbox hides the program.
    """
    for path in (program, program.resolve()):
        if any(path.is_relative_to(hidden) for hidden in _HIDDEN):
            raise ConfigError(
                f"{path}: ProtectHome hides it from the service: install it below /opt"
            )
    return {
        directory / unit.name: unit.read_text("utf-8").replace(_PROGRAM, str(program)).encode()
        for unit in sorted(UNITS.iterdir())
    }


def next_step() -> str:
    """Return the commands after which the service runs."""
    start = "systemctl daemon-reload && systemctl enable --now spamguard"
    try:
        pwd.getpwnam(_USER)
    except KeyError:
        home = "--home-dir /var/lib/spamguard --shell /usr/sbin/nologin"
        return f"useradd --system {home} {_USER} && {start}"
    return start
