"""A ResNet of 0.3 million parameters, for tests in which the network is not the subject."""

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

WIDTHS = (16, 32, 64, 128)


class NarrowResNet(nn.Module):
    """torchvision's ResNet with one block a stage and a quarter of the channels; the same module names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, stride=2, padding=1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(WIDTHS[0]), nn.ReLU(inplace=True)
        before = WIDTHS[0]
        for stage, width in enumerate(WIDTHS, start=1):
            shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride=2, bias=False), nn.BatchNorm2d(width))
            setattr(self, f"layer{stage}", nn.Sequential(BasicBlock(before, width, 2, shortcut)))
            before = width
        self.avgpool: nn.Module = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, 1000)

    def forward(self, images: Tensor) -> Tensor:
        features: Any = self.relu(self.bn1(self.conv1(images)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = stage(features)
        return self.fc(torch.flatten(self.avgpool(features), 1))


def use_instead_of(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let torchvision build this network for these names."""
    real = torchvision.models.get_model

    def get_model(name: str, weights: Any) -> nn.Module:
        return NarrowResNet() if name in names else real(name, weights=weights)

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
