"""Alert rules and dashboard: read by promtool, and about metrics that there are."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from spamguard.frontends.http.status import render
from spamguard.observe import Metrics
from tests.support.debian import unpacked

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
_NAME = re.compile(r"\bspamguard_[a-z_]+")
_LABELLED = {"verdict", "disposition", "decided_by"}
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def _fresh_mailbox():
    """Take the place of the Postfix tests' fixture, which would start a whole site."""


@pytest.fixture(scope="module")
def exported():
    """Every name that /metrics can have: what the code counts, and the gauges."""
    metrics = Metrics()
    for path in (ROOT / "spamguard").rglob("*.py"):
        for name in re.findall(r"metrics\.count\(\s*\"([a-z_]+)\"", path.read_text()):
            metrics.count(name, "x" if name in _LABELLED else "")
    status = {
        "version": "1",
        "model": "m",
        "uptime_seconds": 1,
        "scorers": [1],
        "waiting": 0,
        "thresholds": {"unsure": 0.8, "spam": 0.99},
        "drift": {"psi": {"score": 0.1}},
        "retraining": {"running": False},
    }
    return set(_NAME.findall(render(metrics, status).decode()))


@pytest.mark.parametrize(
    "name", ["spamguard.rules.yml", "spamguard.rules.test.yml", "grafana.json"]
)
def test_every_metric_that_is_asked_for_exists(name, exported):
    asked = set(_NAME.findall((MONITORING / name).read_text())) - {"spamguard_rules"}
    assert len(asked) > 3
    assert asked <= exported


def test_the_dashboard_is_what_grafana_imports():
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    assert {"title", "uid", "schemaVersion", "panels", "templating"} <= dashboard.keys()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)) >= 8
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in dashboard["panels"]]
    assert len(places) == len(set(places))
    assert all(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])


@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "spamguard.rules.yml"), ("test", "rules", "spamguard.rules.test.yml")],
    ids=["check", "test"],
)
def test_promtool_accepts_the_rules_and_they_fire_when_they_should(arguments):
    package = unpacked("prometheus")
    done = subprocess.run(
        [package.path("usr/bin/promtool"), *arguments],
        cwd=MONITORING, capture_output=True, text=True, timeout=60, check=False,
        env=package.environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
