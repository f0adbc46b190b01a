"""The container's recipe against the tree; system/test_container.py builds it."""

import json
import re
import shlex
from pathlib import Path

from spamguard.config import load_config

ROOT = Path(__file__).resolve().parents[2]


def instructions():
    text = re.sub(r"\\\n", " ", (ROOT / "deploy" / "Containerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(None, 1)) for line in lines]


def stages():
    found = []
    for name, rest in instructions():
        if name == "FROM":
            found.append([])
        found[-1].append((name, rest))
    return found


def test_every_base_is_pinned_to_a_version_of_python_and_debian():
    bases = [rest.split()[0] for name, rest in instructions() if name == "FROM"]
    assert len(bases) == 2
    assert all(
        re.fullmatch(r"docker\.io/library/python:3\.\d+-slim-[a-z]+", base) for base in bases
    )


def test_what_is_copied_from_the_tree_is_there():
    for name, rest in instructions():
        if name == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source


def test_it_installs_with_the_constraints_and_without_torch():
    (pip,) = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert "-c constraints.txt ." in pip
    assert "[train]" not in pip


def test_the_daemon_runs_as_a_user_of_its_own():
    names = [name for name, _ in stages()[-1]]
    users = [rest for name, rest in stages()[-1] if name == "USER"]
    assert users == ["spamguard"]
    assert names.index("USER") < names.index("CMD")


def test_its_variables_are_settings_and_its_ports_are_those_that_listen():
    pairs = [
        pair.split("=", 1)
        for name, rest in stages()[-1]
        if name == "ENV"
        for pair in shlex.split(rest)
    ]
    environment = {key: value for key, value in pairs if key.startswith("SPAMGUARD_")}
    config = load_config(None, environment=environment, overrides={})
    ports = [e.rpartition(":")[2] for e in (*config.milter.listen, *config.smtp.listen)]
    (exposed,) = [rest.split() for name, rest in instructions() if name == "EXPOSE"]
    assert exposed == ports


def test_its_commands_are_the_programs():
    run = {name: rest for name, rest in stages()[-1] if name in {"ENTRYPOINT", "CMD"}}
    assert json.loads(run["ENTRYPOINT"]) + json.loads(run["CMD"]) == ["spamguard", "serve"]
