"""The training loop, written out: batches by length, warm-up and decay, checkpoints.

`train_network` is a generator of `Progress`, so that a caller shows it as it likes and tests
can stop anywhere. Seeded: data order, augmentation and dropout depend on nothing else, and a
run that was killed goes on at its last checkpoint. CPU and accelerator run the same code; in
bfloat16 where the processor has it (twice as fast on AMX), else in float32.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from spamguard.training.augment import augment
from spamguard.training.network import SpamClassifier

CHARS_PER_TOKEN = 8  # text is cut to this many characters a token before tokenising
# Batches are padded to a multiple of so many tokens: oneDNN keeps code and buffers for every
# shape it has met, which over a hundred widths is a gigabyte.
WIDTHS = 32
BUCKET_BATCHES = 40  # batches sorted by length together; more leaves less padding, less chance
CHECKPOINT_SECONDS = 180.0
_FOCAL_GAMMA = 2.0  # Lin et al. 2017, "Focal Loss for Dense Object Detection"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a run does. The defaults are the shipped model's; CARD.md says why.

    Attributes:
        epochs: passes over the training examples.
        batch_size: messages a step.
        max_tokens: of each message; longer ones are cut.
        learning_rate: of the top layer and the head.
        layer_decay: each layer below learns this much slower.
        warm_up: share of the steps with rising learning rate; then linear decay to 0.
        weight_decay: AdamW's.
        clip: largest gradient norm.
        freeze_embeddings: leave the token embeddings as the base has them.
        freeze_layers: so many lower layers learn nothing.
        loss: weighted binary cross entropy, or focal loss.
        seed: of everything drawn.
        augmentation: share of the messages that are disguised or stripped of their notes.
    """

    epochs: float = 2.0
    batch_size: int = 32
    max_tokens: int = 128
    learning_rate: float = 2e-4
    layer_decay: float = 0.9
    warm_up: float = 0.06
    weight_decay: float = 0.01
    clip: float = 1.0
    freeze_embeddings: bool = True
    freeze_layers: int = 0
    loss: Literal["cross-entropy", "focal"] = "cross-entropy"
    seed: int = 1
    augmentation: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One look at a run: after ``step`` of ``steps``."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    messages_per_second: float
    seconds_left: float


def pick_device() -> torch.device:
    """Return the accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is computed by hardware there, so that it is faster and not slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # There is no public name for it.
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001


def cut(text: str, max_tokens: int) -> str:
    """Cut text to what the window can hold at most, before it is tokenised."""
    return text[: max_tokens * CHARS_PER_TOKEN]


def train_network(
    network: SpamClassifier,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    targets: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    *,
    settings: Settings,
    checkpoint: Path | None = None,
) -> Iterator[Progress]:
    """Fine-tune ``network`` in place.

    Args:
        network: on the CPU; it is moved to the accelerator and back if there is one.
        tokenizer: of the base; padding and truncation are set here.
        texts: model inputs.
        targets: 1 for spam, 0 for ham, or a teacher's probabilities; shape (messages,).
        weights: of each message's loss; this is where imbalance is corrected.
        settings: see `Settings`.
        checkpoint: a file to write every few minutes and to resume from.

    Yields:
        Progress about once a second's worth of steps.
    """
    torch.manual_seed(settings.seed)
    device = pick_device()
    network.to(device).train()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))
    steps_per_epoch = math.ceil(len(texts) / settings.batch_size)
    steps = max(1, round(settings.epochs * steps_per_epoch))
    optimizer = torch.optim.AdamW(_parameter_groups(network, settings))
    step = _resume(checkpoint, network, optimizer, settings)
    all_targets, all_weights = torch.from_numpy(targets), torch.from_numpy(weights)
    losses: list[float] = []
    started = saved = time.monotonic()
    done_before = step

    while step < steps:
        epoch, position = divmod(step, steps_per_epoch)
        batches = _epoch(tokenizer, texts, targets, epoch=epoch, settings=settings)
        for rows, ids, mask in batches[position:]:
            with autocast:
                logits = network(ids.to(device), mask.to(device)).float()
            loss = _loss(logits, all_targets[rows].to(device), settings)
            loss = (loss * all_weights[rows].to(device)).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
            factor = warm_up_and_decay(step, steps, settings.warm_up)
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses = [*losses[-49:], loss.item()]
            step += 1
            seconds = time.monotonic() - started
            if step % 10 == 0 or step == steps:
                rate = (step - done_before) / seconds
                yield Progress(
                    step=step,
                    steps=steps,
                    loss=float(np.mean(losses)),
                    learning_rate=float(optimizer.param_groups[-1]["lr"]),
                    messages_per_second=rate * settings.batch_size,
                    seconds_left=(steps - step) / rate,
                )
            if checkpoint and time.monotonic() - saved > CHECKPOINT_SECONDS:
                _save(checkpoint, network, optimizer, step, settings)
                saved = time.monotonic()
            if step >= steps:
                break
    network.to("cpu").eval()
    if checkpoint:
        checkpoint.unlink(missing_ok=True)


def network_logits(
    network: SpamClassifier,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    max_tokens: int,
    exact: bool = True,
) -> npt.NDArray[np.float64]:
    """Return the network's logits, shape (messages,), in the order of ``texts``.

    ``exact`` computes in float32 on a CPU; else in bfloat16 where that is faster.
    """
    device = pick_device()
    is_short = device.type == "cuda" or (not exact and has_bfloat16(device))
    network.to(device).eval()
    logits = np.zeros(len(texts))
    with torch.inference_mode():
        for rows, ids, mask in _batches(tokenizer, texts, batch_size=64, max_tokens=max_tokens):
            with torch.autocast(device.type, torch.bfloat16, enabled=is_short):
                out = network(ids.to(device), mask.to(device))
            logits[rows.numpy()] = out.float().cpu().numpy()
    network.to("cpu")
    return logits


def _parameter_groups(network: SpamClassifier, settings: Settings) -> list[dict[str, object]]:
    """Split the parameters by layer, each layer below the top learning slower."""
    layers = int(network.encoder.config.num_hidden_layers)
    groups: list[dict[str, object]] = []
    for name, parameter in network.named_parameters():
        depth = layers  # the head
        if name.startswith("encoder.embeddings."):
            depth = -1
        elif name.startswith("encoder.encoder.layer."):
            depth = int(name.split(".")[3])
        is_frozen = (
            depth < 0 and settings.freeze_embeddings
        ) or 0 <= depth < settings.freeze_layers
        parameter.requires_grad = not is_frozen
        if is_frozen:
            continue
        rate = settings.learning_rate * settings.layer_decay ** (layers - depth)
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        groups.append({"params": [parameter], "peak_lr": rate, "weight_decay": decay})
    return groups


def warm_up_and_decay(step: int, steps: int, warm_up: float) -> float:
    """Return the learning rate's factor: linear from 0 to 1, then linear to 0."""
    warm = max(1, round(steps * warm_up))
    if step < warm:
        return (step + 1) / warm
    return (steps - step) / max(1, steps - warm)


