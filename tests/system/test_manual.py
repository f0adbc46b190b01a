"""The manual page, as man(1) and whatis(1) read it."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from spamguard.cli import cli
from tests.support.programs import require_program

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def _fresh_mailbox():
    """Take the place of the Postfix tests' fixture, which would start a whole site."""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    made = tmp_path_factory.mktemp("man") / "spamguard.8"
    with made.open("wb") as stream:
        subprocess.run([sys.executable, "deploy/man.py"], cwd=ROOT, stdout=stream, check=True)
    return made


def options(command):
    """Yield every option of a command and of those below it."""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield from parameter.opts
    if isinstance(command, click.Group):
        for below in command.commands.values():
            yield from options(below)


def test_it_is_shown_without_a_warning_and_has_every_option(page):
    shown = subprocess.run(
        [require_program("man"), "--warnings", "--local-file", page],
        capture_output=True, text=True, timeout=60, check=True,
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "200", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert "" == shown.stderr
    for option in options(cli):
        assert option in shown.stdout.replace("\u2010", "-"), option
    for word in ("ENVIRONMENT", "EXIT STATUS", "SPAMGUARD_CONFIG", "78"):
        assert word in shown.stdout


def test_whatis_finds_its_one_line(page):
    said = subprocess.run(
        [require_program("lexgrog"), page], capture_output=True, text=True, timeout=30, check=True
    )
    assert "spamguard - mail filter that learns from its users" in said.stdout
