"""Versions on disk: intact or refused, promoted whole or not at all; the linear model."""

import json

import numpy as np
import pytest

from spamguard.errors import ModelCorruptError, ModelLoadError
from spamguard.model.calibration import Calibration, fit_calibration
from spamguard.model.classifier import Classifier
from spamguard.model.linear import (
    EXCERPT_CHARS,
    HEAD_SHARE,
    LinearModel,
    excerpts,
    features,
    fit_linear,
    ngrams,
)
from spamguard.model.store import MANIFEST, SHIPPED, ModelStore, ModelVersion
from spamguard.verdict import Thresholds
from tests.support.toy_model import write_toy_model


def test_a_version_is_found_by_name_path_and_as_the_current_one(tmp_path):
    store = ModelStore(tmp_path)
    path = write_toy_model(tmp_path / "toy-1")
    store.promote("toy-1")
    assert store.get("toy-1").path == store.get(str(path)).path == store.get("").path == path
    assert (tmp_path / "current").read_text() == "toy-1\n"


def test_without_a_current_file_the_shipped_version_serves(tmp_path):
    version = ModelStore(tmp_path / "nothing").current()
    assert version.path == SHIPPED
    version.verify()


def test_the_shipped_version_judges_plain_cases_rightly():
    classifier = Classifier(ModelVersion.read(SHIPPED))
    spam = "You have won\nLottery\nSend your bank details to claim your prize of 1,000,000 dollars"
    ham = "Re: minutes of Tuesday\nAnn (example.org)\nThanks, I corrected the second paragraph."
    assert classifier.spam_probability(spam) > 0.9
    assert classifier.spam_probability(ham) < 0.1


def test_a_changed_file_is_corrupt_and_a_missing_one_is_named(tmp_path):
    version = ModelVersion.read(write_toy_model(tmp_path / "toy"))
    version.verify()
    (version.path / "calibration.json").write_text("{}")
    with pytest.raises(ModelCorruptError, match=r"calibration\.json: SHA-256 [0-9a-f]{16}…"):
        version.verify()
    (version.path / "calibration.json").unlink()
    with pytest.raises(ModelLoadError, match=r"calibration\.json: No such file"):
        version.verify()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 99}, "format 99, of another release: expected 2"),
        ({"version": "../evil"}, "not a plain name"),
        ({"thresholds": {"unsure": 0.9, "spam": 0.1}}, "expected a model manifest"),
        ({"max_tokens": None}, "expected a model manifest"),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(tmp_path, change, words):
    path = write_toy_model(tmp_path / "toy")
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps({**manifest, **change}))
    with pytest.raises(ModelLoadError, match=words):
        ModelVersion.read(path)


def test_the_shipped_version_judges_where_the_current_one_is_of_another_release(tmp_path, caplog):
    store = ModelStore(tmp_path)
    path = write_toy_model(tmp_path / "toy-1")
    store.promote("toy-1")
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps({**manifest, "format": 1}))
    assert store.current() == ModelVersion.read(SHIPPED)
    assert "format 1, of another release" in caplog.records[0].error
    with pytest.raises(ModelLoadError, match="format 1"):
        store.get("toy-1")


def test_promoting_what_is_corrupt_leaves_the_current_version(tmp_path):
    store = ModelStore(tmp_path)
    write_toy_model(tmp_path / "toy-1")
    store.promote("toy-1")
    bad = write_toy_model(tmp_path / "toy-2", name="toy-2")
    (bad / "linear.safetensors").write_bytes(b"x")
    with pytest.raises(ModelCorruptError):
        store.promote("toy-2")
    assert store.current().name == "toy-1"


def test_promoting_replaces_the_current_file_whole(tmp_path):
    store = ModelStore(tmp_path)
    for name in ("toy-1", "toy-2"):
        write_toy_model(tmp_path / name, name=name)
    store.promote("toy-1")
    with store.current_file.open() as before:
        store.promote("toy-2")
        assert before.read() == "toy-1\n"  # another file: a reader never sees half a name
    assert store.current().name == "toy-2"
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["current", "history.jsonl", "toy-1", "toy-2"]


def test_rolling_back_twice_goes_further_back_and_not_to_and_fro(tmp_path):
    store = ModelStore(tmp_path)
    for name in ("one", "two", "three"):
        write_toy_model(tmp_path / name, name=name)
        store.promote(name)
    assert [store.roll_back(by="me", reason="worse") for _ in range(2)] == ["two", "one"]
    assert store.roll_back(by="me", reason="worse") == ModelStore(tmp_path / "none").current().name


def test_a_broken_current_version_can_be_left(tmp_path):
    store = ModelStore(tmp_path)
    write_toy_model(tmp_path / "good", name="good")
    store.current_file.write_text("gone\n")
    store.promote("good")
    assert store.current().name == "good"


def test_pruning_keeps_the_current_version_and_the_one_before(tmp_path):
    store = ModelStore(tmp_path)
    for number in range(6):
        write_toy_model(tmp_path / f"v{number}", name=f"v{number}")
    store.promote("v0")
    store.promote("v1")
    assert store.prune(keep=2) == ["v2", "v3"]
    assert store.current().name == "v1"
    assert store.prune(keep=1) == ["v4"]


@pytest.mark.parametrize("left", [0, 5])
def test_a_file_cut_short_is_corrupt(tmp_path, left):
    version = ModelVersion.read(write_toy_model(tmp_path / "toy"))
    weights = version.path / "linear.safetensors"
    weights.write_bytes(weights.read_bytes()[:left])
    with pytest.raises(ModelCorruptError, match=r"linear\.safetensors"):
        version.verify()


