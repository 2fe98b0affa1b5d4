"""The ONNX graph of every family and head has the network's logits; any other graph is rejected."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from architectures import HEADS
from torch import nn

from finegrain.config.training import HeadParams
from finegrain.core.errors import UserError
from finegrain.export import onnx_graph
from finegrain.models import build
from finegrain.models.pooling import CovariancePool

SIZE, CLASSES = 32, 7
METADATA: dict[str, Any] = {
    "image_size": SIZE,
    "pack_image_size": 40,
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.25],
    "temperature": 0.37,
}
LINEAR, DEEP, FASTAI, COVARIANCE = HEADS
CASES = {
    "resnet18": LINEAR,
    "resnext50_32x4d": DEEP,
    "efficientnet_b0": FASTAI,
    "resnet34": HeadParams(pool="covariance", stage=["layer1", "layer2"]),  # many places, and few
    "wide_resnet50_2": COVARIANCE,
}
"""Each kind of block and head once: resnet34 has resnet18's blocks; resnet50 and wide_resnet50_2 have those
of resnext50 with other widths."""


def build_small(name: str, head: HeadParams) -> Any:
    """The first block of each stage, with random weights, and norm layers fitted to their inputs.

    The logits of a deep untrained network would hardly depend on the image.
    """
    net: Any = build.build_model(name, CLASSES, "none", head, seed=0)
    layers = [module for name, module in net.named_children() if name.startswith("layer")]
    for stage in net.features if hasattr(net, "features") else layers:
        if not hasattr(stage, "out_channels"):  # EfficientNet's first and last are a convolution
            del stage[1:]
    torch.manual_seed(0)
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        net.train()(torch.randn(64, 3, SIZE, SIZE))
    for norm in norms:
        norm.running_var.clamp_(min=1e-3)  # else EfficientNet would amplify rounding errors
    return net.eval()


def random_images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)


def reference_logits(net: Any, images: np.ndarray) -> np.ndarray:
    """Logits in float64, with the normalization written out; covariances are always float32."""
    normalized = (images / 255 - np.array(METADATA["mean"])) / np.array(METADATA["std"])
    net.double()
    if isinstance(net.avgpool, CovariancePool):
        net.avgpool.float()
        build.get_head(net).float()
    with torch.no_grad():
        logits = net(torch.from_numpy(normalized.transpose(0, 3, 1, 2)))
    net.float()
    return logits.double().numpy()


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Callable[[str], tuple[nn.Module, Path]]:
    """Build the network of a case and write its graph, once for all tests."""

    @functools.cache
    def export(name: str) -> tuple[nn.Module, Path]:
        net, file = build_small(name, CASES[name]), tmp_path_factory.mktemp(name) / "model.onnx"
        onnx_graph.write_onnx(file, net, METADATA)
        return net, file

    return export


@pytest.fixture
def small(exported) -> tuple[nn.Module, Path]:
    return exported("resnet18")


@pytest.mark.parametrize("name", CASES)
def test_logits_and_probabilities_are_the_network_s_for_any_batch_size(exported, name):
    net, file = exported(name)
    content = file.read_bytes()
    places = (
        sys.prefix,
        str(Path(torch.__file__).parents[1]),
        str(Path(__file__).parents[1]),
        str(file.parent),
    )
    assert not any(place.encode() in content for place in places)
    session = onnxruntime.InferenceSession(file)
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("images", "tensor(uint8)", ["batch", SIZE, SIZE, 3])
    ]
    for n in (1, 3):
        images = random_images(n, seed=n)
        expected = reference_logits(net, images)
        logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
        largest = abs(expected).max()
        assert n == 1 or np.ptp(expected, axis=0).max() > 0.1 * largest  # they depend on the image
        assert logits == pytest.approx(expected, abs=1e-4 * largest)
        assert probabilities == pytest.approx(softmax(logits / METADATA["temperature"]), abs=1e-5)


def test_the_check_measures_the_largest_differences(small):
    net, file = small
    images = torch.from_numpy(random_images(70))  # more than a batch
    expected = reference_logits(net, images.numpy())
    labels = torch.from_numpy(expected.argmax(1))
    labels[:7] = (labels[:7] + 1) % CLASSES
    found = onnx_graph.check_onnx(file, net, METADATA, images, labels)
    assert found.images == 70 and found.same_top1 == 1 and found.top1 == pytest.approx(0.9)
    assert 0 < found.max_difference < 1e-4 * found.max_logit
    assert found.max_logit == pytest.approx(abs(expected).max(), rel=1e-4)
    assert onnx_graph.check_onnx(file, net, METADATA, images, None).top1 is None


def test_the_same_network_gives_the_same_bytes(small, tmp_path):
    onnx_graph.write_onnx(tmp_path / "again.onnx", small[0], METADATA)
    assert (tmp_path / "again.onnx").read_bytes() == small[1].read_bytes()


def test_a_graph_with_other_weights_is_rejected(small, tmp_path):
    """One bias of the last layer is changed by too little to be seen in the probabilities."""
    proto = onnx.load(small[1])
    (bias,) = [each for each in proto.graph.initializer if list(each.dims) == [CLASSES]]
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] += 0.01
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(UserError, match=r"other.onnx: its logits .* 0\.01"):
        onnx_graph.check_onnx(
            tmp_path / "other.onnx", small[0], METADATA, torch.from_numpy(random_images(4)), None
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.38}, "model.onnx: its probabilities"),
        ({"mean": [0.6, 0.5, 0.4]}, "model.onnx: its logits"),
    ],
)
def test_a_graph_with_another_normalization_or_temperature_is_rejected(small, changes, message):
    net, file = small
    with pytest.raises(UserError, match=message):
        onnx_graph.check_onnx(file, net, METADATA | changes, torch.from_numpy(random_images(4)), None)


def test_nan_logits_are_rejected(small):
    net, file = small
    broken = build_small("resnet18", LINEAR)
    nn.init.constant_(build.get_head(broken).bias, float("nan"))
    with pytest.raises(UserError, match="model.onnx: its logits .* nan"):
        onnx_graph.check_onnx(file, broken, METADATA, torch.from_numpy(random_images(2)), None)


@pytest.mark.parametrize("content", [b"", b"\x08\x0a", b"not a graph at all"])
def test_a_file_that_is_no_graph_is_rejected(small, tmp_path, content):
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(UserError, match="bad.onnx: not a valid graph"):
        onnx_graph.check_onnx(
            tmp_path / "bad.onnx", small[0], METADATA, torch.from_numpy(random_images(2)), None
        )
