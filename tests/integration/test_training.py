"""The whole training road on a tiny base: data set in, version out, judged by the daemon's code.

Needs the training packages; fails in CI without them, is skipped elsewhere.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.mail import message

if os.environ.get("CI"):
    import torch
else:
    torch = pytest.importorskip("torch", reason="pip install '.[train]' to test training")

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors  # noqa: E402
from transformers import BertConfig, BertModel  # noqa: E402

from spamguard.errors import ConfigError, DataError, TrainingError  # noqa: E402
from spamguard.model.classifier import Classifier  # noqa: E402
from spamguard.model.store import ModelStore, ModelVersion  # noqa: E402
from spamguard.training.bases import find_base  # noqa: E402
from spamguard.training.dataset import load_examples  # noqa: E402
from spamguard.training.export import load_network  # noqa: E402
from spamguard.training.loop import Settings, network_logits, train_network  # noqa: E402
from spamguard.training.network import (  # noqa: E402
    SpamClassifier,
    load_encoder,
    load_tokenizer,
    prune_vocabulary,
    small_encoder,
)
from spamguard.training.run import (  # noqa: E402
    TIERS,
    Recipe,
    class_weights,
    soft_targets,
    train_version,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

HAM_WORDS = "meeting report lunch patch agenda minutes family garden".split()
SPAM_WORDS = "viagra casino lottery winner prize cheap pills jackpot".split()
OTHER_WORDS = "the a of and please today we you this more about week".split()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A BERT of two small layers with random weights and a WordPiece vocabulary."""
    path = tmp_path_factory.mktemp("base")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *HAM_WORDS, *SPAM_WORDS, *OTHER_WORDS]
    pieces += [c for c in "abcdefghijklmnopqrstuvwxyz.,@()<>"]
    pieces += [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(path)
    return path


def write_dataset(path, *, count=240, seed=0):
    generator = np.random.default_rng(seed)
    rows = ["path\tlabel\tkind\tlang\tdate\tcorpus\tuse\tgroup\tstream"]
    path.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        is_spam = number % 3 == 0
        words = generator.choice(SPAM_WORDS if is_spam else HAM_WORDS, 3)
        filler = generator.choice(OTHER_WORDS, 12)
        text = " ".join(generator.permutation([*words, *filler])) + f" {number}"
        name = f"{number:04d}.eml"
        (path / name).write_bytes(message(text, subject=str(filler[0])))
        use = "eval" if number % 20 == 19 else "train"
        label = ("phish" if number % 2 else "spam") if is_spam else "ham"
        rows.append(f"{name}\t{label}\tk\ten\t2026\ttoy\t{use}\tgroup{number % 40}\t")
    (path / "index.tsv").write_text("\n".join(rows) + "\n")
    return path


def recipe(base, **changes):
    training = Settings(epochs=12, batch_size=16, max_tokens=48, learning_rate=5e-3)
    settings = {"base": str(base), "layers": 2, "corpus": False, "prune": False, **changes}
    return Recipe(training=settings.pop("training", training), **settings)


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    dataset = write_dataset(tmp_path_factory.mktemp("data") / "set")
    output = tmp_path_factory.mktemp("out") / "version"
    return train_version([dataset], output=output, name="tiny-1", recipe=recipe(base)), dataset


def test_a_version_separates_what_it_was_trained_to_separate(trained, tmp_path):
    version, _ = trained
    version.verify()
    classifier = Classifier(version)
    examples = load_examples(write_dataset(tmp_path / "new", count=60, seed=9), workers=0)
    scores = np.array([classifier.spam_probability(e.text) for e in examples])
    is_spam = np.array([e.is_spam for e in examples])
    assert scores[is_spam].min() > scores[~is_spam].max()
    bert = np.array([classifier.bert_logit(e.text) for e in examples])
    assert bert[is_spam].mean() > bert[~is_spam].mean() + 1


def test_int8_agrees_with_the_network_it_was_made_from(trained):
    version, dataset = trained
    network, tokenizer = load_network(version.path)
    texts = [example.text for example in load_examples(dataset, workers=0)[:40]]
    full = network_logits(network, tokenizer, texts, max_tokens=version.max_tokens)
    classifier = Classifier(version)
    rounded = np.array([classifier.bert_logit(text) for text in texts])
    assert np.corrcoef(full, rounded)[0, 1] > 0.98
    assert version.manifest["int8"]["label_flips"] <= 0.02


def test_the_manifest_says_what_was_measured_and_with_what(trained):
    version, _ = trained
    manifest = version.manifest
    assert manifest["measured"]["ham"] > 0
    assert manifest["recipe"]["layers"] == 2
    assert 0 <= manifest["thresholds"]["unsure"] <= manifest["thresholds"]["spam"] < 1


def test_training_goes_on_from_a_version_of_ours(trained, tmp_path):
    version, dataset = trained
    again = recipe(version.path, training=Settings(epochs=1, max_tokens=48))
    renewed = train_version([dataset], output=tmp_path / "renewed", name="tiny-2", recipe=again)
    assert renewed.manifest["measured"]["one_minus_roca_percent"] < 5


def test_a_student_learns_what_its_teacher_says(trained, base, tmp_path):
    version, dataset = trained
    short = Settings(epochs=12, batch_size=16, max_tokens=48, learning_rate=5e-3)
    taught = recipe(base, layers=1, teacher=str(version.path), training=short)
    student = train_version([dataset], output=tmp_path / "student", name="student", recipe=taught)
    assert student.manifest["measured"]["one_minus_roca_percent"] < 5
    targets = soft_targets(np.array([0, 1], np.float32), np.array([9.0, -9.0]), 0.5)
    assert targets == pytest.approx([0.5, 0.5], abs=1e-3)
    assert targets[0] < 0.5 < targets[1]  # the labels stand, whatever the teacher says
    with pytest.raises(TrainingError, match="teacher_share"):
        soft_targets(targets, np.zeros(2), 0.6)


def test_evaluate_prints_figures_as_table_and_json(trained):
    version, dataset = trained
    command = [sys.executable, "-m", "spamguard", "-c", os.devnull, "evaluate"]
    command += [str(dataset), "--model", str(version.path)]
    table = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "1-ROCA" in table.stdout
    found = subprocess.run([*command, "--json"], capture_output=True, timeout=120, check=True)
    everything = json.loads(found.stdout)["slices"]["all"]
    assert everything["ham"] == 160
    assert everything["spam"] == 80
    assert everything["one_minus_roca_percent"] < 5


def test_thresholds_are_shown_with_what_they_would_do_and_stored(trained, tmp_path):
    import shutil

    version, dataset = trained
    copy = shutil.copytree(version.path, tmp_path / "copy")
    command = [sys.executable, "-m", "spamguard", "-c", os.devnull, "models", "thresholds"]
    command += [str(dataset), "--model", str(copy), "--unsure", "0.6", "--spam", "0.9", "--store"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "0.9900" in shown.stdout
    assert "worst source" in shown.stdout
    stored = ModelVersion.read(copy)
    stored.verify()
    assert (stored.thresholds.unsure, stored.thresholds.spam) == (0.6, 0.9)


def test_a_killed_run_goes_on_at_its_checkpoint_to_the_same_weights(base, tmp_path, monkeypatch):
    monkeypatch.setattr("spamguard.training.loop.CHECKPOINT_SECONDS", 0.0)
    texts = [f"viagra {n}" if n % 2 else f"meeting {n}" for n in range(64)]
    targets = np.array([n % 2 for n in range(64)], dtype=np.float32)
    weights = np.ones(64, dtype=np.float32)
    settings = Settings(epochs=10, batch_size=8, max_tokens=16, learning_rate=1e-3)

    def run(checkpoint, *, stop_at=None):
        torch.manual_seed(1)
        encoder = small_encoder(load_encoder(base), 1)
        network = SpamClassifier(encoder, dropout=0.0)
        encoder.config.hidden_dropout_prob = 0.0
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        steps = train_network(
            network, load_tokenizer(base), texts, targets, weights,
            settings=settings, checkpoint=checkpoint,
        )  # fmt: skip
        for progress in steps:
            if stop_at and progress.step >= stop_at:
                return network
        return network

    whole = run(tmp_path / "a.safetensors")
    run(tmp_path / "b.safetensors", stop_at=40)
    assert (tmp_path / "b.safetensors").exists()
    resumed = run(tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()
    for (name, a), (_, b) in zip(
        whole.state_dict().items(), resumed.state_dict().items(), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-4), name


def test_pruning_keeps_the_tokens_of_the_texts_it_was_given(base, monkeypatch):
    encoder, tokenizer = load_encoder(base), load_tokenizer(base)
    before = tokenizer.encode("casino garden").tokens
    table = encoder.get_input_embeddings().weight.detach().clone()
    ids = tokenizer.encode("casino garden").ids
    monkeypatch.setattr("spamguard.training.network.ALWAYS_KEPT_PIECES", 4)
    pruned = prune_vocabulary(encoder, tokenizer, ["casino garden"] * 10)
    assert pruned.encode("casino garden").tokens == before
    assert pruned.get_vocab_size() < tokenizer.get_vocab_size()
    new_table = encoder.get_input_embeddings().weight
    for old, new in zip(ids, pruned.encode("casino garden").ids, strict=True):
        assert torch.equal(table[old], new_table[new])


def test_a_vocabulary_that_is_too_large_loses_its_rarest_pieces(base, monkeypatch):
    monkeypatch.setattr("spamguard.training.network.ALWAYS_KEPT_PIECES", 4)
    texts = ["casino garden casino"] * 10
    sizes, kept = [], []
    for most in (1_000, 0):
        monkeypatch.setattr("spamguard.training.network.MOST_PIECES", most)
        pruned = prune_vocabulary(load_encoder(base), load_tokenizer(base), texts)
        sizes.append(pruned.get_vocab_size())
        kept.append(pruned.get_vocab())
    assert sizes[1] < sizes[0]
    monkeypatch.setattr("spamguard.training.network.MOST_PIECES", sizes[0] - 1)
    pruned = prune_vocabulary(load_encoder(base), load_tokenizer(base), texts)
    lost = kept[0].keys() - pruned.get_vocab().keys()
    assert pruned.get_vocab_size() == sizes[0] - 1
    assert not any(piece in load_tokenizer(base).encode("casino").tokens for piece in lost)


@pytest.mark.parametrize("pooling", ["cls", "mean", "attention"])
def test_padding_does_not_change_a_logit(base, pooling):
    network = SpamClassifier(load_encoder(base), pooling=pooling).eval()
    ids = torch.tensor([[2, 5, 9, 3]])
    alone = network(ids, torch.ones_like(ids))
    padded = network(torch.tensor([[2, 5, 9, 3, 0, 0, 0]]), torch.tensor([[1, 1, 1, 1, 0, 0, 0]]))
    assert torch.allclose(alone, padded, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "expected"), [("none", 1.0), ("inverse", 4.0), ("effective", 3.9)]
)
def test_class_weights_balance_as_the_recipe_says(kind, expected):
    is_spam = np.array([True] * 20 + [False] * 80)
    weights = class_weights(is_spam, Recipe(class_weights=kind))
    assert weights.mean() == pytest.approx(1.0, rel=1e-5)
    assert weights[0] / weights[-1] == pytest.approx(expected, rel=0.03)


def test_class_weights_are_capped():
    weights = class_weights(np.array([True] + [False] * 999), Recipe(max_class_weight=5.0))
    assert weights[0] / weights[-1] == pytest.approx(5.0)


def test_the_shipped_version_can_be_trained_on():
    network, tokenizer = load_network(Path(find_base("default")))
    version = ModelStore(Path("/nonexistent")).get("default")
    texts = [
        "Re: minutes\nHi Ann, thanks, I have nothing to add. See you on Tuesday.",
        "You won\nClaim your lottery prize now.",
    ]
    full = network_logits(network, tokenizer, texts, max_tokens=version.max_tokens)
    rounded = [Classifier(version).bert_logit(text) for text in texts]
    assert full[0] < 0 < full[1]
    assert np.allclose(full, rounded, atol=1.0)  # int8, and texts of ten tokens


def test_bad_input_is_named(base, tmp_path):
    with pytest.raises(DataError, match=r"index\.tsv"):
        load_examples(tmp_path, workers=0)
    (tmp_path / "index.tsv").write_text("path\tlabel\na.eml\tmaybe\n")
    with pytest.raises(DataError, match=r"index\.tsv:2: label 'maybe': expected one of ham"):
        load_examples(tmp_path, workers=0)
    with pytest.raises(TrainingError, match="base model"):
        load_encoder(tmp_path)
    bad = tmp_path / "recipe.toml"
    bad.write_text("layer = 3\n")
    with pytest.raises(ConfigError, match="no such setting: layer"):
        Recipe.read(bad)


def test_a_recipe_keeps_what_the_command_line_leaves_unsaid(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text('base = "minilm"\n[training]\nepochs = 1.0\n')
    recipe = Recipe.read(file, **TIERS["accurate"])
    assert (recipe.base, recipe.layers, recipe.window) == ("minilm", 6, 128)
    assert (recipe.training.epochs, recipe.training.batch_size) == (1.0, 32)
    assert Recipe.read(file, **TIERS["default"]).layers == Recipe().layers
