"""Saved models with random weights, for tests that need a model but not its accuracy."""

from collections.abc import Sequence
from pathlib import Path

import torch

from finegrain.config.training import HeadParams
from finegrain.models import build, storage


def save_untrained(
    weights: Path,
    sidecar: Path,
    classes: Sequence[str],
    *,
    name: str = "resnet18",
    favorite: int | None = None,
    pack_image_size: int = 40,
    temperature: float = 0.4,
    head: HeadParams | None = None,
    **more: object,
) -> None:
    """Save a model and its sidecar; its image size is 32.

    Args:
        favorite: id of a class that it prefers for any image.
        head: None means a linear one.
        more: further keys of the sidecar.
    """
    head = head or HeadParams()
    net = build.build_model(name, len(classes), "none", head, seed=0)
    if favorite is not None:
        with torch.no_grad():
            build.get_head(net).bias.copy_(3 * torch.eye(len(classes))[favorite])
    metadata = {
        "model": name, "classes": list(classes), "image_size": 32, "pack_image_size": pack_image_size,
        "mean": [0.5] * 3, "std": [0.2] * 3, "refit": False, "temperature": temperature, "unknown_below": 0.0,
        "recipe": {"head": head.model_dump()}, **more,
    }  # fmt: skip
    storage.save_model(weights, sidecar, net.state_dict(), metadata)
