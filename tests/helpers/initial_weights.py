"""Initial weights as stage train reads them, and narrow networks that start from them."""

from pathlib import Path

import narrow_resnet
import pytest
import torch
from architectures import LINEAR
from torch import nn

from finegrain.config.training import HeadParams
from finegrain.models import build, pretrained
from finegrain.models.build import InitialWeights

MLP = HeadParams(widths=[16], dropouts=[0.1, 0.2], batch_norm=True)


def random_state(seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return narrow_resnet.NarrowResNet().state_dict()


def read(weights: Path | str, model: str = "resnet18") -> InitialWeights:
    found = pretrained.read_weights(model, str(weights))
    assert found != "none"
    return found


def start(
    weights: Path | str, classes: int | list[str], head: HeadParams = LINEAR, seed: int = 0
) -> nn.Module:
    return build.build_model("resnet18", classes, read(weights), head, seed).eval()


def use_narrow_networks(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Narrow networks for two names, and a download folder of torch.hub below ``folder``."""
    narrow_resnet.use_instead_of(monkeypatch, "resnet18", "resnet34")
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch-home"))