def _loss(logits: Tensor, targets: Tensor, settings: Settings) -> Tensor:
    """Return each message's loss, shape (batch,)."""
    loss = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if settings.loss == "focal":
        probability = torch.sigmoid(logits)
        miss = targets * (1 - probability) + (1 - targets) * probability
        loss = loss * miss.detach() ** _FOCAL_GAMMA
    return loss


_Batch = tuple[Tensor, Tensor, Tensor]  # rows (n,), ids (n, tokens), mask (n, tokens)


def _epoch(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    targets: npt.NDArray[np.float32],
    *,
    epoch: int,
    settings: Settings,
) -> list[_Batch]:
    """Return the batches of one epoch: augmented, alike in length, in drawn order."""
    generator = np.random.default_rng([settings.seed, epoch])
    order = generator.permutation(len(texts))
    honest = [text for text, target in zip(texts, targets, strict=True) if target < 0.5]
    drawn = [
        augment(texts[row], targets[row] > 0.5, settings.augmentation, generator, honest)
        for row in order
    ]
    batches = list(
        _batches(tokenizer, drawn, batch_size=settings.batch_size, max_tokens=settings.max_tokens)
    )
    return [
        (torch.from_numpy(order)[batches[i][0]], batches[i][1], batches[i][2])
        for i in generator.permutation(len(batches))
    ]


def _batches(
    tokenizer: Tokenizer, texts: Sequence[str], *, batch_size: int, max_tokens: int
) -> Iterator[_Batch]:
    """Tokenise and batch, alike lengths together within each bucket."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    bucket = batch_size * BUCKET_BATCHES
    for start in range(0, len(texts), bucket):
        encodings = tokenizer.encode_batch_fast(
            [cut(text, max_tokens) for text in texts[start : start + bucket]]
        )
        by_length = sorted(range(len(encodings)), key=lambda i: len(encodings[i].ids))
        for first in range(0, len(by_length), batch_size):
            members = by_length[first : first + batch_size]
            longest = max(len(encodings[i].ids) for i in members)
            width = min(max_tokens, math.ceil(longest / WIDTHS) * WIDTHS)
            ids = torch.zeros((len(members), width), dtype=torch.long)
            mask = torch.zeros((len(members), width), dtype=torch.long)
            for row, i in enumerate(members):
                count = len(encodings[i].ids)
                ids[row, :count] = torch.tensor(encodings[i].ids)
                mask[row, :count] = 1
            yield torch.tensor(members) + start, ids, mask


# -- checkpoints -----------------------------------------------------------------------------


def _save(
    path: Path,
    network: SpamClassifier,
    optimizer: torch.optim.Optimizer,
    step: int,
    settings: Settings,
) -> None:
    """Write weights and AdamW's moments as safetensors (never a pickle), atomically."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value).clone()
    tensors = {name: value.contiguous().cpu() for name, value in tensors.items()}
    part = path.with_suffix(".part")
    header = {"step": str(step), "settings": json.dumps(asdict(settings))}
    save_file(tensors, part, metadata=header)
    part.replace(path)


def _resume(
    path: Path | None,
    network: SpamClassifier,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
) -> int:
    """Load a checkpoint of the same settings; return the step to go on from."""
    if path is None or not path.exists():
        return 0
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))["__metadata__"]
    if json.loads(header["settings"]) != asdict(settings):
        return 0  # another run's: begin anew
    tensors = load_file(path)
    network.load_state_dict(
        {n.removeprefix("network."): v for n, v in tensors.items() if n.startswith("network.")}
    )
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    whole = optimizer.state_dict()
    whole["state"] = state
    optimizer.load_state_dict(whole)
    return int(header["step"])
