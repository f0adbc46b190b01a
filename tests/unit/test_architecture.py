"""Who may import whom, checked on the source. The table is the project's map: keep it true."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "spamguard"

# Module or package -> what of ours it may import. Longer names win.
ALLOWED = {
    "errors": set(),
    "observe": set(),
    "visibility": set(),
    "html": {"visibility"},
    "campaign": set(),
    "gtube": set(),
    "wire": {"errors", "wire"},
    "charsets": set(),
    "message": {"charsets", "errors", "html"},
    "verdict": {"errors", "gtube", "message"},
    "report": {"message", "verdict"},
    "disguise": set(),
    "model_input": {"message", "html", "disguise"},
    "config": {"errors", "verdict"},
    "filter": {"message", "verdict", "errors", "observe"},
    "next_hop": {"wire", "errors"},
    "handover": set(),
    "client": {"config", "errors", "message", "verdict"},
    "opensmtpd": {"errors", "message", "verdict", "wire"},
    "pipe": {"client", "config", "errors", "filter", "handover", "message", "model", "verdict"},
    "doors": {"config", "errors", "filter", "frontends", "next_hop", "observe", "report"},
    "database": {"errors"},
    "quarantine": {"database", "message", "verdict", "errors", "observe"},
    "feedback": {
        "feedback", "campaign", "database", "message", "model_input", "report", "verdict", "errors", "observe",
    },
    "model": {"model", "campaign", "gtube", "message", "model_input", "verdict", "errors", "observe"},
    "frontends": {
        "wire", "filter", "next_hop", "handover", "message", "report", "verdict", "errors", "observe",
        "frontends.listener", "frontends.points",
    },
    "frontends.http": {
        "filter", "message", "report", "verdict", "errors", "observe", "frontends.http",
        "frontends.listener", "frontends.points",
    },
    "frontends.milter": {
        "wire", "filter", "message", "report", "verdict", "errors", "observe",
        "frontends.milter_transaction", "frontends.listener",
    },
    "training": {
        "training", "model", "feedback", "campaign", "database", "report", "message", "model_input", "html", "verdict", "config",
        "errors", "observe",
    },
    "doctor": {
        "config", "database", "doctor", "doors", "errors", "frontends", "gtube", "model", "verdict",
        "wire", "wiring",
    },
    "wiring": {"config", "errors", "wiring"},
    "scan": {"model", "verdict", "errors", "observe"},
    "tables": {
        "message", "model_input", "verdict", "model", "quarantine", "scan", "feedback",
        "training",
    },
    "upkeep": {
        "config", "database", "errors", "feedback", "model", "observe", "quarantine",
    },
    "systemd": {"errors"},
    "daemon": {
        "config", "database", "doors", "errors", "feedback", "filter", "frontends", "model",
        "observe", "quarantine", "report", "upkeep", "systemd",
    },
}  # fmt: skip
FREE = {"cli", "__main__", "__init__"}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__") or "__init__"
        yield pytest.param(name, path, id=name)


def imported(path, *, at_run_time):
    """Yield dotted names of every import, leaving out those for type checkers alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for inner in ast.walk(node):
                inner.skipped = True
    for node in ast.walk(tree):
        if at_run_time and getattr(node, "skipped", False):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_allowed(name, allowed):
    return any(name == entry or name.startswith(f"{entry}.") for entry in allowed)


@pytest.mark.parametrize(("name", "path"), list(modules()))
def test_a_module_imports_only_what_it_may(name, path):
    if name.partition(".")[0] in FREE:
        return
    rule = max((k for k in ALLOWED if is_allowed(name, {k})), key=len)
    for target in imported(path, at_run_time=False):
        if target.startswith("spamguard."):
            inner = target.removeprefix("spamguard.")
            assert is_allowed(inner, ALLOWED[rule]), f"{name} imports {inner}"


@pytest.mark.parametrize(("name", "path"), list(modules()))
def test_torch_and_transformers_stay_in_training(name, path):
    if name.startswith("training"):
        return
    for target in imported(path, at_run_time=True):
        assert target.partition(".")[0] not in {"torch", "transformers", "onnx"}, name


@pytest.mark.parametrize(("name", "path"), list(modules()))
def test_codecs_do_no_input_or_output(name, path):
    if not name.startswith("wire"):
        return
    for target in imported(path, at_run_time=True):
        assert target.partition(".")[0] not in {"asyncio", "socket", "logging"}, name
