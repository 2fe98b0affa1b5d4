"""A trained network as an ONNX graph, and the proof that it answers as the network does.

The graph takes what a decoder gives, RGB in uint8: mean, deviation and temperature are inside.
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
"""What torch's exporter writes without converting, and what runtimes know since 2023."""
LOGIT_TOLERANCE = 1e-4
"""Largest difference of a logit, as a share of the largest logit; measured: 1e-5.

It bounds the most probable class too: it can differ only between two that are as close as that.
"""
PROBABILITY_TOLERANCE = 1e-4

CPU = devices.select_device("cpu")


@dataclass(frozen=True)
class Agreement:
    """Of a graph and its network, on the same images."""

    images: int
    largest_difference: float
    """Of a logit."""
    largest_logit: float
    same_top1: float
    """Share of the images with the same most probable class."""
    top1: float | None
    """Of the graph, where the true classes are known."""


class _DeployedModel(nn.Module):
    """The network between pixels and calibrated probabilities."""

    offset: Tensor
    factor: Tensor

    def __init__(self, net: nn.Module, facts: dict[str, Any]) -> None:
        super().__init__()
        self.net, self.temperature = net, facts["temperature"]
        offset, factor = transform.normalization_factors(facts["mean"], facts["std"], CPU)
        self.register_buffer("offset", offset[:, None, None])
        self.register_buffer("factor", factor[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``[n, side, side, 3]`` uint8 to logits and probabilities ``[n, classes]`` float32."""
        pixels = images.permute(0, 3, 1, 2).float()
        logits = self.net(pixels * self.factor + self.offset)
        return logits, (logits / self.temperature).softmax(1)


def write_onnx(file: Path, net: nn.Module, facts: dict[str, Any]) -> None:
    """One file: input ``images`` ``[batch, side, side, 3]`` uint8, outputs ``logits`` and ``probabilities``.

    Args:
        facts: the sidecar of the network.
    """
    side = facts["image_size"]
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)  # of one image the exporter would fix the size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(
            _DeployedModel(net, facts).eval(),
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
    """Take out the lines of code that the exporter notes at every node, with the paths of this machine."""
    graph = proto.graph
    parts = (graph.node, graph.initializer, graph.input, graph.output, graph.value_info)
    for part in (proto, graph, *(each for some in parts for each in some)):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def check_onnx(
    file: Path, net: nn.Module, facts: dict[str, Any], squares: Tensor, labels: Tensor | None
) -> Agreement:
    """Compare what onnxruntime makes of the file with what ``finegrain predict`` computes, both in float32.

    Args:
        squares: ``[N, S, S, 3]`` uint8 images of the pack's side.
        labels: ``[N]`` class ids.

    Raises:
        UserError: the file is no valid ONNX, or its answers differ by more than the tolerances.
    """
    try:
        onnx.checker.check_model(file, full_check=True)
        session = onnxruntime.InferenceSession(file, _session_options(), providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's types share no base
        raise UserError(f"{file.name}: not a valid graph ({error}); {_REPORT}") from None
    batches = _run_batches(session, net, facts, squares)
    ours, theirs, said = (np.concatenate(part) for part in zip(*batches, strict=True))
    agreement = Agreement(
        images=len(ours),
        largest_difference=float(abs(theirs - ours).max()),
        largest_logit=float(abs(ours).max()),
        same_top1=float((theirs.argmax(1) == ours.argmax(1)).mean()),
        top1=None if labels is None else float((theirs.argmax(1) == labels.numpy()).mean()),
    )
    if not agreement.largest_difference <= LOGIT_TOLERANCE * agreement.largest_logit:  # NaN is refused too
        raise UserError(
            f"{file.name}: its logits differ from the network's by up to {agreement.largest_difference:.3g}, "
            f"allowed are {LOGIT_TOLERANCE:g} of the largest, {agreement.largest_logit:.3g}; {_REPORT}"
        )
    apart = abs(said - np.exp(outputs.log_softmax(theirs / facts["temperature"]))).max()
    if not apart <= PROBABILITY_TOLERANCE:
        raise UserError(f"{file.name}: its probabilities are off by up to {apart:.3g}; {_REPORT}")
    return agreement


_REPORT = "nothing was exported; please report it with the versions of torch, onnx and onnxscript"


def _session_options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    return options


def _run_batches(
    session: onnxruntime.InferenceSession, net: nn.Module, facts: dict[str, Any], squares: Tensor
) -> Iterator[tuple[Floats, Floats, Floats]]:
    """Batch by batch ``[n, classes]``: the network's logits, the graph's logits and probabilities."""
    side = facts["image_size"]
    view = inference.Preprocessor(side, CPU, facts["mean"], facts["std"])
    for batch in squares.split(inference.BATCH_SIZE):
        n, height, width, _ = batch.shape
        views = sampling.identity(n, height, width)
        seen = crop.crop_per_image(batch, views.crops, views.flips, side)
        logits, said = session.run(None, {"images": seen.permute(0, 2, 3, 1).numpy()})
        ours = inference.predict_logits(net, view(batch), bf16=False).numpy()
        yield ours.astype(np.float64), logits.astype(np.float64), said.astype(np.float64)
