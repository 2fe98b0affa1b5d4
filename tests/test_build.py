"""Every supported family is built through one code path, with every head."""

from typing import get_args

import pytest
import torch
import torchvision
from architectures import FAMILIES, HEADS, LINEAR
from torch import nn

from finegrain.config import params
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