def test_unreadable_versions_are_not_listed_and_do_not_hide_the_others(tmp_path):
    write_toy_model(tmp_path / "toy-1")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / MANIFEST).write_text("{")
    assert "toy-1" in [version.name for version in ModelStore(tmp_path).versions()]


@pytest.mark.parametrize("content", [b"", b"not weights", b"\xff" * 100])
def test_broken_linear_weights_are_named(tmp_path, content):
    (tmp_path / "l.safetensors").write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"l\.safetensors: expected linear weights"):
        LinearModel.load(tmp_path / "l.safetensors")


def test_missing_linear_weights_are_named(tmp_path):
    with pytest.raises(ModelLoadError, match=r"l\.safetensors: expected linear weights"):
        LinearModel.load(tmp_path / "l.safetensors")


def test_new_thresholds_are_stored_without_touching_the_rest(tmp_path):
    store = ModelStore(tmp_path)
    version = ModelVersion.read(write_toy_model(tmp_path / "toy-1"))
    store.set_thresholds(version, Thresholds(unsure=0.2, spam=0.7), chosen={"ham": 9})
    changed = store.get("toy-1")
    changed.verify()
    assert changed.thresholds == Thresholds(unsure=0.2, spam=0.7)
    assert changed.manifest["files"] == version.manifest["files"]


def test_names_in_the_current_file_cannot_lead_elsewhere(tmp_path):
    (tmp_path / "current").write_text("..\n")
    with pytest.raises(ModelLoadError, match="not a version's name"):
        ModelStore(tmp_path).current()


def test_the_linear_model_learns_and_survives_saving(tmp_path):
    texts = [
        f"subject {n}\ncasino prize" if n % 2 else f"subject {n}\nmeeting notes" for n in range(80)
    ]
    truth = [bool(n % 2) for n in range(80)]
    *_, model = fit_linear([features(t) for t in texts], truth, [1.0] * 80, epochs=3)
    assert model.logit("hello\ncasino prize") > 1 > -1 > model.logit("hello\nmeeting notes")
    model.save(tmp_path / "l.safetensors")
    loaded = LinearModel.load(tmp_path / "l.safetensors")
    assert loaded.logit(texts[0]) == pytest.approx(model.logit(texts[0]), abs=1e-2)


def test_a_page_of_honest_text_does_not_drown_the_head():
    spam, ham = "casino prize\n(prizes.example)", "meeting notes\n(office.example)"
    page = "\n".join(f"we met about chapter {n} of the plan and agreed" for n in range(60))
    texts = [spam, f"{spam}\nclaim it", ham, f"{ham}\n{page}"] * 20
    truth = [True, True, False, False] * 20
    *_, model = fit_linear([features(t) for t in texts], truth, [1.0] * 80, epochs=5)
    assert model.logit(f"{spam}\n{page}") > model.logit(f"{ham}\n{page}") + 1
    whole, head = (features(t).values for t in (page, spam))
    assert (whole**2).sum() == pytest.approx(1 + HEAD_SHARE**2)
    assert (head**2).sum() == pytest.approx(1 + HEAD_SHARE**2)


def test_beginning_and_end_of_a_long_text_are_excerpts_behind_its_head():
    head = "offer\nAnn (a.example)\nlinks to b.example"
    begin, end = "b" * EXCERPT_CHARS, "e" * EXCERPT_CHARS
    assert excerpts(f"{head}\n{begin}{'x' * 5000}{end}") == (f"{head}\n{begin}", f"{head}\n{end}")
    assert excerpts(f"{head}\n{begin}") == excerpts(head) == excerpts("") == ()


def test_scripts_without_blanks_have_features_too():
    assert ngrams("件名\n当選おめでとうございます").size > 10
    assert features("").indices.size == 0


def test_accents_change_no_feature():
    assert (ngrams("Révìsäo dé contá") == ngrams("revisao de conta")).all()
    assert (ngrams("re\N{COMBINING ACUTE ACCENT}vision") == ngrams("revision")).all()
    assert ngrams("й Ё ά ö 당첨").size == ngrams("и Е α o 당첨").size > 0


def test_a_calibrated_score_is_a_probability_at_its_prior():
    generator = np.random.default_rng(0)
    is_spam = generator.random(20_000) < 0.2
    logits = np.column_stack([generator.normal(np.where(is_spam, 2, -2), 2), np.zeros(20_000)])
    fitted = fit_calibration(logits, is_spam, prior=0.2)
    scores = fitted.probabilities(logits[:, 0], logits[:, 1])
    for low in (0.1, 0.3, 0.5, 0.7):
        members = (scores >= low) & (scores < low + 0.2)
        assert scores[members].mean() == pytest.approx(is_spam[members].mean(), abs=0.05)


def test_separated_classes_do_not_break_the_fit():
    logits = np.array([[-5.0, -1.0]] * 50 + [[5.0, 1.0]] * 50)
    fitted = fit_calibration(logits, np.arange(100) >= 50)
    assert np.isfinite([fitted.bert, fitted.linear, fitted.bias]).all()
    assert fitted.probability(5, 1) > 0.95


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"bert": 1}'])
def test_a_broken_calibration_is_named(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ModelLoadError, match=r"c\.json: expected a calibration"):
        Calibration.load(tmp_path / "c.json")
