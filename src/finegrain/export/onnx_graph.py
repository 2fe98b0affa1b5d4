"""Write a trained network as an ONNX graph, and check that both give the same results.

The input is RGB in uint8, as decoders give it: mean, standard deviation and temperature are part of the
graph.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from finegrain.augmentation import crop, sampling, transform
from finegrain.core import file_io
from finegrain.core.errors import UserError
from finegrain.models import inference, outputs
from finegrain.models.outputs import Floats
from finegrain.runtime import devices

OPSET = 18
"""What torch's exporter writes without a conversion, and what runtimes support since 2023."""
LOGIT_TOLERANCE = 1e-4
"""Largest allowed difference of a logit, as a fraction of the largest absolute logit; measured: 1e-5.

It bounds the most probable class too: that can differ only between two classes as close as this.
"""
PROBABILITY_TOLERANCE = 1e-4

CPU = devices.select_device("cpu")

_REPORT = "nothing was exported; please report it with the versions of torch, onnx and onnxscript"


@dataclass(frozen=True)
class Agreement:
    """How closely a graph and its network agree on the same images."""

    images: int
    max_difference: float
    """Largest absolute difference of a logit."""
    max_logit: float
    """Largest absolute logit of the network."""
    same_top1: float
    """Fraction of the images with the same most probable class."""
    top1: float | None
    """Top-1 accuracy of the graph; None if the true classes are not known."""


class _DeployedModel(nn.Module):
    """The network between normalization and calibrated softmax."""

    offset: Tensor
    factor: Tensor

    def __init__(self, net: nn.Module, metadata: dict[str, Any]) -> None:
        super().__init__()
        self.net, self.temperature = net, metadata["temperature"]
        offset, factor = transform.normalization_factors(metadata["mean"], metadata["std"], CPU)
        self.register_buffer("offset", offset[:, None, None])
        self.register_buffer("factor", factor[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``[n, size, size, 3]`` uint8 to logits and probabilities ``[n, classes]`` float32."""
        pixels = images.permute(0, 3, 1, 2).float()
        logits = self.net(pixels * self.factor + self.offset)
        return logits, (logits / self.temperature).softmax(1)


def write_onnx(file: Path, net: nn.Module, metadata: dict[str, Any]) -> None:
    """Write the network as an ONNX file.

    Its input is ``images``, ``[batch, size, size, 3]`` uint8; its outputs are ``logits`` and
    ``probabilities``.

    Args:
        metadata: content of the model's sidecar.
    """
    size = metadata["image_size"]
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)  # one image would fix the batch size at one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own code
        program = torch.onnx.export(
            _DeployedModel(net, metadata).eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["images"],
            output_names=["logits", "probabilities"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _strip_source(proto)
    file_io.write_bytes(file, proto.SerializeToString())


def _strip_source(proto: onnx.ModelProto) -> None:
    """Remove the source lines that the exporter records at each node: they contain paths of this machine."""
    graph = proto.graph
    parts = (graph.node, graph.initializer, graph.input, graph.output, graph.value_info)
    for item in (proto, graph, *(item for part in parts for item in part)):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


def check_onnx(
    file: Path, net: nn.Module, metadata: dict[str, Any], images: Tensor, labels: Tensor | None
) -> Agreement:
    """Compare the graph in onnxruntime with the network as ``finegrain predict`` runs it, both in float32.

    Args:
        metadata: content of the model's sidecar.
        images: ``[N, S, S, 3]`` uint8, at the pack's image size.
        labels: ``[N]`` class ids; None if they are not known.

    Raises:
        UserError: the file is not valid ONNX, or the results differ by more than the tolerances.
    """
    session = _open_session(file)
    batches = _run_batches(session, net, metadata, images)
    expected, logits, probabilities = (np.concatenate(part) for part in zip(*batches, strict=True))
    agreement = Agreement(
        images=len(expected),
        max_difference=float(abs(logits - expected).max()),
        max_logit=float(abs(expected).max()),
        same_top1=float((logits.argmax(1) == expected.argmax(1)).mean()),
        top1=None if labels is None else float((logits.argmax(1) == labels.numpy()).mean()),
    )
    # `not <=`, as NaN must fail too
    if not agreement.max_difference <= LOGIT_TOLERANCE * agreement.max_logit:
        raise UserError(
            f"{file.name}: its logits differ from the network's by up to {agreement.max_difference:.3g}; "
            f"allowed is {LOGIT_TOLERANCE:g} of the largest logit, {agreement.max_logit:.3g}; {_REPORT}"
        )
    softmax = np.exp(outputs.log_softmax(logits / metadata["temperature"]))
    error = abs(probabilities - softmax).max()
    if not error <= PROBABILITY_TOLERANCE:
        raise UserError(
            f"{file.name}: its probabilities differ from the softmax of its logits by up to {error:.3g}; "
            f"allowed is {PROBABILITY_TOLERANCE:g}; {_REPORT}"
        )
    return agreement


def _open_session(file: Path) -> onnxruntime.InferenceSession:
    """Validate the file and load it into onnxruntime, on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    try:
        onnx.checker.check_model(file, full_check=True)
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnx and onnxruntime raise types without a common base
        raise UserError(f"{file.name}: not a valid graph ({error}); {_REPORT}") from None


def _run_batches(
    session: onnxruntime.InferenceSession, net: nn.Module, metadata: dict[str, Any], images: Tensor
) -> Iterator[tuple[Floats, Floats, Floats]]:
    """Yield of each batch, ``[n, classes]``: the network's logits, the graph's logits and probabilities."""
    size = metadata["image_size"]
    preprocess = inference.Preprocessor(size, CPU, metadata["mean"], metadata["std"])
    for batch in images.split(inference.BATCH_SIZE):
        n, height, width, _ = batch.shape
        identity = sampling.identity(n, height, width)
        resized = crop.crop_per_image(batch, identity.crops, identity.flips, size)
        logits, probabilities = session.run(None, {"images": resized.permute(0, 2, 3, 1).numpy()})
        expected = inference.predict_logits(net, preprocess(batch), torch.float32).numpy()
        yield expected.astype(np.float64), logits.astype(np.float64), probabilities.astype(np.float64)
