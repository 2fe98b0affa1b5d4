"""What more photos would bring: accuracy of solutions from a part of the training images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from finegrain.loading.class_weights import image_weights
from finegrain.ridge.regression import RidgeRegression

FRACTIONS = (0.125, 0.25, 0.5)
"""Shares of each class's images. The others are predicted."""


def learning_curve(
    problem: RidgeRegression, num_classes: int, strength: float, weights: str, seed: int = 0
) -> list[dict[str, Any]]:
    """Accuracy on the images that a part of each class does not use, for each of ``FRACTIONS``.

    Args:
        weights: ``class_weights`` of the phase.

    Returns:
        For each fraction ``images``, ``top1`` and ``top1_by_class`` (None where no image is left).
    """
    labels, points = problem.labels, []
    for fraction in FRACTIONS:
        used = stratified_part(labels.numpy(), fraction, seed)
        if not len(used) or len(used) == len(labels):
            continue
        rest = np.setdiff1d(np.arange(len(labels)), used)
        part_weights = image_weights(labels[used], num_classes, weights)
        correct = problem.predict_rest(used, rest, part_weights, strength).argmax(1) == labels[rest]
        points.append({"images": len(used), **accuracy(correct, labels[rest], num_classes)})
    return points


def accuracy(correct: Tensor, labels: Tensor, num_classes: int) -> dict[str, Any]:
    """Top-1 of images ``[N]``, of all and by class."""
    images = labels.bincount(minlength=num_classes)
    hits = labels[correct].bincount(minlength=num_classes)
    by_class: Sequence[float | None] = [
        round(h / n, 6) if n else None for h, n in zip(hits.tolist(), images.tolist(), strict=True)
    ]
    return {"top1": correct.double().mean().item(), "top1_by_class": by_class}


def stratified_part(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Sorted indices of a random part of each class, at least one image of it."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    sorted_labels = labels[order]
    starts = np.searchsorted(sorted_labels, sorted_labels)
    counts = np.bincount(labels)[sorted_labels]
    keep = np.arange(len(labels)) - starts < np.maximum(1, np.floor(counts * fraction))
    return np.sort(order[keep])
