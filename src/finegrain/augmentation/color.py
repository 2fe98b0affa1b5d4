"""Color augmentation and random erasing: sample values, then apply them to a batch on its own device."""

import torch
from torch import Tensor

from finegrain.augmentation import crop


def sample_factors(n: int, spread: float, probability: float, generator: torch.Generator) -> Tensor:
    """``[n]`` float32 factors for ``adjust_color``, uniform in 1 ± spread, or 1 if not applied."""
    return 1 + sample_hue_shifts(n, spread, probability, generator)


def sample_hue_shifts(n: int, spread: float, probability: float, generator: torch.Generator) -> Tensor:
    """``[n]`` float32 shifts of the hue in turns, uniform in ± spread, or 0 if not applied."""
    applied, position = torch.rand(2, n, generator=generator)
    return (2 * position - 1) * spread * (applied < probability)


def adjust_color(
    images: Tensor,
    brightness: Tensor | None = None,
    contrast: Tensor | None = None,
    saturation: Tensor | None = None,
    hue: Tensor | None = None,
) -> Tensor:
    """Adjust brightness, contrast, saturation and hue, in this order; clamped after each, as in torchvision.

    Args:
        images: ``[N, 3, H, W]`` float32 in 0..255, like the result.
        brightness: ``[N]`` factors: 0 is black, 1 leaves the image as it is. None, here and below, means
            that the adjustment is off.
        contrast: ``[N]`` factors: 0 is the mean luma of the image, 1 leaves it as it is.
        saturation: ``[N]`` factors: 0 is the grayscale image, 1 leaves it as it is.
        hue: ``[N]`` shifts of the HSV hue in turns: 0 leaves the image as it is, 1/3 makes red green.
    """
    if brightness is not None:
        images = (images * _broadcast(brightness, images)).clamp(0, 255)
    if contrast is not None:
        mean = to_grayscale(images).mean((2, 3), keepdim=True)
        images = torch.lerp(mean, images, _broadcast(contrast, images)).clamp(0, 255)
    if saturation is not None:
        images = torch.lerp(to_grayscale(images), images, _broadcast(saturation, images)).clamp(0, 255)
    if hue is not None:
        images = _shift_hue(images, _broadcast(hue, images)).clamp(0, 255)
    return images


def _broadcast(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.dtype).to(images.device, non_blocking=True)[:, None, None, None]


def to_grayscale(images: Tensor) -> Tensor:
    """``[N, 3, H, W]`` to ``[N, 1, H, W]`` luma, ITU-R BT.601 as torchvision rounds it (sum 0.9999)."""
    red, green, blue = images.split(1, 1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Add ``turns`` to the hue of HSV; value and chroma stay, so that no saturation is needed.

    From the new hue, each channel is value - chroma * min(k, 4 - k) clamped to 0..1, where k is the hue in
    sixths of a turn, plus 5, 3 or 1 for red, green or blue, modulo 6 (the piecewise linear form of
    https://en.wikipedia.org/wiki/HSL_and_HSV).
    """
    red, green, blue = images.split(1, 1)
    low, value = torch.aminmax(images, dim=1, keepdim=True)
    chroma = value - low
    divisor = torch.where(chroma > 0, chroma, 1)  # a gray pixel has no hue, and its chroma of 0 hides it
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    start = torch.arange(5, 0, -2, device=images.device)[:, None, None]
    k = (sixths + 6 * turns + start).remainder(6)  # [N, 3, H, W]
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def sample_erasures(
    n: int,
    height: int,
    width: int,
    probability: float,
    generator: torch.Generator,
    scale: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> Tensor:
    """Boxes of random erasing (https://arxiv.org/abs/1708.04896), as torchvision draws them.

    Where none of ten boxes is smaller than the image both ways, nothing is erased. The paper draws the ratio
    uniformly, we its logarithm, so that tall and wide boxes are equally frequent.

    Args:
        height: height of the images in pixels, like ``width``.
        scale: smallest and largest area, as a share of the image.
        ratio: smallest and largest height : width, drawn uniformly in the logarithm.

    Returns:
        ``[n, 4]`` int64: top, left, height, width; the last two are 0 where nothing is erased.
    """
    heights, widths = crop.sample_sizes(n, height * width, scale, ratio, generator)
    fits = (heights < height) & (widths < width)
    top, left, applied = torch.rand(3, n, generator=generator)
    erased = fits.any(1) & (applied < probability)
    h, w = crop.first_fitting(heights, fits) * erased, crop.first_fitting(widths, fits) * erased
    return torch.stack(((top * (height - h + 1)).long(), (left * (width - w + 1)).long(), h, w), 1)


def erase(images: Tensor, boxes: Tensor, value: float = 0.0) -> Tensor:
    """Fill a box of each image with a constant.

    Args:
        images: ``[N, C, H, W]``, any range, like the result.
        boxes: ``[N, 4]`` integers: top, left, height, width; on any device.
        value: the constant; after normalization, 0 is the mean color.
    """
    boxes = boxes.to(images.device, non_blocking=True)
    rows, columns = (_between(boxes[:, i], boxes[:, i + 2], images.shape[i + 2]) for i in (0, 1))
    # a clone keeps channels_last, masked_fill out of place does not
    return images.clone().masked_fill_(rows[:, None, :, None] & columns[:, None, None], value)


def _between(start: Tensor, length: Tensor, size: int) -> Tensor:
    """``[N, size]`` bool: the ``length`` positions from ``start`` on."""
    position = torch.arange(size, device=start.device)
    return (position >= start[:, None]) & (position < (start + length)[:, None])
