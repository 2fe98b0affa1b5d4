"""Grad-CAM: which places of an image raise the logit of a class (https://arxiv.org/abs/1610.02391)."""

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

from finegrain.loading.batches import ImageArray
from finegrain.models import build, inference
from finegrain.models.pooling import CovariancePool

Heatmap = npt.NDArray[np.float32]

COLORMAP = "inferno"
"""Its lightness rises with the value, so that it can be read without distinguishing colors."""
OPACITY = 0.6


def heatmaps(net: Any, images: Tensor, classes: Tensor) -> Heatmap:
    """Grad-CAM heat map of each image for a class.

    The feature maps before the pooling are weighted by the mean gradient of the class's logit with respect to
    each of them, summed, clipped at 0, enlarged to the image and divided by the maximum of the image; of
    several pooled stages the maps are added before the division. Only pooling and head are differentiated,
    so that it needs no more memory than a prediction. It computes in float32 and leaves the network
    unchanged.

    A covariance does not change if a constant is added to a channel, so its mean gradients are zero. There
    each place has its own gradient, times what the channels deviate from their mean over the places, after
    HiResCAM (https://arxiv.org/abs/2011.08891).

    Args:
        net: a network from ``build.build_model``.
        images: ``[N, 3, h, w]`` preprocessed images, on the network's device.
        classes: ``[N]`` class ids.

    Returns:
        ``[N, h, w]`` in 0..1; all 0 where no place raises the logit.
    """
    device = images.device
    with _evaluating(net), torch.autocast(device.type, enabled=False):
        stages = [maps.requires_grad_() for maps in inference.pooled_maps(net, images.float(), torch.float32)]
        with torch.enable_grad():
            logits = build.get_head(net)(net.avgpool(*stages).flatten(1))
            # one sum for all images, as the logits of one do not depend on another
            class_logits = logits.gather(1, classes.to(device)[:, None]).sum()
            gradients = torch.autograd.grad(class_logits, stages)
        maps = torch.zeros(len(images), *images.shape[2:], device=device)
        for features, gradient in zip(stages, gradients, strict=True):
            values = features.detach()
            if isinstance(net.avgpool, CovariancePool):
                raised = gradient * (values - values.mean((2, 3), keepdim=True))
            else:
                raised = gradient.mean((2, 3), keepdim=True) * values
            own = F.relu(raised.sum(1, keepdim=True))
            maps += F.interpolate(own, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        maximum = maps.amax((1, 2), keepdim=True)
        return torch.where(maximum > 0, maps / maximum, 0).cpu().numpy()


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every module has its own mode again."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def overlay(image: ImageArray, heatmap: Heatmap) -> ImageArray:
    """Draw a heat map over the image in gray: bright yellow is evidence for the class, black is none.

    Args:
        image: ``[H, W, 3]``.
        heatmap: ``[h, w]`` in 0..1, of any size.

    Returns:
        ``[H, W, 3]``.
    """
    height, width = image.shape[:2]
    resized = np.asarray(Image.fromarray(heatmap).resize((width, height), Image.Resampling.BILINEAR))
    colors = matplotlib.colormaps[COLORMAP](resized.clip(0, 1))[..., :3] * 255
    gray = np.asarray(Image.fromarray(image).convert("L"), np.float64)[..., None]
    return np.rint((1 - OPACITY) * gray + OPACITY * colors).astype(np.uint8)
