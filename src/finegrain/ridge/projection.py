"""Which combinations of channels a covariance pooling keeps, where it keeps fewer than there are."""

from typing import Any

import torch
from torch import Tensor

from finegrain.loading.batches import PackedSplit
from finegrain.models import inference, pooling
from finegrain.models.inference import BATCH_SIZE
from finegrain.models.pooling import CovariancePool

MAX_CLASSES, IMAGES_A_CLASS = 64, 20
"""Numbers of classes and of their images that are used; 64 matrices of 1024 channels take 4 MB each."""


def fit_projection(net: Any, split: PackedSplit, image_size: int, dtype: torch.dtype) -> None:
    """Set the 1x1 convolutions of the network's pooling, in place, by training images and their classes.

    Kept are the directions in which the mean roots of the classes differ most: the eigenvectors with the
    largest eigenvalues of ``sum_c (R_c - R)^2``, where R_c is the mean of class c. A quarter of the features
    of ResNet-18's layer3 lose 1 point of test top-1 then, by principal components 2, and at random 10
    (benchmarks/projections.py).

    Args:
        net: with covariance pooling; nothing is done where no channels are left out.
        dtype: what the network is autocast to; its roots are float32.
    """
    if not isinstance(net.avgpool, CovariancePool) or not net.avgpool.reduce:
        return
    net.eval()
    sums: dict[str, Tensor] = {}
    indices, groups = sample_images(split.labels)
    counts = groups.bincount()
    for chunk, group in zip(indices.split(BATCH_SIZE), groups.split(BATCH_SIZE), strict=True):
        images, _ = next(split.batches_of(chunk, BATCH_SIZE, image_size))
        for i, maps in enumerate(inference.pooled_maps(net, images, dtype)):
            if str(i) in net.avgpool.reduce:
                roots = pooling.covariance_root(maps)
                roots = roots / roots.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None]
                empty = torch.zeros(len(counts), *roots.shape[1:], device=roots.device)
                sums.setdefault(str(i), empty).index_add_(0, group.to(roots.device), roots)
    for key, total in sums.items():
        means = total / counts.to(total.device)[:, None, None]
        difference = (means - means.mean(0)).cpu().double()
        between = (difference @ difference).mean(0)
        kept = net.avgpool.reduce[key]
        vectors = torch.linalg.eigh(between).eigenvectors.flip(1).T[: len(kept)]
        with torch.no_grad():
            kept.copy_(vectors)


def sample_images(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the first images of evenly spaced classes, and to which of these classes each belongs."""
    present = labels.unique()
    step = -(-len(present) // MAX_CLASSES)
    chosen = present[::step]
    parts = [torch.nonzero(labels == label)[:IMAGES_A_CLASS, 0] for label in chosen]
    groups = [torch.full((len(part),), i) for i, part in enumerate(parts)]
    return torch.cat(parts), torch.cat(groups)
