"""Weights of the images in a training loss, for classes of very different sizes."""

import torch
from torch import Tensor

EFFECTIVE_BETA = 0.99
"""Cui et al. try 0.9 to 0.9999, and find that fine-grained classes need a smaller one than coarse classes.

With 0.99, 10 images count as 9.6, 100 as 63, and any number as 100 at most.
"""


def class_weights(labels: Tensor, num_classes: int, kind: str) -> Tensor:
    """Weight of an image of each class; their mean over the images is 1, so that the same learning rates fit.

    ``balanced`` is the inverse of the number of images, as in scikit-learn. ``effective`` is the inverse
    of its effective number of samples ``(1 - beta^n) / (1 - beta)`` (https://arxiv.org/abs/1901.05555, which
    scales the weights to a mean of 1 over the classes instead).

    Args:
        labels: ``[N]`` class ids of the training images.
        kind: ``none``, ``balanced`` or ``effective``.

    Returns:
        ``[num_classes]`` float64; 0 for a class without images.
    """
    counts = labels.bincount(minlength=num_classes).double()
    samples = {
        "none": torch.ones_like(counts),
        "balanced": counts,
        "effective": (1 - EFFECTIVE_BETA**counts) / (1 - EFFECTIVE_BETA),
    }[kind]
    weights = torch.where(counts > 0, 1 / samples, 0.0)
    return weights * (len(labels) / (weights @ counts))


def image_weights(labels: Tensor, num_classes: int, kind: str) -> Tensor:
    """The weight of each image, ``[N]`` float64."""
    return class_weights(labels, num_classes, kind)[labels]
