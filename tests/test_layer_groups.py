"""Layer groups cover every network once, and what is frozen does not change."""

import pytest
import torch
from architectures import FAMILIES, HEADS, LINEAR
from params_file import PHASE

from finegrain.config import phases
from finegrain.models import build, layer_groups
from finegrain.training import optim


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("head", HEADS, ids=["linear", "cifar100", "fastai", "covariance"])
def test_groups_are_in_order_and_hold_every_parameter_once(name, head):
    net = build.build_model(name, 7, "none", head, seed=0)
    blocks = layer_groups.layer_groups(net)
    assert all(parameters for _, parameters in blocks)
    groups = [group for group, _ in blocks]
    assert groups == sorted(groups) and set(groups) == {0, 1, 2} and groups.count(2) == 1
    ids = [id(p) for _, parameters in blocks for p in parameters]
    assert sorted(ids) == sorted(id(p) for p in net.parameters())
    head_ids = [id(p) for p in build.get_head(net).parameters()]
    assert ids[-len(head_ids) :] == head_ids


@pytest.mark.parametrize("frozen", [False, True], ids=["statistics updated", "statistics frozen"])
@pytest.mark.parametrize("trainable", ["head", "head+norm", "late", "all"])
@pytest.mark.parametrize("head", [HEADS[0], HEADS[2]], ids=["linear", "mlp"])
def test_training_changes_only_what_is_trainable(trainable, frozen, head):
    """Frozen tensors do not change, whatever the optimizer and its weight decay."""
    net = build.build_model("resnet18", 3, "none", head, seed=0)
    layer_groups.set_trainable(net, trainable)
    layer_groups.set_train_mode(net, trainable, frozen)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    changes = {"trainable": trainable, "optimizer": {"kind": "adamw", "weight_decay": 0.1}}
    phase = phases.Phase.model_validate(PHASE | changes)
    optimizer = optim.build_optimizer(layer_groups.layer_groups(net), phase, 0.1)
    for _ in range(2):
        net(torch.randn(4, 3, 32, 32)).square().sum().backward()
        optimizer.step()
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    head_names = {k for k in before if k.startswith("fc.")}
    norms = {k for k in before if ".bn" in k or k.startswith("bn1") or "downsample.1" in k}
    statistics = {k for k in norms if "running" in k or "num_batches" in k}
    late = {k for k in before if k.startswith(("layer3.", "layer4."))}
    expected = {
        "head": head_names | statistics,
        "head+norm": head_names | norms,
        "late": head_names | late,
        "all": set(before),
    }
    assert changed == expected[trainable] - (statistics if frozen else set())
    with_state = {id(p) for p in optimizer.state}
    assert with_state == {id(p) for p in net.parameters() if p.requires_grad}
    assert all((p.grad is not None) == p.requires_grad for p in net.parameters())


def test_a_fully_frozen_backbone_is_deterministic():
    """EfficientNet's stochastic depth would give a frozen backbone other features at every step."""
    net = build.build_model("efficientnet_b0", 3, "none", LINEAR, seed=0)
    layer_groups.set_train_mode(net, "head", frozen_statistics=True)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(net.features(images), net.features(images))
    layer_groups.set_train_mode(net, "late", frozen_statistics=False)
    early = net.features[: len(net.features) // 2]
    assert torch.equal(early(images), early(images))
    assert not torch.equal(net.features(images), net.features(images))
    layer_groups.set_train_mode(net, "all", frozen_statistics=False)
    assert not torch.equal(net.features(images), net.features(images))
