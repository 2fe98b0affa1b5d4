"""Where a network looked: Grad-CAM, and its heat map on the photo (https://arxiv.org/abs/1610.02391)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from finegrain.models import build

Heat = npt.NDArray[np.float32]
Photo = npt.NDArray[np.uint8]

COLORMAP = "inferno"
"""Its lightness rises steadily with the heat: it can be read without telling colours apart."""
OPACITY = 0.6


def heatmaps(net: nn.Module, images: Tensor, classes: Tensor) -> Heat:
    """How much each place of an image spoke for a class.

    The feature maps that the pooling receives, each weighted by the mean gradient of the class's logit by it,
    added up, negative sums cut off, enlarged to the image, divided by the image's maximum. Gradients are
    those of pooling and head only: the body runs without, so that memory is that of a prediction. In
    float32; the network is afterwards as it was.

    Args:
        net: one of ``model.build``'s.
        images: ``[N, 3, h, w]`` as the network is trained on, on its device.
        classes: ``[N]`` class ids.

    Returns:
        ``[N, h, w]`` in 0..1; all 0 where no place speaks for the class.
    """
    device = images.device
    with _evaluating(net), torch.autocast(device.type, enabled=False):
        features = _features(net, images.float()).requires_grad_()
        with torch.enable_grad():
            logits = _logits(net, features)
            chosen = logits.gather(1, classes.to(device)[:, None]).sum()  # images do not touch each other
            (gradient,) = torch.autograd.grad(chosen, features)
        weights = gradient.mean((2, 3), keepdim=True)
        maps = F.relu((weights * features.detach()).sum(1, keepdim=True))
        maps = F.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        highest = maps.amax((1, 2), keepdim=True)
        return torch.where(highest > 0, maps / highest, 0).cpu().numpy()


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Statistics of norm layers fixed, no dropout; every module's own mode comes back."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@torch.no_grad()
def _features(net: Any, images: Tensor) -> Tensor:
    """What the pooling receives, ``[N, C, H, W]``."""
    received: list[Tensor] = []
    hook = net.avgpool.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))
    try:
        net(images)
    finally:
        hook.remove()
    return received[0].detach()


def _logits(net: Any, features: Tensor) -> Tensor:
    """The rest of the network, the same for ResNets and EfficientNets."""
    logits: Tensor = build.get_head(net)(net.avgpool(features).flatten(1))
    return logits


def overlay(photo: Photo, heat: Heat) -> Photo:
    """The photo in grey under the heat map's colours: bright yellow spoke for the class, black did not.

    Args:
        photo: ``[H, W, 3]``.
        heat: ``[h, w]`` in 0..1, of any size.

    Returns:
        ``[H, W, 3]``.
    """
    height, width = photo.shape[:2]
    fitted = np.asarray(Image.fromarray(heat).resize((width, height), Image.Resampling.BILINEAR))
    colours = matplotlib.colormaps[COLORMAP](fitted.clip(0, 1))[..., :3] * 255
    grey = np.asarray(Image.fromarray(photo).convert("L"), np.float64)[..., None]
    return np.rint((1 - OPACITY) * grey + OPACITY * colours).astype(np.uint8)
