"""Layer groups of a network: which parameters train, and at which learning rate."""

from typing import Any

from torch import nn

from finegrain.models import build


def layer_groups(net: Any) -> list[tuple[int, list[nn.Parameter]]]:
    """Layer group and parameters of every block, from the stem to the head.

    Group 0 is the stem and the early blocks, 1 the late blocks, 2 the head with its pooling. ResNets are
    divided between layer2 and layer3, EfficientNets in the middle of ``features``.
    """
    if hasattr(net, "features"):
        blocks, first_late = [[block] for block in net.features], len(net.features) // 2
    else:
        layers = [getattr(net, f"layer{i}") for i in range(1, 5) if hasattr(net, f"layer{i}")]
        blocks, first_late = [[net.conv1, net.bn1], *([layer] for layer in layers)], 3
    groups = [
        (int(i >= first_late), [parameter for module in block for parameter in module.parameters()])
        for i, block in enumerate(blocks)
    ]
    return [*groups, (2, [*net.avgpool.parameters(), *build.get_head(net).parameters()])]


def set_trainable(net: Any, trainable: str) -> None:
    """Let ``head``, ``head+norm`` or ``all`` of the network require gradients, and the rest none."""
    net.requires_grad_(trainable == "all")
    for module in (net.avgpool, build.get_head(net)):
        module.requires_grad_(True)
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
