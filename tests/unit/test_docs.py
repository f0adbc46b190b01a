"""What the documentation says exists, and what exists is documented."""

import re
import runpy
from pathlib import Path

import click
import pytest

from spamguard.cli import cli
from spamguard.errors import SpamGuardError
from spamguard.verdict import OUR_HEADERS

ROOT = Path(__file__).resolve().parents[2]
MANUAL = runpy.run_path(str(ROOT / "deploy" / "man.py"))
OPERATIONS = (ROOT / "deploy" / "README.md").read_text()
PAGES = [
    ROOT / "README.md",
    ROOT / "deploy" / "README.md",
    ROOT / "tests" / "README.md",
    ROOT / ".github" / "CONTRIBUTING.md",
]


def commands(group, prefix=""):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


@pytest.mark.parametrize("name", [name for name, _ in commands(cli)])
def test_every_command_is_described_for_the_administrator(name):
    assert re.search(rf"\bspamguard {name}\b", OPERATIONS)


def test_every_command_that_the_pages_show_exists():
    known = {name.split()[0] for name, _ in commands(cli)} | {"--help"}
    for page in PAGES:
        for shown in re.findall(r"`spamguard ([a-z-]+)", page.read_text()):
            assert shown in known, f"{page.name}: spamguard {shown}"


@pytest.mark.parametrize(("name", "command"), list(commands(cli)))
def test_every_command_and_option_has_a_help_text(name, command):
    assert command.help, name
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            is_plain = parameter.help or parameter.show_default or parameter.type.name == "choice"
            assert is_plain, f"{name} {parameter.name}"


def test_every_exit_code_is_in_the_manual_page():
    kinds, codes = [SpamGuardError], {0, 64}
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        codes.add(kind.exit_code)
    assert {str(code) for code in codes | {69}} <= set(MANUAL["_CODES"])


def test_every_header_field_of_ours_is_described():
    for name in OUR_HEADERS:
        assert f"`{name}`" in OPERATIONS


def test_make_targets_that_the_pages_name_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z ]*):", makefile, re.MULTILINE))
    known = {word for target in targets for word in target.split()}
    for page in PAGES:
        for target in re.findall(r"`?make ([a-z]+)`?", page.read_text()):
            if f"`make {target}" in page.read_text() or f"\nmake {target}" in page.read_text():
                assert target in known, f"{page.name}: make {target}"


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_sample_mail_and_its_table_agree():
    folder = ROOT / "sample_mail"
    rows = re.findall(
        r"^\| *`?([\w.-]+\.eml)`? *\| *(\w+) *\|", (folder / "README.md").read_text(), re.M
    )
    assert {name for name, _ in rows} == {path.name for path in folder.glob("*.eml")}
    for name, expected in rows:
        assert name.startswith(expected)


def test_sample_mail_uses_reserved_domains_only():
    allowed = re.compile(
        r"(^|\.)(example|test|invalid|localhost)(\.(com|net|org))?$"
        r"|^(192\.0\.2|198\.51\.100|203\.0\.113)\.\d+$"
    )
    known = {"www.w3.org", "w3.org"}
    for path in (ROOT / "sample_mail").glob("*.eml"):
        if path.name == "hostile-nul-bare-cr-lf.eml":
            continue  # cuts its own links with NUL
        text = path.read_bytes()[:65536].decode("latin-1").replace("=\r\n", "")
        for host in re.findall(r"https?://([A-Za-z0-9.-]+)", text):
            assert allowed.search(host.lower().strip(".")) or host.lower() in known, (
                f"{path.name}: {host}"
            )


def test_every_test_that_the_table_of_attacks_names_exists():
    table = (ROOT / "tests" / "README.md").read_text().partition("## Attacks")[2]
    named = re.findall(r"`((?:integration/|system/)?)(test_\w+\.py)(?:::(test_\w+))?`", table)
    assert len(named) > 40
    for folder, file, test in named:
        assert f"def {test}" in (ROOT / "tests" / (folder or "unit") / file).read_text()
