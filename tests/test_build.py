"""Every supported family is built through one code path, and gets its weights from a file or the internet."""

import hashlib
from typing import get_args

import pytest
import safetensors.torch
import torch
import torchvision
from architectures import FAMILIES, HEADS, LINEAR
from torch import nn

from finegrain.config import params
from finegrain.core.errors import UserError
from finegrain.models import build


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("head", HEADS, ids=["linear", "cifar100", "fastai", "covariance"])
def test_every_family_takes_every_head(name, head):
    net = build.build_model(name, 7, "none", head, seed=0)
    assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_the_cifar100_head_is_the_project_s_exactly():
    net = build.build_model("resnet50", 100, "none", HEADS[1], seed=0)
    layers = [
        (type(layer).__name__, getattr(layer, "p", None) or (layer.in_features, layer.out_features))
        for layer in build.get_head(net)
    ]
    assert layers == [
        ("Dropout", 0.5), ("Linear", (2048, 1024)), ("Dropout", 0.2), ("Linear", (1024, 512)),
        ("Dropout", 0.2), ("Linear", (512, 256)), ("Dropout", 0.2), ("Linear", (256, 128)),
        ("Dropout", 0.2), ("Linear", (128, 100)),
    ]  # fmt: skip


def test_the_fastai_head_gets_maxima_and_means():
    net = build.build_model("resnet18", 5, "none", HEADS[2], seed=0)
    kinds = [type(layer).__name__ for layer in build.get_head(net)]
    assert kinds == ["BatchNorm1d", "Dropout", "Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear"]
    assert build.get_head(net)[2].in_features == 2 * 512
    features = torch.randn(2, 3, 4, 4)
    pooled = net.avgpool(features)
    assert torch.equal(pooled.flatten(1), torch.cat((features.amax((2, 3)), features.mean((2, 3))), 1))


def test_every_model_name_has_a_head_that_ends_with_a_linear_layer():
    for name in get_args(params.ModelName):
        with torch.device("meta"):
            net = torchvision.models.get_model(name, weights=None)
        assert isinstance(list(build.get_head(net).modules())[-1], nn.Linear), name


def test_random_weights_depend_on_the_seed_alone_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (build.build_model("resnet18", 3, "none", LINEAR, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.conv1.weight, again.conv1.weight)
    assert torch.equal(first.fc.weight, again.fc.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def write_backbone(folder, name, suffix) -> tuple[str, dict[str, torch.Tensor]]:
    """Write random weights of a torchvision model; returns the file and the weights."""
    torch.manual_seed(1)
    state = torchvision.models.get_model(name, weights=None).state_dict()
    file = folder / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, file)
    else:
        torch.save(state, file)
    return str(file), state


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_local_file_gives_the_backbone_and_a_new_head(tmp_path, suffix):
    file, state = write_backbone(tmp_path, "resnet18", suffix)
    net = build.build_model("resnet18", 4, file, LINEAR, seed=0)
    assert torch.equal(net.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert net.fc.weight.shape == (4, 512)


def test_weights_of_another_architecture_are_rejected(tmp_path):
    file, _ = write_backbone(tmp_path, "resnet18", ".pth")
    with pytest.raises(UserError, match=r"weights: .*weights\.pth .*resnet50: .* tensors differ"):
        build.build_model("resnet50", 4, file, LINEAR, seed=0)


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x80\x05cos\nsystem\n."])
def test_a_broken_or_hostile_weights_file_is_rejected(tmp_path, content):
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"weights: .*weights\.pth cannot be read"):
        build.build_model("resnet18", 4, str(file), LINEAR, seed=0)


@pytest.mark.parametrize("name", ["no.pth", "no.safetensors"])
def test_a_missing_weights_file_is_named(tmp_path, name):
    with pytest.raises(UserError, match=rf"weights: .*{name} does not exist"):
        build.build_model("resnet18", 4, str(tmp_path / name), LINEAR, seed=0)


def test_an_unknown_weights_name_lists_the_allowed_ones():
    with pytest.raises(UserError, match="'IMAGENET1K_V3'; allowed: none, IMAGENET1K_V1"):
        build.build_model("resnet18", 4, "IMAGENET1K_V3", LINEAR, seed=0)


def test_pretrained_weights_come_from_torch_s_hub_folder(tmp_path, monkeypatch):
    """torchvision's own code reads a stand-in file, whose name carries its hash."""
    file, state = write_backbone(tmp_path, "resnet18", ".pth")
    content = (tmp_path / "weights.pth").read_bytes()
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setattr(weights.value, "url", f"http://127.0.0.1:9/{name}", raising=False)
    net = build.build_model("resnet18", 4, "IMAGENET1K_V1", LINEAR, seed=0)
    assert torch.equal(net.conv1.weight, state["conv1.weight"])


def test_a_failed_download_names_the_url_and_where_to_save_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    url = "http://127.0.0.1:9/resnet18-00000000.pth"
    monkeypatch.setattr(weights.value, "url", url, raising=False)
    with pytest.raises(UserError) as caught:
        build.build_model("resnet18", 4, "IMAGENET1K_V1", LINEAR, seed=0)
    message = str(caught.value)
    assert message.startswith("params.yaml: weights: IMAGENET1K_V1 of resnet18 ")
    assert url in message and "hub/checkpoints/resnet18-00000000.pth" in message
