"""The network: a pretrained BERT encoder, a pooling, one logit. And how a base is made small.

A base is any directory that transformers loads (config.json, model.safetensors) with a
`tokenizer.json`; WordPiece and SentencePiece-unigram vocabularies both work. `small_encoder`
keeps the lower layers, `prune_vocabulary` keeps the pieces that mail uses.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Regex, Tokenizer, models, normalizers
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from spamguard.errors import TrainingError

Pooling = Literal["cls", "mean", "attention"]
MIN_PIECE_COUNT = 6  # of 50,000 messages: rarer pieces are names and typos, spelled by others
MOST_PIECES = 54_600  # a piece is 0.8 kB in the files of a version, which stay below 70 MB
EMBEDDING_TABLE = "encoder.embeddings.word_embeddings.weight"
ALWAYS_KEPT_PIECES = 8_000  # the vocabulary's own order is by frequency: its head always stays


class SpamClassifier(nn.Module):
    """Encoder, pooling, dropout, one linear unit.

    Args:
        encoder: any transformers encoder that returns `last_hidden_state`.
        pooling: the first token's state, the mean over the tokens, or their mean weighted by
            a learned attention (Lin et al. 2017, "A Structured Self-attentive Sentence
            Embedding", with one hop).
        dropout: before the linear unit.
    """

    def __init__(
        self, encoder: PreTrainedModel, *, pooling: Pooling = "mean", dropout: float = 0.1
    ) -> None:
        super().__init__()
        hidden = encoder.config.hidden_size
        self.encoder = encoder
        self.pooling = pooling
        self.attention = nn.Linear(hidden, 1) if pooling == "attention" else None
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, 1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits, shape (batch,), for token ids and mask, both (batch, tokens)."""
        return self.logit_and_pooled(input_ids, attention_mask)[0]

    def logit_and_pooled(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits, shape (batch,), and pooled embeddings, shape (batch, hidden)."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        pooled = self._pool(states.last_hidden_state, attention_mask)
        logits: Tensor = self.head(self.dropout(pooled))[:, 0]
        return logits, pooled

    def _pool(self, states: Tensor, mask: Tensor) -> Tensor:
        if self.pooling == "cls":
            return states[:, 0]
        weights = mask.unsqueeze(-1).to(states.dtype)
        if self.attention is not None:
            scores = self.attention(states).masked_fill(weights == 0, -1e4)
            weights = torch.softmax(scores, dim=1)
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-6)


def load_encoder(base: Path | str) -> PreTrainedModel:
    """Load a pretrained encoder without its pooler; attention as plain matrix products.

    Raises:
        TrainingError: it is not there or transformers cannot read it.
    """
    try:
        encoder = AutoModel.from_pretrained(str(base), attn_implementation="eager")
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(f"base model {base}: {error}") from error
    if hasattr(encoder, "pooler"):
        encoder.pooler = None
    return encoder  # type: ignore[no-any-return]


def load_tokenizer(base: Path | str) -> Tokenizer:
    """Load a base's `tokenizer.json`, from a directory or by its hub name.

    Raises:
        TrainingError: there is none, or it cannot be read.
    """
    path = Path(base) / "tokenizer.json"
    try:
        if path.exists():
            tokenizer = Tokenizer.from_file(str(path))
        else:
            tokenizer = Tokenizer.from_pretrained(str(base))
    except Exception as error:  # tokenizers raises bare Exception
        raise TrainingError(f"{path}: expected a tokenizer.json of the base: {error}") from error
    if isinstance(tokenizer.model, models.Unigram):
        # SentencePiece knows blanks alone: a line's end would be an unknown token, and the word
        # after it a piece from the inside of words.
        blank = normalizers.Replace(Regex(r"\s+"), " ")
        steps = [tokenizer.normalizer, blank] if tokenizer.normalizer else [blank]
        tokenizer.normalizer = normalizers.Sequence(steps)
    return tokenizer


def small_encoder(encoder: PreTrainedModel, layers: int) -> PreTrainedModel:
    """Keep the lower ``layers`` layers of an encoder (0 keeps all), in place.

    Lower layers carry form and wording, which is what tells spam; the upper ones of a sentence
    encoder are specialised on its own objective.
    """
    stack = getattr(getattr(encoder, "encoder", None), "layer", None)
    if not isinstance(stack, nn.ModuleList):
        raise TrainingError(f"{type(encoder).__name__}: expected a BERT-like encoder.layer list")
    if layers > len(stack):
        raise TrainingError(f"the base has {len(stack)} layers, {layers} were asked for")
    if layers:
        del stack[layers:]
        encoder.config.num_hidden_layers = layers
    return encoder


def prune_vocabulary(
    encoder: PreTrainedModel, tokenizer: Tokenizer, texts: Iterable[str]
) -> Tokenizer:
    """Keep the pieces that mail uses, in tokenizer and embedding table; return the tokenizer.

    Pieces that go are spelled by those that stay: single characters are kept when they were
    seen at all, or are common (the vocabulary's order is by frequency).
    """
    used: Counter[int] = Counter()
    for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
        used.update(encoding.ids)
    spec = json.loads(tokenizer.to_str())
    vocabulary = spec["model"]["vocab"]
    is_unigram = spec["model"]["type"] == "Unigram"
    pieces: list[str] = (
        [piece for piece, _ in vocabulary]
        if is_unigram
        else sorted(vocabulary, key=vocabulary.__getitem__)
    )
    special = {token["content"] for token in spec["added_tokens"]}
    special |= {"<s>", "<pad>", "</s>", "<unk>", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    needed = {
        index
        for index, piece in enumerate(pieces)
        if index < ALWAYS_KEPT_PIECES
        or piece in special
        or (used[index] and len(piece.lstrip("▁").removeprefix("##")) <= 1)
    }
    frequent = [
        index
        for index, count in used.most_common()
        if count >= MIN_PIECE_COUNT and index not in needed
    ]
    kept = sorted([*needed, *frequent[: max(0, MOST_PIECES - len(needed))]])
    new_index = {old: new for new, old in enumerate(kept)}
    if is_unigram:
        spec["model"]["vocab"] = [vocabulary[index] for index in kept]
        spec["model"]["unk_id"] = new_index[spec["model"]["unk_id"]]
    else:
        spec["model"]["vocab"] = {pieces[index]: new for index, new in new_index.items()}
    for token in spec["added_tokens"]:
        token["id"] = new_index[token["id"]]
    for token in (spec.get("post_processor") or {}).get("special_tokens", {}).values():
        token["ids"] = [new_index[index] for index in token["ids"]]
    spec["padding"] = spec["truncation"] = None
    table = _embedding_table(encoder)[torch.tensor(kept)]
    encoder.set_input_embeddings(
        nn.Embedding(table.shape[0], table.shape[1], _weight=table.clone())
    )
    encoder.config.vocab_size = len(kept)
    encoder.config.pad_token_id = new_index.get(encoder.config.pad_token_id or 0, 0)
    return Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))


