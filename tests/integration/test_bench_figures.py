"""What the benches make of their figures: JSON, the comparison of two runs, a picture."""

import json

import pytest
from click.testing import CliRunner

from tests.bench import diff
from tests.bench.plot import draw
from tests.bench.report import Report, measured


def run(rate):
    report = Report("a bench")
    report.add("rate", rate, unit="messages/s", target=100, at_most=False)
    report.add("lost", 0)
    return {"machine": "here", "load": report.figures, "disguise": {"n": 3, "tables": {"a": {}}}}


def test_figures_have_value_unit_and_target():
    rate = {"value": 200.0, "unit": "messages/s", "target": 100}
    assert [("load", "rate", rate), ("load", "lost", {"value": 0, "unit": "", "target": None})] == [
        *measured(run(200.0))
    ]


def test_two_figures_of_one_name_would_hide_each_other():
    report = Report("a bench")
    report.add("p50", 1.0)
    with pytest.raises(AssertionError, match="p50"):
        report.add("p50", 2.0)


def test_two_runs_are_compared_by_ratios(tmp_path):
    for name, rate in (("before", 200.0), ("after", 300.0)):
        (tmp_path / f"{name}.json").write_text(json.dumps(run(rate)))
    paths = [str(tmp_path / "before.json"), str(tmp_path / "after.json")]
    done = CliRunner().invoke(diff.main, paths)
    assert 0 == done.exit_code, done.output
    assert [("load", "rate", "messages/s", 200.0, 300.0), ("load", "lost", "", 0, 0)] == [
        *diff.rows(run(200.0), run(300.0))
    ]


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_figures_are_drawn(tmp_path, kind):
    path = tmp_path / f"figures.{kind}"
    draw(run(200.0), path)
    assert path.read_bytes()[:4] == {"png": b"\x89PNG", "svg": b"<?xm"}[kind]
