"""The ONNX graph of every family and head answers as the network does; one that does not is refused."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from test_build import HEADS
from torch import nn

from finegrain.config.training import HeadParams
from finegrain.core.errors import UserError
from finegrain.export import check_images, onnx_graph
from finegrain.models import build

SIDE, CLASSES = 32, 7
FACTS: dict[str, Any] = {
    "image_size": SIDE,
    "pack_image_size": 40,
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.25],
    "temperature": 0.37,
}
LINEAR, DEEP, FASTAI = HEADS
CASES = [
    ("resnet18", LINEAR),
    ("resnet34", DEEP),
    ("resnet50", FASTAI),
    ("wide_resnet50_2", LINEAR),
    ("resnext50_32x4d", DEEP),
    ("efficientnet_b0", LINEAR),
    ("efficientnet_b0", FASTAI),
]


def awake(name: str, head: HeadParams, seed: int = 0) -> Any:
    """The first block of each stage, with random weights, and norm layers that know their inputs.

    Those of an untrained deep network would pass on nothing of the image.
    """
    net: Any = build.build_model(name, CLASSES, "none", head, seed)
    stages = net.features if hasattr(net, "features") else (net.layer1, net.layer2, net.layer3, net.layer4)
    for stage in stages:
        if not hasattr(stage, "out_channels"):  # EfficientNet's first and last are a convolution
            del stage[1:]
    torch.manual_seed(seed)
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        net.train()(torch.randn(64, 3, SIDE, SIDE))
    for norm in norms:
        norm.running_var.clamp_(min=1e-3)  # or EfficientNet would blow up its own rounding
    return net.eval()


def pixels(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)


def plain(net: nn.Module, images: np.ndarray) -> np.ndarray:
    """The logits by the textbook, in float64."""
    normal = (images / 255 - np.array(FACTS["mean"])) / np.array(FACTS["std"])
    with torch.no_grad():
        logits = net.double()(torch.from_numpy(normal.transpose(0, 3, 1, 2)))
    net.float()
    return logits.numpy()


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize(("name", "head"), CASES, ids=[name for name, _ in CASES])
def test_logits_and_probabilities_are_the_network_s_for_any_batch(tmp_path, name, head):
    net, file = awake(name, head), tmp_path / "model.onnx"
    onnx_graph.write_onnx(file, net, FACTS)
    content = file.read_bytes()
    places = (sys.prefix, str(Path(torch.__file__).parents[1]), str(Path(__file__).parents[1]), str(tmp_path))
    assert not any(place.encode() in content for place in places)
    session = onnxruntime.InferenceSession(file)
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("images", "tensor(uint8)", ["batch", SIDE, SIDE, 3])
    ]
    for n in (1, 3):
        images = pixels(n, seed=n)
        wanted = plain(net, images)
        logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
        largest = abs(wanted).max()
        assert n == 1 or np.ptp(wanted, axis=0).max() > 0.1 * largest  # it looks at the image
        assert logits == pytest.approx(wanted, abs=1e-4 * largest)
        assert probabilities == pytest.approx(softmax(logits / FACTS["temperature"]), abs=1e-5)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[nn.Module, Path]:
    net, file = awake("resnet18", LINEAR), tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx_graph.write_onnx(file, net, FACTS)
    return net, file


def test_the_check_tells_how_far_they_are_apart(small):
    net, file = small
    squares = torch.from_numpy(pixels(70))  # more than a batch
    labels = torch.from_numpy(plain(net, squares.numpy()).argmax(1))
    labels[:7] = (labels[:7] + 1) % CLASSES
    found = onnx_graph.check_onnx(file, net, FACTS, squares, labels)
    assert found.images == 70 and found.same_top1 == 1 and found.top1 == pytest.approx(0.9)
    assert 0 < found.largest_difference < 1e-4 * found.largest_logit
    assert found.largest_logit == pytest.approx(abs(plain(net, squares.numpy())).max(), rel=1e-4)
    assert onnx_graph.check_onnx(file, net, FACTS, squares, None).top1 is None


def test_the_same_network_gives_the_same_bytes(small, tmp_path):
    onnx_graph.write_onnx(tmp_path / "again.onnx", small[0], FACTS)
    assert (tmp_path / "again.onnx").read_bytes() == small[1].read_bytes()


def test_a_graph_with_other_weights_is_refused(small, tmp_path):
    """One weight of the last layer, by less than a reader of probabilities would see."""
    proto = onnx.load(small[1])
    (bias,) = [each for each in proto.graph.initializer if list(each.dims) == [CLASSES]]
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] += 0.01
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(UserError, match=r"other.onnx: its logits differ .* up to 0\.01"):
        onnx_graph.check_onnx(tmp_path / "other.onnx", small[0], FACTS, torch.from_numpy(pixels(4)), None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.38}, "its probabilities are off"),
        ({"mean": [0.6, 0.5, 0.4]}, "its logits differ"),
    ],
)
def test_a_graph_that_normalises_or_calibrates_otherwise_is_refused(small, changes, message):
    net, file = small
    with pytest.raises(UserError, match=message):
        onnx_graph.check_onnx(file, net, FACTS | changes, torch.from_numpy(pixels(4)), None)


def test_logits_that_are_no_numbers_are_refused(small):
    net, file = small
    broken = awake("resnet18", LINEAR)
    nn.init.constant_(build.get_head(broken).bias, float("nan"))
    with pytest.raises(UserError, match="differ from the network's by up to nan"):
        onnx_graph.check_onnx(file, broken, FACTS, torch.from_numpy(pixels(2)), None)


@pytest.mark.parametrize("content", [b"", b"\x08\x0a", b"not a graph at all"])
def test_a_file_that_is_no_graph_is_refused(small, tmp_path, content):
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(UserError, match="bad.onnx: not a valid graph"):
        onnx_graph.check_onnx(tmp_path / "bad.onnx", small[0], FACTS, torch.from_numpy(pixels(2)), None)


def test_a_long_test_split_is_probed_evenly(tiny_pack, monkeypatch):
    monkeypatch.setattr(check_images, "MAX_IMAGES", 5)
    found = check_images.from_test_split(tiny_pack)
    images, labels = (np.load(tiny_pack / f"test{end}.npy") for end in ("", "_labels"))
    chosen = [0, 4, 8, 13, 17]
    assert found.what == "5 of the 18 test images"
    assert np.array_equal(found.squares.numpy(), images[chosen])
    assert found.labels is not None and found.labels.tolist() == labels[chosen].tolist()


def test_the_test_images_are_probed_only_by_the_model_that_was_trained_on_this_pack(tiny_pack):
    facts = {"pack_image_size": 32, "data": f"{'0' * 64}-32"}
    assert check_images.find_check_images(facts, tiny_pack, []).what == "all 18 test images"
    for other, pack in (({"data": f"{'1' * 64}-32"}, tiny_pack), ({"data": None}, tiny_pack), ({}, None)):
        found = check_images.find_check_images(facts | other, pack, [])
        assert found.what.startswith("64 squares of random pixels") and found.labels is None
        assert found.squares.shape == (64, 32, 32, 3) and found.squares.float().std() > 70