def average_weights(network: SpamClassifier, other: SpamClassifier, share: float) -> None:
    """Move the weights towards another network's by ``share``, in place.

    Two networks fine-tuned from one base on different data lie in one valley, and a point between
    them generalises better than both (Wortsman et al. 2022, "Model soups"), at the cost of one.
    Token embeddings stay: they are the base's, and vocabularies may differ.

    Raises:
        TrainingError: the other has other layers or another pooling.
    """
    others = other.state_dict()
    own = network.state_dict()
    shapes = [{n: v.shape for n, v in s.items() if n != EMBEDDING_TABLE} for s in (own, others)]
    if shapes[0] != shapes[1] or network.pooling != other.pooling:
        raise TrainingError("weights can only be averaged with those of a network of one shape")
    for name, value in own.items():
        if name != EMBEDDING_TABLE and value.dtype.is_floating_point:
            own[name] = torch.lerp(value, others[name], share)
    network.load_state_dict(own)


def round_embeddings(encoder: PreTrainedModel) -> None:
    """Round the embedding table to int8 with one scale a row, in place.

    The table is frozen in training and shipped as int8: rounding it before means that training
    sees what will run.
    """
    table = _embedding_table(encoder)
    scale = table.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / 127
    table.copy_(torch.round(table / scale) * scale)


def _embedding_table(encoder: PreTrainedModel) -> Tensor:
    """Return the token embeddings' values, shape (vocabulary, hidden)."""
    embedding = encoder.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    return embedding.weight.data


def parameter_count(config: PretrainedConfig) -> str:
    """Say a model's size in words for tables, e.g. ``4 layers, hidden 384, 41,230 pieces``."""
    return (
        f"{config.num_hidden_layers} layers, hidden {config.hidden_size}, "
        f"{config.vocab_size:,} pieces"
    )
