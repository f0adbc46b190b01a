"""What setup changes in the files of Exim, OpenSMTPD and Sendmail.

Not Postfix's and Dovecot's, which have modules of their own. Nothing is written here, and where a
place is not clear nothing is guessed: the error says what is there, and the lines can be printed.
"""

import re
import shlex
import tempfile
from pathlib import Path

from spamguard.config import Config
from spamguard.errors import ConfigError, MailServerError
from spamguard.wiring import lines
from spamguard.wiring.changes import FileChange, plan
from spamguard.wiring.programs import find, run

_EXIM_ACL = "spamguard_acl_data"
_EXIM_ACL_MACRO = "CHECK_DATA_LOCAL_ACL_FILE"  # Debian's place for the administrator's own ACL
_EXIM_SET = re.compile(rf"^[ \t]*(?:spamd_address|{_EXIM_ACL_MACRO})[ \t]*=.*", re.MULTILINE)
# Lines continued by a backslash belong together; a listener on the local socket takes no mail from
# outside.
_LISTENER = re.compile(r"^listen[ \t]+on[ \t]+(?!socket\b)(?:[^\n\\#]|\\.|\\\n)*", re.MULTILINE)
_SENDMAIL_END = re.compile(r"^MAILER(?:_DEFINITIONS\b|\()", re.MULTILINE)
_SENDMAIL_OURS = re.compile(r"^INPUT_MAIL_FILTER\(`spamguard'.*\n", re.MULTILINE)


def exim(config: Config, directory: Path) -> list[FileChange]:
    """Return the changes for Debian's exim4-config, in one file or split: two files of ours.

    Args:
        config: our settings.
        directory: with ``update-exim4.conf.conf``.

    Raises:
        ConfigError: the spamd door is closed, or what we would set is set already.
        MailServerError: it is another layout, or cannot be read.
    """
    main, acl = lines.exim(config).split("\n\n", 1)
    settings = _read(directory / "update-exim4.conf.conf")
    if settings is None or (directory / "exim4.conf").exists():
        raise MailServerError(
            f"{directory}: not made by Debian's update-exim4.conf: put the lines there by hand"
        )
    is_split = "true" in re.findall(r"^dc_use_split_config='(\w*)'", settings, re.MULTILINE)
    own = directory / ("conf.d/main/000_spamguard" if is_split else "exim4.conf.localmacros")
    others = sorted((directory / "conf.d/main").glob("*"))
    wanted = f"{main}\n{_EXIM_ACL_MACRO} = {directory / _EXIM_ACL}\n"
    for path in others if is_split else [own, directory / "exim4.conf.template"]:
        text = (_read(path) or "").replace(wanted, "")
        if there := _EXIM_SET.search(text):
            raise ConfigError(f"{path}: {there.group().strip()}: put the lines there by hand")
    text = _read(own) or ""
    if wanted not in text:
        is_whole = not text or text.endswith("\n")
        text += wanted if is_whole else f"\n{wanted}"
    return _changed({own: text, directory / _EXIM_ACL: acl})


def opensmtpd(config: Config, program: str, directory: Path) -> list[FileChange]:
    """Return the change by which every listener but the local socket has its mail filtered.

    Args:
        config: our settings.
        program: see `lines.opensmtpd_filter`.
        directory: with ``smtpd.conf``.

    Raises:
        ConfigError: the HTTP door is closed, or a listener has another filter.
        MailServerError: there is no listener, or smtpd does not understand the result.
    """
    ours = lines.opensmtpd_filter(config, program).splitlines(keepends=True)[0]
    path = directory / "smtpd.conf"
    text = _required(path)
    listeners = list(_LISTENER.finditer(text))
    if not listeners:
        raise MailServerError(f"{path}: expected a line that begins with listen on")
    for listener in reversed(listeners):
        there = listener.group().rstrip()
        chosen = re.search(r"\bfilter\s+(\S+)", there)
        if chosen and chosen.group(1).strip('"') != "spamguard":
            raise ConfigError(f"{path}: {there}: a listener has one filter: chain the two by hand")
        if not chosen:
            end = listener.start() + len(there)
            text = f'{text[:end]} filter "spamguard"{text[end:]}'
    if ours not in text:
        if re.search(r'^filter\s+"?spamguard"?\s', text, re.MULTILINE):
            raise ConfigError(f"{path}: another filter spamguard is there already")
        first = listeners[0].start()
        text = text[:first] + ours + text[first:]
    if find("smtpd"):
        with tempfile.TemporaryDirectory(prefix="spamguard-") as folder:
            copy = Path(folder) / "smtpd.conf"
            copy.write_bytes(text.encode("utf-8", "surrogateescape"))
            run("smtpd", "-n", "-f", str(copy))
    return _changed({path: text})


def sendmail(config: Config, directory: Path) -> list[FileChange]:
    """Return the change in ``sendmail.mc``.

    Raises:
        ConfigError: the milter door is closed.
        MailServerError: there is no MAILER, before which the line must stand.
    """
    path = directory / "sendmail.mc"
    text = _SENDMAIL_OURS.sub("", _required(path))
    place = _SENDMAIL_END.search(text)
    if place is None:
        raise MailServerError(f"{path}: expected a line that begins with MAILER(")
    text = text[: place.start()] + lines.sendmail(config) + text[place.start() :]
    return _changed({path: text})


def next_step(server: str, directory: Path) -> str:
    """Return the command after which what was written is in force."""
    match server:
        case "exim":
            return "update-exim4.conf && systemctl restart exim4"
        case "opensmtpd":
            return "systemctl restart opensmtpd"
        case _:
            return f"make -C {shlex.quote(str(directory))} && systemctl restart sendmail"


def _changed(wanted: dict[Path, str]) -> list[FileChange]:
    return plan({path: text.encode("utf-8", "surrogateescape") for path, text in wanted.items()})


def _required(path: Path) -> str:
    if (text := _read(path)) is None:
        raise MailServerError(f"{path}: not found")
    return text


def _read(path: Path) -> str | None:
    """Return a file as text that gives every byte back."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MailServerError(f"{path}: {error.strerror or error}") from error
