"""Layer groups of a network: which parameters train, and at which learning rate."""

from typing import Any

from torch import nn

from finegrain.models import build


def layer_groups(net: Any) -> list[tuple[int, list[nn.Parameter]]]:
    """Layer group and parameters of every block, from the stem to the head.

    Group 0 is the stem and the early blocks, 1 the late blocks, 2 the head with its pooling. ResNets are
    divided between layer2 and layer3, EfficientNets in the middle of ``features``.
    """
    return [
        (group, [parameter for module in modules for parameter in module.parameters()])
        for group, modules in _blocks(net)
    ]


def set_trainable(net: Any, trainable: str) -> None:
    """Let ``head``, ``head+norm``, ``late`` or ``all`` of the network require gradients, the rest none."""
    net.requires_grad_(trainable == "all")
    for group, modules in _blocks(net):
        if group == 2 or (group == 1 and trainable == "late"):
            for module in modules:
                module.requires_grad_(True)
    if trainable == "head+norm":
        for module in _norm_layers(net):
            module.requires_grad_(True)


def set_train_mode(net: nn.Module, trainable: str, frozen_statistics: bool) -> None:
    """Set training mode; with ``frozen_statistics``, norm layers outside the head keep their statistics.

    What neither trains nor updates statistics is in evaluation mode: no dropout, no stochastic depth, so that
    its features of an image are always the same. The early layers are, if only the late ones train.
    """
    net.train(not (trainable == "head" and frozen_statistics))
    build.get_head(net).train()
    if frozen_statistics:
        head_modules = set(build.get_head(net).modules())
        for module in _norm_layers(net):
            module.train(module in head_modules)
    if trainable == "late":
        for group, modules in _blocks(net):
            if group == 0:
                for module in modules:
                    module.eval()


def _blocks(net: Any) -> list[tuple[int, list[nn.Module]]]:
    """Layer group and modules of every block, from the stem to the head."""
    if hasattr(net, "features"):
        blocks, first_late = [[block] for block in net.features], len(net.features) // 2
    else:
        layers = [getattr(net, f"layer{i}") for i in range(1, 5) if hasattr(net, f"layer{i}")]
        blocks, first_late = [[net.conv1, net.bn1], *([layer] for layer in layers)], 3
    groups = [(int(i >= first_late), block) for i, block in enumerate(blocks)]
    return [*groups, (2, [net.avgpool, build.get_head(net)])]


def _norm_layers(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
