"""Geometric augmentation: padding crops, and rotation, zoom and perspective in a single resampling.

Homographies are ``[N, 3, 3]`` float64 and map output to input coordinates, x and y from -1 to 1 between the
outer edges of the image (grid_sample's ``align_corners=False``). ``a @ b`` sends an output point through b,
then a: however many are combined, the pixels are interpolated once.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Padding = Literal["reflection", "zeros"]

CORNERS = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)  # clockwise from top left


def rotations(degrees: Tensor, aspect: float = 1.0) -> Tensor:
    """Homographies that rotate each image about its center.

    Args:
        degrees: ``[N]``, counter-clockwise, as in torchvision's ``rotate``.
        aspect: width : height of the images; without it an image that is not square would be sheared.
    """
    angle = torch.deg2rad(degrees.double())
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _matrices(cos, -sin / aspect, zero, sin * aspect, cos, zero)


def zooms(factors: Tensor, centers: Tensor) -> Tensor:
    """Homographies that magnify a part of each image, 1/factor of its width and height, to the whole.

    Args:
        factors: ``[N]``, at least 1.
        centers: ``[N, 2]`` x, y of the point that stays where it is: at -1 the part touches the left or top
            edge, at 1 the right or bottom edge; in between it lies inside.
    """
    scale = 1 / factors.double()
    x, y = (centers.double() * (1 - scale)[:, None]).unbind(1)
    zero = torch.zeros_like(scale)
    return _matrices(scale, zero, x, zero, scale, y)


def _matrices(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor) -> Tensor:
    """``[N, 3, 3]`` with the rows (a, b, c), (d, e, f), (0, 0, 1)."""
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    return torch.stack((a, b, c, d, e, f, zero, zero, one), 1).view(-1, 3, 3)


def perspectives(start: Tensor, end: Tensor) -> Tensor:
    """Homographies that move four points of each image to four given positions.

    Solves two equations a point, x_in (g x + h y + 1) = a x + b y + c and likewise for y_in, for the eight
    unknowns.

    Args:
        start: ``[N, 4, 2]`` x, y of the points in the input; no three on a line, nor in ``end``.
        end: ``[N, 4, 2]`` x, y of their positions in the output.
    """
    u, v = start.double().unbind(2)  # [N, 4] each
    x, y = end.double().unbind(2)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    for_u = torch.stack((x, y, one, zero, zero, zero, -u * x, -u * y), 2)
    for_v = torch.stack((zero, zero, zero, x, y, one, -v * x, -v * y), 2)
    solution = torch.linalg.solve(torch.cat((for_u, for_v), 1), torch.cat((u, v), 1)[:, :, None])
    return torch.cat((solution[:, :, 0], one[:, :1]), 1).view(-1, 3, 3)


def sample_homographies(
    n: int,
    rotate_degrees: float,
    zoom: float,
    perspective: float,
    probability: float,
    generator: torch.Generator,
    aspect: float = 1.0,
) -> Tensor:
    """Sample homographies that zoom, then rotate, then tilt each image.

    How many numbers are drawn depends on ``n`` alone: turning one off leaves the others unchanged.

    Args:
        rotate_degrees: largest rotation either way; uniform.
        zoom: largest factor, at least 1; uniform from 1 on, at a uniform place.
        perspective: largest perspective tilt, 0 to 0.5, horizontal and vertical, each uniform either way. The
            output's corners show points that lie up to ``perspective`` times half the image's width and
            height from the input's corners, neighbors in opposite directions. fastai's ``Warp`` moves the
            input's corners in the output instead: much the same while small, but near 0.5 the horizon of the
            image plane comes into view.
        probability: probability of each of the three, independently.
        aspect: width : height of the images.

    Returns:
        ``[n, 3, 3]`` float64.
    """
    draws = torch.rand(n, 9, generator=generator, dtype=torch.float64)
    rotated, zoomed, tilted = (draws[:, :3] < probability).double().unbind(1)
    angle, factor = draws[:, 3], draws[:, 4]
    centers, tilts = 2 * draws[:, 5:7] - 1, (2 * draws[:, 7:] - 1) * perspective * tilted[:, None]
    ends = CORNERS.expand(n, 4, 2)
    starts = ends - ends.prod(2, keepdim=True) * tilts[:, None]
    return (
        zooms(1 + factor * (zoom - 1) * zoomed, centers)
        @ rotations((2 * angle - 1) * rotate_degrees * rotated, aspect)
        @ perspectives(starts, ends)
    )


def warp(images: Tensor, homographies: Tensor, padding: Padding = "reflection") -> Tensor:
    """Resample each image bilinearly where its homography says.

    Shrinking aliases, as it does in torchvision's ``rotate``, ``affine`` and ``perspective``.

    Args:
        images: ``[N, C, H, W]`` floating point, any range, like the result.
        homographies: ``[N, 3, 3]``, on any device.
        padding: what lies outside the image: its reflection, with the outermost pixels repeated, or zeros.
    """
    height, width = images.shape[2:]
    matrices = homographies.to(images.dtype).to(images.device, non_blocking=True)
    x, y = _pixel_centers(width, images), _pixel_centers(height, images)[:, None]
    # sums, not a matrix product: with TF32 that would keep 11 bits of each coordinate
    rows = matrices[:, :, 1, None, None] * y + matrices[:, :, 2, None, None]  # [N, 3, H, 1]
    u, v, w = (matrices[:, :, 0, None, None] * x + rows).unbind(1)  # [N, H, W] each
    grid = torch.stack((u / w, v / w), 3)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def _pixel_centers(size: int, like: Tensor) -> Tensor:
    return (2 * torch.arange(size, device=like.device, dtype=like.dtype) + 1) / size - 1


def sample_offsets(n: int, max_pixels: int, generator: torch.Generator) -> Tensor:
    """``[n, 2]`` int64 row and column for ``shift``, uniform in 0..2*max_pixels."""
    return torch.randint(2 * max_pixels + 1, (n, 2), generator=generator)


def shift(images: Tensor, offsets: Tensor, max_pixels: int, padding: Padding = "zeros") -> Tensor:
    """Pad each image, then crop it back to its size at its own offset.

    The CIFAR augmentation of ResNet (https://arxiv.org/abs/1512.03385, section 4.2), which pads with zeros.
    ``offsets == max_pixels`` is the identity.

    Args:
        images: ``[N, C, H, W]`` of any dtype; the result has the same and is channels_last.
        offsets: ``[N, 2]`` integers (row, column) in 0..2*max_pixels, on any device.
        max_pixels: padding on each side; 0 <= max_pixels < min(H, W).
        padding: zeros, or the image's reflection, with the outermost pixels not repeated.

    Raises:
        ValueError: ``max_pixels`` does not fit the image, or ``padding`` is unknown.
    """
    n, _, height, width = images.shape
    if not 0 <= max_pixels < min(height, width):
        raise ValueError(f"max_pixels must be in [0, {min(height, width)}), got {max_pixels}")
    if padding not in ("reflection", "zeros"):
        raise ValueError(f"padding must be reflection or zeros, got {padding}")
    device = images.device
    first = offsets.to(device, non_blocking=True) - max_pixels
    rows = first[:, 0, None] + torch.arange(height, device=device)  # [N, H], may lie outside the image
    columns = first[:, 1, None] + torch.arange(width, device=device)  # [N, W]
    y, x = _reflect(rows, height), _reflect(columns, width)  # instead of a padded copy
    image = torch.arange(n, device=device)[:, None, None]
    shifted = images.permute(0, 2, 3, 1)[image, y[:, :, None], x[:, None]].permute(0, 3, 1, 2)
    if padding == "reflection":
        return shifted
    outside = (rows != y)[:, None, :, None] | (columns != x)[:, None, None]
    return shifted.masked_fill_(outside, 0)


def _reflect(index: Tensor, size: int) -> Tensor:
    return (size - 1) - ((size - 1) - index.abs()).abs()
