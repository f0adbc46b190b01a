"""`evaluate --report` and `models thresholds` on a data set and a model whose scores are known.

Needs matplotlib and jinja2 (the extra `train`), not torch.
"""

import base64
import json
import os
import re
import subprocess
import sys

import pytest
from selectolax.lexbor import LexborHTMLParser

from spamguard.model.store import ModelVersion
from tests.support.mail import HAM, SPAM, message
from tests.support.toy_model import write_toy_model

if not os.environ.get("CI"):
    pytest.importorskip("matplotlib", reason="pip install '.[train]' to test reports")
    pytest.importorskip("jinja2", reason="pip install '.[train]' to test reports")

HOSTILE = (
    "</p></main><script>alert(1)</script> \"onmouseover='x' <img src=https://evil.test/x.png>"
    " \u202eesrever\u202c {{ 7*7 }} {% raw %} javascript:x https://evil.test/login \x1b[31m \x07"
)


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return write_toy_model(tmp_path_factory.mktemp("models") / "toy-1")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """120 ham, of which 2 read like spam, and 60 spam, of which 3 read like ham."""
    path = tmp_path_factory.mktemp("mail")
    rows = ["path\tlabel\tkind\tlang\tcorpus\tuse"]
    for number in range(180):
        label = "spam" if number >= 120 else "ham"
        is_wrong = number in {0, 1, 120, 121, 122}
        text = SPAM if (label == "spam") != is_wrong else HAM
        if is_wrong:
            text = f"{text} {HOSTILE}"
        subject = "<b>now</b>" if is_wrong else "A test"
        raw = message(f"{text} number{number:04}x", subject=subject)
        (path / f"{number}.eml").write_bytes(raw)
        lang = "en" if number % 2 else "<i>xx</i>"
        rows.append(f"{number}.eml\t{label}\tlist\t{lang}\tc{number % 3}\teval")
    (path / "index.tsv").write_text("\n".join(rows) + "\n")
    return path


def run(*arguments, code=0):
    command = [sys.executable, "-m", "spamguard", "-c", os.devnull, *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert code == found.returncode, found.stderr
    return found.stdout + found.stderr


@pytest.fixture(scope="module")
def page(version, dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "out.html"
    run("evaluate", dataset, "--model", version, "--report", path)
    return path


def test_the_report_holds_figures_curves_slices_and_mistakes(page):
    text = page.read_text()
    tree = LexborHTMLParser(text)
    titles = [node.text() for node in tree.css("h2")]
    assert titles == ["The model", "Curves", "Slices", "Worst false positives", "Worst misses"]
    assert "Judged 120 ham and 60 spam" in tree.body.text()
    assert 4 == len(tree.css("img"))
    svg = [base64.b64decode(image.attributes["src"].partition(",")[2]) for image in tree.css("img")]
    assert all(picture.lstrip().startswith(b"<?xml") and b"</svg>" in picture for picture in svg)
    rows = {row.css_first("td").text(): row for row in tree.css("tr") if row.css_first("td")}
    assert {"c0", "c1", "c2", "list", "<i>xx</i>", "en"} <= set(rows)
    assert "95.0" in rows["all"].text()  # 57 of 60 caught
    assert "86.3 to 98.3" in rows["all"].text()  # Wilson


def test_mistakes_are_coloured_by_what_drove_them(page):
    tree = LexborHTMLParser(page.read_text())
    first = tree.css("section")[-2].css_first(".mail")
    assert "spam" == first.css_first(".label").text()
    driving = {mark.text() for mark in first.css("mark.s5")}
    assert {"viagra", "casino", "lottery"} & driving
    assert "meeting" not in driving


def test_hostile_mail_cannot_act_in_the_report(page):
    text = page.read_text()
    tree = LexborHTMLParser(text)
    assert not tree.css("script, a, iframe, object, link, form, svg, b:not(.tile b), i:not(.bar i)")
    for node in tree.css("*"):
        for name, value in node.attributes.items():
            assert not name.startswith("on"), name
            assert "http" not in (value or "") or name == "http-equiv"
            if name == "src":
                assert value.startswith("data:image/svg+xml;base64,")
    assert "<script>alert(1)</script>" in tree.body.text()  # shown, as text
    assert "{{ 7*7 }}" in tree.body.text()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text)
    assert "default-src 'none'" in text


def test_the_report_is_for_its_owner_alone(page):
    assert 0o600 == page.stat().st_mode & 0o777


def test_a_report_of_one_class_alone_is_refused(version, tmp_path):
    (tmp_path / "a.eml").write_bytes(message(HAM))
    (tmp_path / "index.tsv").write_text("path\tlabel\na.eml\tham\n")
    said = run("evaluate", tmp_path, "--model", version, "--report", tmp_path / "o.html", code=65)
    assert "expected both ham and spam" in said


def test_a_report_that_cannot_be_written_is_an_error_of_one_line(version, dataset, tmp_path):
    said = run(
        "evaluate", dataset, "--model", version, "--report", tmp_path / "no" / "o.html", code=74
    )
    assert "No such file" in said
    assert "Traceback" not in said


def test_evaluate_prints_json_beside_the_report(version, dataset, tmp_path):
    out = tmp_path / "o.html"
    command = [
        sys.executable,
        "-m",
        "spamguard",
        "-c",
        os.devnull,
        "evaluate",
        str(dataset),
        "--json",
    ]
    command += ["--model", str(version), "--report", str(out)]
    found = subprocess.run(command, capture_output=True, timeout=120, check=True)
    assert 120 == json.loads(found.stdout)["slices"]["all"]["ham"]
    assert out.exists()


# -- thresholds ----------------------------------------------------------------------------------


@pytest.fixture
def own(version, tmp_path):
    return write_toy_model(tmp_path / "own")


def test_thresholds_keep_their_target_and_are_stored_with_how(dataset, own, tmp_path):
    plot = tmp_path / "plot.svg"
    said = run(
        "models", "thresholds", dataset, "--model", own, "--max-false-positive-rate", "0.1",
        "--max-flagged-rate", "0.2", "--plot", plot, "--store",
    )  # fmt: skip
    assert "stored with toy-1" in said
    assert b"</svg>" in plot.read_bytes()
    stored = ModelVersion.read(own)
    stored.verify()
    # Two of 120 are called spam whatever the threshold: that is within a tenth, with confidence.
    assert stored.thresholds.unsure <= stored.thresholds.spam < 0.9
    chosen = {"max_false_positive_rate": 0.1, "max_flagged_rate": 0.2, "ham": 120, "spam": 60}
    assert chosen == stored.manifest["thresholds_chosen"]


def test_too_little_ham_is_said_and_nothing_is_stored_unasked(dataset, own, tmp_path):
    before = (own / "manifest.json").read_bytes()
    plot = tmp_path / "plot.png"
    said = run("models", "thresholds", dataset, "--model", own, "--plot", plot)
    assert "120 good messages are too few to show at most 0.1 %: 3,838 are needed" in said
    assert "--store keeps them" in said
    assert "█" in said
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert before == (own / "manifest.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--unsure", "0.5"], "give both or neither"),
        (["--unsure", "0.9", "--spam", "0.5"], "at most --spam"),
        (["--max-flagged-rate", "0.0001"], "at least --max-false-positive-rate"),
        (["--plot", "x.pdf"], "ending in .svg or .png"),
        (["--max-false-positive-rate", "0"], "range"),
    ],
)
def test_wrong_usage_is_named(dataset, own, arguments, expected):
    assert expected in run("models", "thresholds", dataset, "--model", own, *arguments, code=64)
