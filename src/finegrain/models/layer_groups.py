"""Layer groups of a network: which parameters train, and at which learning rate."""

from typing import Any

from torch import nn

from finegrain.models import build


def layer_groups(net: Any) -> list[tuple[int, list[nn.Parameter]]]:
    """The parameters from the stem to the head, block by block, each with its layer group.

    Groups: 0 stem and early blocks, 1 late blocks, 2 head. ResNets are cut between layer2 and layer3,
    EfficientNets in the middle of ``features``.
    """
    if hasattr(net, "features"):
        bodies, late = [[block] for block in net.features], len(net.features) // 2
    else:
        stem = [net.conv1, net.bn1]
        bodies, late = [stem, [net.layer1], [net.layer2], [net.layer3], [net.layer4]], 3
    rows = [
        (int(i >= late), [parameter for module in body for parameter in module.parameters()])
        for i, body in enumerate(bodies)
    ]
    return [*rows, (2, list(build.get_head(net).parameters()))]


def set_trainable(net: nn.Module, part: str) -> None:
    """Choose what trains: ``head``, ``head+norm`` or ``all``; the rest needs no gradient."""
    net.requires_grad_(part == "all")
    build.get_head(net).requires_grad_(True)
    if part == "head+norm":
        for module in _norm_layers(net):
            module.requires_grad_(True)


def set_train_mode(net: nn.Module, part: str, frozen_statistics: bool) -> None:
    """Training mode; with ``frozen_statistics`` the norm layers outside the head keep theirs.

    A body that neither trains nor gathers statistics is a fixed function: no dropout, no stochastic depth.
    """
    net.train(not (part == "head" and frozen_statistics))
    build.get_head(net).train()
    if frozen_statistics:
        own = set(build.get_head(net).modules())
        for module in _norm_layers(net):
            module.train(module in own)


def _norm_layers(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
