"""From a trained network to the files of a version: int8 ONNX, tokenizer, weights to go on from.

The graph is exported by the tracing exporter because onnxruntime's transformer optimizer
recognises its patterns (attention, embedding and layer norms fuse; of torch.export's graph
only the layer norms do). Weights become int8 per channel, activations uint8 at run time, with
`reduce_range`: processors without VNNI add pairs of products in 16 bits and would saturate.
"""

import json
import logging
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.optimizer import optimize_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from spamguard.errors import TrainingError
from spamguard.model.store import ENCODER_FILE, NETWORK_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from spamguard.training.network import EMBEDDING_TABLE, SpamClassifier

OPSET = 17
# What goes into it has outliers, as first layers' do (Bondarenko et al. 2021, "Understanding and
# Overcoming the Challenges of Efficient Transformer Quantization"): in float32 it takes a third of
# the int8 error away, for a few percent of the time.
_IN_FLOAT = "layer.0/output/dense/MatMul"


def export_network(network: SpamClassifier, tokenizer: Tokenizer, directory: Path) -> None:
    """Write engine file, tokenizer, encoder shape and weights of a version.

    Raises:
        TrainingError: the exported graph does not compute what the network does.
    """
    save_network(network, tokenizer, directory)
    export_engine(network, directory)


def save_network(network: SpamClassifier, tokenizer: Tokenizer, directory: Path) -> None:
    """Write tokenizer, encoder shape and weights: all that training goes on from."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(directory / TOKENIZER_FILE), pretty=False)
    network.encoder.config.save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    save_weights(network, directory / WEIGHTS_FILE)


def export_engine(network: SpamClassifier, directory: Path) -> None:
    """Write the engine's file.

    Raises:
        TrainingError: the exported graph does not compute what the network does.
    """
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.onnx"
        fused = Path(scratch) / "fused.onnx"
        _trace(network, plain)
        _check(network, plain)
        optimize_model(
            str(plain),
            model_type="bert",
            num_heads=network.encoder.config.num_attention_heads,
            hidden_size=network.encoder.config.hidden_size,
            opt_level=0,
        ).save_model_to_file(str(fused))
        exact = [node.name for node in onnx.load(fused).graph.node if _IN_FLOAT in node.name]
        # onnxruntime advises a shape inference that its own fused operators defeat.
        logging.getLogger().addFilter(lambda record: "pre-processing" not in record.getMessage())
        quantize_dynamic(
            fused,
            directory / NETWORK_FILE,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=exact,
            # The fused operators are onnxruntime's own: shape inference cannot see through.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )


class _Exported(nn.Module):
    """What the engine computes: the logit, and the pooled embedding that drift is seen by."""

    def __init__(self, network: SpamClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.logit_and_pooled(input_ids, attention_mask)


def _trace(network: SpamClassifier, path: Path) -> None:
    network.eval()
    ids = torch.full((2, 16), 5, dtype=torch.long)
    axes = {0: "batch", 1: "tokens"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is deprecated; constraints pin torch
        torch.onnx.export(
            _Exported(network).eval(),
            (ids, torch.ones_like(ids)),
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=["logit", "pooled"],
            dynamic_axes={
                "input_ids": axes,
                "attention_mask": axes,
                "logit": {0: "batch"},
                "pooled": {0: "batch"},
            },
            opset_version=OPSET,
            dynamo=False,
        )


def _check(network: SpamClassifier, path: Path) -> None:
    """Compare the traced graph with the network on another length than it was traced with."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ids = torch.arange(5, 5 + 3 * 40).reshape(3, 40) % network.encoder.config.vocab_size
    mask = torch.ones_like(ids)
    mask[0, 20:] = 0
    feeds = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    exported = session.run(None, feeds)[0]
    with torch.inference_mode():
        expected = network(ids, mask).numpy()
    if not np.allclose(exported, expected, atol=1e-3):
        raise TrainingError(f"exported graph gives {exported}, the network {expected}")


def save_weights(network: SpamClassifier, path: Path) -> None:
    """Write what retraining starts from: half precision, the embedding table as int8.

    The table is two thirds of a small model; `round_embeddings` has rounded it before training,
    so that int8 rows with one scale each lose nothing.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        if name == EMBEDDING_TABLE:
            scale = value.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / 127
            tensors[f"{name}.int8"] = torch.round(value / scale).to(torch.int8)
            tensors[f"{name}.scale"] = scale
        else:
            tensors[name] = value.half() if value.is_floating_point() else value
    save_file(
        {name: value.contiguous() for name, value in tensors.items()},
        path,
        metadata={"pooling": network.pooling},
    )


def load_network(directory: Path) -> tuple[SpamClassifier, Tokenizer]:
    """Load a version's network and tokenizer to go on training.

    Raises:
        TrainingError: the version has no weights, or they do not fit its encoder.
    """
    weights = directory / WEIGHTS_FILE
    try:
        with weights.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            pooling = json.loads(stream.read(length))["__metadata__"]["pooling"]
        config = AutoConfig.from_pretrained(str(directory / ENCODER_FILE))
        encoder = AutoModel.from_config(config, attn_implementation="eager")  # type: ignore[no-untyped-call]
        encoder.pooler = None
        network = SpamClassifier(encoder, pooling=pooling)
        tensors = load_file(weights)
        table = tensors.pop(f"{EMBEDDING_TABLE}.int8").float() * tensors.pop(
            f"{EMBEDDING_TABLE}.scale"
        )
        state = {EMBEDDING_TABLE: table, **{name: value.float() for name, value in tensors.items()}}
        network.load_state_dict(state)
        tokenizer = Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{directory}: no weights to go on from: {error}") from error
    return network, tokenizer
