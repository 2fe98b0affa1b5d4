"""Cut boxes out of images and resize them: one sampler of boxes, two ways that agree.

They agree to a rounding step of 8 bits: per sample on the CPU, two batched matrix products on a GPU.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_crops(
    n: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    source: torch.Generator,
) -> Tensor:
    """Boxes of a random resized crop (https://arxiv.org/abs/1409.4842, section 6), as torchvision draws them.

    Ten tries an image; where none fits into it, the largest centred box of an allowed shape.

    Args:
        scale: smallest and largest area, as a share of the image.
        ratio: smallest and largest width : height, drawn uniformly in the logarithm.

    Returns:
        ``[n, 4]`` int64: top, left, height, width.
    """
    tries = 10
    area = height * width * torch.empty(n, tries).uniform_(*scale, generator=source)
    shape = torch.exp(
        torch.empty(n, tries).uniform_(math.log(ratio[0]), math.log(ratio[1]), generator=source)
    )
    widths = torch.round(torch.sqrt(area * shape)).long()
    heights = torch.round(torch.sqrt(area / shape)).long()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(1, keepdim=True)
    h, w = heights.gather(1, first).squeeze(1), widths.gather(1, first).squeeze(1)
    place = torch.rand(2, n, generator=source)
    top = (place[0] * (height - h + 1)).long()
    left = (place[1] * (width - w + 1)).long()
    crops = torch.stack((top, left, h, w), 1)
    crops[~fits.any(1)] = torch.tensor(_largest_centred(height, width, ratio))
    return crops


def _largest_centred(height: int, width: int, ratio: tuple[float, float]) -> list[int]:
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return [(height - h) // 2, (width - w) // 2, h, w]


def sample_flips(n: int, source: torch.Generator) -> Tensor:
    """``[n]`` bool, true for one in two."""
    return torch.rand(n, generator=source) < 0.5


def full_boxes(n: int, height: int, width: int) -> Tensor:
    """The boxes ``[n, 4]`` that leave the images as they are."""
    return torch.tensor([0, 0, height, width]).repeat(n, 1)


def crop_per_image(images: Tensor, crops: Tensor, flips: Tensor, side: int) -> Tensor:
    """Crop, resize with antialiasing and flip each image; the faster way on a CPU.

    Args:
        images: ``[N, H, W, 3]`` uint8.
        crops: ``[N, 4]`` int64 of top, left, height, width.
        flips: ``[N]`` bool: mirror left and right.
        side: height and width of the result in pixels.

    Returns:
        ``[N, 3, side, side]`` uint8, channels_last.
    """
    out = torch.empty(len(images), side, side, 3, dtype=torch.uint8)
    for i, ((top, left, height, width), flip) in enumerate(zip(crops.tolist(), flips.tolist(), strict=True)):
        cut = images[i, top : top + height, left : left + width].permute(2, 0, 1)[None]
        if (height, width) != (side, side):
            cut = cut.contiguous(memory_format=torch.channels_last)  # which has a kernel twice as fast
            cut = F.interpolate(cut, (side, side), mode="bilinear", antialias=True, align_corners=False)
        out[i] = (cut.flip(3) if flip else cut)[0].permute(1, 2, 0)
    return out.permute(0, 3, 1, 2)


def crop_batched(
    images: Tensor, crops: Tensor, flips: Tensor, side: int, dtype: torch.dtype = torch.float16
) -> Tensor:
    """The same for the whole batch at once: ``Wy @ X @ Wx^T``, deterministic, on the images' device.

    Args:
        images: ``[N, H, W, 3]`` uint8.
        dtype: of the products; float16 is what tensor cores multiply, exact for pixels, and keeps weights to
            0.0005 of a result, a quarter of a rounding step at most.

    Returns:
        ``[N, 3, side, side]`` of ``dtype`` in 0..255, not rounded, channels_last.
    """
    crops, flips = crops.to(images.device), flips.to(images.device)
    n, height, width, channels = images.shape
    rows = resize_weights(crops[:, 0], crops[:, 2], height, side)
    columns = resize_weights(crops[:, 1], crops[:, 3], width, side)
    columns = torch.where(flips[:, None, None], columns.flip(1), columns)
    # each product takes one matrix an image, all channels and the other axis beside each other
    wide = images.permute(0, 2, 1, 3).to(dtype, memory_format=torch.contiguous_format)
    narrow = columns.to(dtype) @ wide.view(n, width, height * channels)  # [N, side, H * 3]
    tall = narrow.view(n, side, height, channels).permute(0, 2, 1, 3).reshape(n, height, side * channels)
    return (rows.to(dtype) @ tall).view(n, side, side, channels).permute(0, 3, 1, 2)


def resize_weights(start: Tensor, length: Tensor, size: int, side: int) -> Tensor:
    """Weights ``[N, side, size]`` that resize ``size`` pixels' part from ``start`` on to ``side`` pixels.

    A triangle filter as wide as the reduction, so that shrinking does not alias; rows add up to 1. It is
    the antialiased bilinear filter of Pillow and torchvision.
    """
    scale = length.float() / side
    reach = scale.clamp(min=1)[:, None, None]
    centre = start[:, None] + (torch.arange(side, device=start.device) + 0.5) * scale[:, None]  # [N, side]
    pixel = torch.arange(size, device=start.device)
    weight = (1 - (pixel + 0.5 - centre[:, :, None]).abs() / reach).clamp(min=0)
    inside = (pixel >= start[:, None]) & (pixel < (start + length)[:, None])  # [N, size]
    weight = weight * inside[:, None]
    return weight / weight.sum(2, keepdim=True)
