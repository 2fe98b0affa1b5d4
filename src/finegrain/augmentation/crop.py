"""Cut boxes out of images and resize them, in two ways that agree to a rounding step of 8 bits.

Image by image is faster on a CPU; two batched matrix products are faster on a GPU.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TRIES = 10
"""Boxes drawn for each image, of which the first that fits is used, as in torchvision."""


def sample_crops(
    n: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> Tensor:
    """Boxes of a random resized crop (https://arxiv.org/abs/1409.4842, section 6), as torchvision draws them.

    Where none of ten boxes fits into the image, the largest centered box of an allowed shape is used.

    Args:
        scale: smallest and largest area, as a share of the image.
        ratio: smallest and largest width : height, drawn uniformly in the logarithm.

    Returns:
        ``[n, 4]`` int64: top, left, height, width.
    """
    widths, heights = sample_sizes(n, height * width, scale, ratio, generator)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    h, w = first_fitting(heights, fits), first_fitting(widths, fits)
    position = torch.rand(2, n, generator=generator)
    top = (position[0] * (height - h + 1)).long()
    left = (position[1] * (width - w + 1)).long()
    crops = torch.stack((top, left, h, w), 1)
    crops[~fits.any(1)] = torch.tensor(_largest_centered(height, width, ratio))
    return crops


def sample_sizes(
    n: int, area: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The two sides of ``TRIES`` random boxes an image, ``[n, TRIES]`` int64 each, in pixels.

    Args:
        area: area of the image in pixels.
        scale: smallest and largest area, as a share of the image; uniform.
        ratio: smallest and largest first side : second side; uniform in the logarithm.
    """
    areas = area * torch.empty(n, TRIES).uniform_(*scale, generator=generator)
    ratios = torch.exp(
        torch.empty(n, TRIES).uniform_(math.log(ratio[0]), math.log(ratio[1]), generator=generator)
    )
    return torch.round(torch.sqrt(areas * ratios)).long(), torch.round(torch.sqrt(areas / ratios)).long()


def first_fitting(values: Tensor, fits: Tensor) -> Tensor:
    """The value ``[n]`` of each image's first box that fits, from ``[n, TRIES]``; of box 0 if none fits."""
    return values.gather(1, fits.int().argmax(1, keepdim=True)).squeeze(1)


def _largest_centered(height: int, width: int, ratio: tuple[float, float]) -> list[int]:
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return [(height - h) // 2, (width - w) // 2, h, w]


def sample_flips(n: int, generator: torch.Generator) -> Tensor:
    """``[n]`` bool, true with probability 1/2."""
    return torch.rand(n, generator=generator) < 0.5


def full_boxes(n: int, height: int, width: int) -> Tensor:
    """The boxes ``[n, 4]`` that hold the whole image: top, left, height, width."""
    return torch.tensor([0, 0, height, width]).repeat(n, 1)


def crop_per_image(images: Tensor, crops: Tensor, flips: Tensor, image_size: int) -> Tensor:
    """Crop, resize with antialiasing and flip image by image: the faster way on a CPU.

    Args:
        images: ``[N, H, W, 3]`` uint8.
        crops: ``[N, 4]`` int64 of top, left, height, width.
        flips: ``[N]`` bool: flip horizontally.
        image_size: height and width of the result in pixels.

    Returns:
        ``[N, 3, image_size, image_size]`` uint8, channels_last.
    """
    size = (image_size, image_size)
    out = torch.empty(len(images), *size, 3, dtype=torch.uint8)
    for i, ((top, left, height, width), flip) in enumerate(zip(crops.tolist(), flips.tolist(), strict=True)):
        cut = images[i, top : top + height, left : left + width].permute(2, 0, 1)[None]
        if (height, width) != size:
            cut = cut.contiguous(memory_format=torch.channels_last)  # its kernel is twice as fast
            cut = F.interpolate(cut, size, mode="bilinear", antialias=True, align_corners=False)
        out[i] = (cut.flip(3) if flip else cut)[0].permute(1, 2, 0)
    return out.permute(0, 3, 1, 2)


def crop_batched(
    images: Tensor, crops: Tensor, flips: Tensor, image_size: int, dtype: torch.dtype = torch.float16
) -> Tensor:
    """Crop, resize with antialiasing and flip the whole batch at once, on the images' device.

    Two matrix products an image, ``Wy @ X @ Wx^T``; deterministic.

    Args:
        images: ``[N, H, W, 3]`` uint8.
        crops: ``[N, 4]`` int64 of top, left, height, width.
        flips: ``[N]`` bool: flip horizontally.
        image_size: height and width of the result in pixels.
        dtype: result type; float16 is what tensor cores multiply, exact for pixels, and keeps weights to
            0.0005 of a result, a quarter of a rounding step at most.

    Returns:
        ``[N, 3, image_size, image_size]`` of ``dtype`` in 0..255, not rounded, channels_last.
    """
    crops, flips = crops.to(images.device), flips.to(images.device)
    size = image_size
    n, height, width, channels = images.shape
    rows = resize_weights(crops[:, 0], crops[:, 2], height, size)
    columns = resize_weights(crops[:, 1], crops[:, 3], width, size)
    columns = torch.where(flips[:, None, None], columns.flip(1), columns)
    # each product takes one matrix an image: all channels and the other axis lie next to each other
    wide = images.permute(0, 2, 1, 3).to(dtype, memory_format=torch.contiguous_format)
    narrow = columns.to(dtype) @ wide.view(n, width, height * channels)  # [N, size, H * 3]
    tall = narrow.view(n, size, height, channels).permute(0, 2, 1, 3).reshape(n, height, size * channels)
    return (rows.to(dtype) @ tall).view(n, size, size, channels).permute(0, 3, 1, 2)


def resize_weights(start: Tensor, length: Tensor, input_size: int, output_size: int) -> Tensor:
    """Weights ``[N, output_size, input_size]`` that resize the ``length`` pixels from ``start`` on.

    A triangle filter as wide as the reduction, so that shrinking does not alias; rows add up to 1. It is
    the antialiased bilinear filter of Pillow and torchvision.
    """
    scale = length.float() / output_size
    radius = scale.clamp(min=1)[:, None, None]
    output = torch.arange(output_size, device=start.device)
    center = start[:, None] + (output + 0.5) * scale[:, None]  # [N, output_size]
    pixel = torch.arange(input_size, device=start.device)
    weight = (1 - (pixel + 0.5 - center[:, :, None]).abs() / radius).clamp(min=0)
    inside = (pixel >= start[:, None]) & (pixel < (start + length)[:, None])  # [N, input_size]
    weight = weight * inside[:, None]
    return weight / weight.sum(2, keepdim=True)
