"""Alert rules and dashboard: read by promtool, and about metrics that there are."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spamguard.frontends.http.status import render
from spamguard.observe import Metrics
from tests.support.debian import unpacked
from tests.support.python_packages import installed_apart

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


# Grafana's own types, generated from its schema: what they do not know is not in what they write.
_THROUGH_GRAFANAS_TYPES = """
import json, sys
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

register_default_plugins()
print(JSONEncoder().encode(Dashboard.from_json(json.load(sys.stdin))))
"""


def unknown(ours, theirs, where="dashboard"):
    """Yield what of our dashboard is missing or different in what came back."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            yield from unknown(value, theirs.get(key), f"{where}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from unknown(*pair, f"{where}[{number}]")
    elif ours != theirs:
        yield where


def test_grafanas_schema_knows_everything_in_the_dashboard():
    folder = installed_apart("grafana-foundation-sdk==1769699379!11.6.0")
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    dashboard["panels"][0]["gridPoss"] = {}  # what such a slip would look like
    done = subprocess.run(
        [sys.executable, "-c", _THROUGH_GRAFANAS_TYPES], input=json.dumps(dashboard),
        env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ["dashboard.panels[0].gridPoss"] == list(unknown(dashboard, json.loads(done.stdout)))


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
