"""Pooling of feature maps into a feature vector: average and maximum, or the square root of a covariance."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ITERATIONS = 5
"""Newton-Schulz iterations, as in Li et al. 2018; seven or an exact root gave no better accuracy."""

MAX_FEATURES = 32_896
"""Features of a stage with 256 channels, all kept: layer3 of ResNet-18 and ResNet-34."""


class AvgMaxPool(nn.Module):
    """Concatenate the maximum and the mean of each feature map: ``[N, C, H, W]`` to ``[N, 2C, 1, 1]``."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat((features.amax((2, 3), keepdim=True), features.mean((2, 3), keepdim=True)), 1)


class CovariancePool(nn.Module):
    """Matrix square root of the covariance of the channels over the places of an image.

    Second-order pooling as in bilinear CNNs (Lin et al. 2015, https://arxiv.org/abs/1504.07889), with the
    iterative square root of Li et al. 2018 (https://arxiv.org/abs/1712.01034). Unlike theirs, it iterates on
    the Gram matrix of the places where these are fewer than the channels (the result is the same), it
    divides the result by its L2 norm, so that a linear layer needs no more scaling, and of a root that is too
    large it keeps some combinations of rows, with all columns.

    Those are the parameters ``reduce``, a 1x1 convolution ``[K, C]`` for each stage that needs one. They
    start as random directions; ``ridge.projection`` fits them to images.
    """

    def __init__(self, stage_channels: Sequence[int], channels: int | None = None) -> None:
        """Prepare for stages with these numbers of channels.

        Args:
            stage_channels: number of channels of each stage's feature maps.
            channels: rows of each root that are kept; None means as many as give ``MAX_FEATURES``.
        """
        super().__init__()
        rows = [kept_rows(n, channels) for n in stage_channels]
        self.reduce = nn.ParameterDict(
            {
                str(i): nn.Parameter(nn.init.orthogonal_(torch.empty(k, n)))
                for i, (n, k) in enumerate(zip(stage_channels, rows, strict=True))
                if k < n
            }
        )
        self.out_features = sum(
            k * n if k < n else n * (n + 1) // 2 for n, k in zip(stage_channels, rows, strict=True)
        )
        """Number of features of an image."""

    def forward(self, *maps: Tensor) -> Tensor:
        """Features ``[N, out_features]`` of unit length, float32, of each stage's maps ``[N, C, H, W]``."""
        # half the digits of bfloat16 would be lost in the iterations
        with torch.autocast(maps[0].device.type, enabled=False):
            features = []
            for i, each in enumerate(maps):
                reduce = self.reduce[str(i)] if str(i) in self.reduce else None
                root = covariance_root(each, reduce)
                flat = upper_triangle(root) if reduce is None else root.flatten(1)
                features.append(nn.functional.normalize(flat, dim=1))
            return torch.cat(features, 1) / len(maps) ** 0.5


def kept_rows(channels: int, wanted: int | None) -> int:
    """Rows of the root of a stage's covariance that are kept: all, unless these are too many features."""
    if wanted is None:
        wanted = channels if channels * (channels + 1) // 2 <= MAX_FEATURES else MAX_FEATURES // channels
    return wanted if wanted * channels < channels * (channels + 1) // 2 else channels


def covariance_root(maps: Tensor, reduce: Tensor | None = None) -> Tensor:
    """Square root of the channels' covariance, up to a factor of each image.

    Args:
        maps: ``[N, C, H, W]``, of any floating-point type.
        reduce: ``[K, C]``, which the root is multiplied with from the left; None leaves it as it is.

    Returns:
        ``[N, C, C]``, or ``[N, K, C]``, float32.
    """
    centered = maps.float().flatten(2)
    centered = centered - centered.mean(2, keepdim=True)
    # a trace of 1, which is the squared norm here, makes the iteration converge
    centered = centered / centered.flatten(1).norm(dim=1).clamp_min(1e-6)[:, None, None]
    _, channels, places = centered.shape
    left = centered if reduce is None else reduce @ centered
    if places <= channels:
        return left @ inverse_root(centered.transpose(1, 2) @ centered) @ centered.transpose(1, 2)
    return left @ centered.transpose(1, 2) @ inverse_root(centered @ centered.transpose(1, 2))


def inverse_root(matrices: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Inverse square root of symmetric matrices by coupled Newton-Schulz iterations.

    With few iterations the inverses of small eigenvalues stay below their true value, which also makes it
    safe for singular matrices (Higham 2008, Functions of Matrices, section 6.7).

    Args:
        matrices: ``[N, M, M]`` float32, positive semidefinite with a trace of at most 1.

    Returns:
        ``[N, M, M]``.
    """
    identity = torch.eye(matrices.shape[1], device=matrices.device)
    inverse = (3 * identity - matrices) / 2
    root = matrices @ inverse
    for i in range(1, iterations):
        step = (3 * identity - inverse @ root) / 2
        inverse = step @ inverse
        if i < iterations - 1:
            root = root @ step
    return inverse


def upper_triangle(matrices: Tensor) -> Tensor:
    """The different elements of symmetric matrices, so weighted that norms and products stay the same.

    Args:
        matrices: ``[N, M, M]``.

    Returns:
        ``[N, M (M + 1) / 2]``, row by row; those off the diagonal, which occur twice, times the root of 2.
    """
    m = matrices.shape[1]
    rows, columns = torch.triu_indices(m, m, device=matrices.device)
    weights = torch.where(rows == columns, 1.0, 2.0**0.5).to(matrices.device)
    return matrices.flatten(1)[:, rows * m + columns] * weights
