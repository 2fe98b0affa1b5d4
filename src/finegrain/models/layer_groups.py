"""Layer groups of a network: which parameters train, and at which learning rate."""

from typing import Any

from torch import nn

from finegrain.models import build


def layer_groups(net: Any) -> list[tuple[int, list[nn.Parameter]]]:
    """Layer group and parameters of every block, from the stem to the head.

    Group 0 is the stem and the early blocks, 1 the late blocks, 2 the head. ResNets are divided between
    layer2 and layer3, EfficientNets in the middle of ``features``.
    """
    if hasattr(net, "features"):
        blocks, first_late = [[block] for block in net.features], len(net.features) // 2
    else:
        stem = [net.conv1, net.bn1]
        blocks, first_late = [stem, [net.layer1], [net.layer2], [net.layer3], [net.layer4]], 3
    groups = [
        (int(i >= first_late), [parameter for module in block for parameter in module.parameters()])
        for i, block in enumerate(blocks)
    ]
    return [*groups, (2, list(build.get_head(net).parameters()))]


def set_trainable(net: nn.Module, trainable: str) -> None:
    """Let ``head``, ``head+norm`` or ``all`` of the network require gradients, and the rest none."""
    net.requires_grad_(trainable == "all")
    build.get_head(net).requires_grad_(True)
    if trainable == "head+norm":
        for module in _norm_layers(net):
            module.requires_grad_(True)


def set_train_mode(net: nn.Module, trainable: str, frozen_statistics: bool) -> None:
    """Set training mode; with ``frozen_statistics``, norm layers outside the head keep their statistics.

    A backbone that neither trains nor updates statistics is in evaluation mode: no dropout, no stochastic
    depth, so that its features of an image are always the same.
    """
    net.train(not (trainable == "head" and frozen_statistics))
    build.get_head(net).train()
    if frozen_statistics:
        head_modules = set(build.get_head(net).modules())
        for module in _norm_layers(net):
            module.train(module in head_modules)


def _norm_layers(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
