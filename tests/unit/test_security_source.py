"""What the package's source must not contain: formats that execute, shells, SQL put together."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "spamguard"
SOURCES = sorted(PACKAGE.rglob("*.py"))
# Reading any of these runs what the file says.
EXECUTING = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "yaml",
    "xml",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "os.system", "os.popen", "tempfile.mktemp", "input"}


def trees():
    for path in SOURCES:
        yield pytest.param(ast.parse(path.read_text()), id=str(path.relative_to(PACKAGE)))


def calls(tree):
    """Yield (dotted name, the call) of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def argument(call, name):
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), None)


@pytest.mark.parametrize("tree", list(trees()))
def test_no_module_reads_a_format_that_executes(tree):
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not EXECUTING & {name.partition(".")[0] for name in names}
    for name, call in calls(tree):
        if name == "torch.load":
            assert argument(call, "weights_only") == "True"
        if name in {"np.load", "numpy.load"}:
            assert argument(call, "allow_pickle") in {None, "False"}
        assert argument(call, "trust_remote_code") in {None, "False"}


@pytest.mark.parametrize("tree", list(trees()))
def test_no_module_runs_a_shell_or_text(tree):
    for name, call in calls(tree):
        assert name not in FORBIDDEN_CALLS, name
        assert argument(call, "shell") in {None, "False"}


@pytest.mark.parametrize("tree", list(trees()))
def test_no_statement_is_put_together_from_what_others_said(tree):
    """Values are bound; a name in a statement comes from a literal beside it."""
    for name, call in calls(tree):
        if name.rpartition(".")[2] in {"execute", "executemany", "executescript", "query"}:
            parts = [
                node for node in ast.walk(call.args[0]) if isinstance(node, ast.FormattedValue)
            ]
            assert all(ast.unparse(part.value) == "table" for part in parts), ast.unparse(call)


@pytest.mark.parametrize("tree", list(trees()))
def test_no_expression_is_compiled_from_what_others_said_unescaped(tree):
    for name, call in calls(tree):
        if name in {"re.compile", "re.sub", "re.search", "re.match", "re.fullmatch"}:
            for node in ast.walk(call.args[0]):
                assert not isinstance(node, ast.Attribute) or node.attr in {
                    "escape",
                    "pattern",
                    "join",
                }
