"""Print the manual page spamguard(8), made of what the commands say of themselves.

For `make man` and the Debian package. Written out because the generators for click are not kept.
"""

import textwrap
from collections.abc import Iterator

import click

import spamguard
from spamguard.cli import cli

_ABOUT = """\
A mail filter: a daemon that a mail server asks by milter, SMTP, HTTP or the spamd protocol,
and the commands around it. It judges with a quantized BERT beside a linear model, tags, holds or
refuses spam as its policy says, and learns from what users report. In doubt about the verdict the
message is delivered unscored; in doubt about custody the sender keeps it."""
_FILES = {
    "/etc/spamguard/spamguard.toml": "the configuration; every setting is described there",
    "/var/lib/spamguard": "database, held mail, corrections and models",
    "/run/spamguard": "control socket",
}
_ENVIRONMENT = {
    "SPAMGUARD_CONFIG": "the configuration, in place of /etc/spamguard/spamguard.toml",
    "SPAMGUARD_SECTION__KEY": "one setting: SPAMGUARD_POLICY__SPAM=tag is policy.spam; --set wins",
}
_CODES = {
    "0": "done",
    "64": "wrong usage",
    "65": "data that cannot be used",
    "69": "no daemon answers",
    "70": "a bug, or a training that cannot go on",
    "71": "an address to listen on is taken",
    "74": "a file or database that cannot be read or written",
    "75": "not now; try again",
    "76": "a wire protocol was broken",
    "77": "no rights to the state",
    "78": "wrong configuration, a model that cannot be used, or a database of a newer version",
}


def escaped(text: str) -> str:
    """Return text that roff takes as it is."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return "\n".join(rf"\&{line}" if line[:1] in {".", "'"} else line for line in text.split("\n"))


def commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command with the words that call it."""
    for word, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


def described(name: str, command: click.Command) -> Iterator[str]:
    """Yield the lines of one command."""
    context = click.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    yield ".TP"
    yield rf"\fB{escaped(name)}\fR {escaped(usage)}"
    text = textwrap.dedent(command.help or "")
    yield escaped("\n".join(" ".join(p.split()) + "\n" for p in text.split("\n\n")).strip())
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record and "--help" not in record[0]:
            yield ".RS\n.TP"
            yield rf"\fB{escaped(record[0])}\fR"
            yield escaped(" ".join(record[1].split())) or r"\&"
            yield ".RE"


def page() -> Iterator[str]:
    """Yield the whole page, line by line."""
    yield f'.TH SPAMGUARD 8 "" "SpamGuard {spamguard.__version__}" "System administration"'
    yield ".SH NAME"
    yield r"spamguard \- mail filter that learns from its users"
    yield ".SH SYNOPSIS"
    yield r"\fBspamguard\fR [\fIOPTIONS\fR] \fICOMMAND\fR [\fIARGUMENTS\fR]"
    yield ".SH DESCRIPTION"
    yield escaped(_ABOUT)
    yield ".SH OPTIONS"
    for line in list(described("spamguard", cli))[3:]:
        if line not in {".RS\n.TP", ".RE"}:
            yield line
        elif line != ".RE":
            yield ".TP"
    yield ".SH COMMANDS"
    for name, command in commands(cli, "spamguard"):
        yield from described(name, command)
    tables = {"FILES": _FILES, "ENVIRONMENT": _ENVIRONMENT, "EXIT STATUS": _CODES}
    for title, entries in tables.items():
        yield f".SH {title}"
        for name, text in entries.items():
            yield f".TP\n\\fB{escaped(name)}\\fR\n{escaped(text)}"
    yield ".SH SEE ALSO"
    yield escaped("/usr/share/doc/spamguard/README.md, milter(8), postconf(5)")


if __name__ == "__main__":
    click.echo("\n".join(page()))
