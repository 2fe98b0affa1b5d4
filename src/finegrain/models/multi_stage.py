"""A network that is cut off above the stages whose feature maps it pools."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from finegrain.models.pooling import CovariancePool

PROBE_SIZE = 64
"""Height and width in pixels of the image by which channels and an EfficientNet's stages are found."""


class StageEnd(NamedTuple):
    """Where a stage ends: the number of blocks up to there, and the channels of its feature maps."""

    blocks: int
    channels: int


class MultiStageNet(nn.Module):
    """The lower part of a torchvision network, covariance pooling of some of its stages, and a linear head.

    Its parameters have torchvision's names, so that weights can be exchanged with the whole network.
    """

    def __init__(self, net: nn.Module, stages: Sequence[str], channels: int | None) -> None:
        """Take over the modules of ``net`` up to the last of the stages.

        Args:
            net: a torchvision ResNet or EfficientNet.
            stages: names such as layer3, in the network's order.
            channels: as in ``CovariancePool``.
        """
        super().__init__()
        blocks, ends = body_blocks(net), stage_ends(net)
        kept = dict(list(blocks.items())[: ends[stages[-1]].blocks])
        if hasattr(net, "features"):
            self.features = nn.Sequential(*kept.values())
        else:
            for name, module in kept.items():
                self.add_module(name, module)
        self._names = tuple(kept)
        self._pooled_after = frozenset(ends[stage].blocks for stage in stages)
        self.avgpool = CovariancePool([ends[stage].channels for stage in stages], channels)
        self.fc: nn.Module = nn.Identity()
        """The head, which ``build`` puts here."""

    def pooled_maps(self, images: Tensor) -> list[Tensor]:
        """Input of the pooling: ``[N, C, H, W]`` of each stage, of images ``[N, 3, H, W]``."""
        maps: list[Tensor] = []
        parent = self.features if hasattr(self, "features") else self
        for i, name in enumerate(self._names, start=1):
            images = parent.get_submodule(name)(images)
            if i in self._pooled_after:
                maps.append(images)
        return maps

    def features_of(self, images: Tensor) -> Tensor:
        """Input of the head, ``[N, out_features]`` float32, of images ``[N, 3, H, W]``."""
        features: Tensor = self.avgpool(*self.pooled_maps(images))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes]``."""
        logits: Tensor = self.fc(self.features_of(images))
        return logits


def body_blocks(net: nn.Module) -> dict[str, nn.Module]:
    """The blocks before the pooling of a torchvision network by name, in order."""
    children = dict(net.named_children())
    if "features" in children:
        return dict(children["features"].named_children())
    return {name: module for name, module in children.items() if name not in ("avgpool", "fc")}


@torch.no_grad()
def stage_ends(net: nn.Module) -> dict[str, StageEnd]:
    """Where layer1 to layer4 end.

    An EfficientNet's end before the next block that halves the resolution, at a quarter to a thirty-second
    of the image size; its last one has all the rest.
    """
    ends, maps = {}, torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE)
    was_training = net.training
    net.eval()
    for i, (name, block) in enumerate(body_blocks(net).items(), start=1):
        maps = block(maps)
        if hasattr(net, "features"):
            name = f"layer{(PROBE_SIZE // maps.shape[2]).bit_length() - 2}"
        ends[name] = StageEnd(i, maps.shape[1])
    net.train(was_training)
    return ends
