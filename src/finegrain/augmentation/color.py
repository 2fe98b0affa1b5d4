"""Change colours and erase boxes: draw, then apply to the whole batch on its own device."""

import math

import torch
from torch import Tensor


def sample_factors(n: int, spread: float, probability: float, source: torch.Generator) -> Tensor:
    """``[n]`` float32 factors for ``adjust``, uniform in [1 - spread, 1 + spread], or 1 where not applied."""
    return 1 + sample_hue_shifts(n, spread, probability, source)


def sample_hue_shifts(n: int, spread: float, probability: float, source: torch.Generator) -> Tensor:
    """``[n]`` float32 shifts of the hue in turns, uniform in [-spread, spread], or 0 where not applied."""
    applied, place = torch.rand(2, n, generator=source)
    return (2 * place - 1) * spread * (applied < probability)


def adjust_color(
    images: Tensor,
    brightness: Tensor | None = None,
    contrast: Tensor | None = None,
    saturation: Tensor | None = None,
    hue: Tensor | None = None,
) -> Tensor:
    """Brightness, contrast, saturation and hue, in this order; clamped after each, as torchvision's are.

    Args:
        images: ``[N, 3, H, W]`` float32 in 0..255; the result is alike.
        brightness: ``[N]`` factors: 0 is black, 1 leaves the image as it is.
        contrast: ``[N]`` factors: 0 is the mean of the image in grey, 1 leaves it as it is.
        saturation: ``[N]`` factors: 0 is the image in grey, 1 leaves it as it is.
        hue: ``[N]`` shifts of the HSV hue in turns: 0 leaves the image as it is, 1/3 makes red green.
            None, here and above: left out.
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

    From the hue on, each channel is value - chroma * min(k, 4 - k) clamped to 0..1, where k is the hue in
    sixths of a turn, plus 5, 3 or 1 for red, green or blue, modulo 6 (the piecewise linear form of
    https://en.wikipedia.org/wiki/HSL_and_HSV).
    """
    red, green, blue = images.split(1, 1)
    low, value = torch.aminmax(images, dim=1, keepdim=True)
    chroma = value - low
    by = torch.where(chroma > 0, chroma, 1)  # a grey pixel has no hue: any will do
    sixths = torch.where(
        value == red,
        (green - blue) / by,
        torch.where(value == green, 2 + (blue - red) / by, 4 + (red - green) / by),
    )
    start = torch.arange(5, 0, -2, device=images.device)[:, None, None]
    k = (sixths + 6 * turns + start).remainder(6)  # [N, 3, H, W]
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def sample_erasures(
    n: int,
    height: int,
    width: int,
    probability: float,
    source: torch.Generator,
    scale: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> Tensor:
    """Boxes of random erasing (https://arxiv.org/abs/1708.04896), as torchvision draws them.

    Ten tries an image; where none is smaller than it both ways, nothing is erased. The paper draws the
    shape itself uniformly, we its logarithm, so that upright and lying boxes are equally frequent.

    Args:
        height: of the images in pixels, as ``width``.
        scale: smallest and largest area, as a share of the image.
        ratio: smallest and largest height : width, drawn uniformly in the logarithm.

    Returns:
        ``[n, 4]`` int64: top, left, height, width; the last two are 0 where nothing is erased.
    """
    tries = 10
    area = height * width * torch.empty(n, tries).uniform_(*scale, generator=source)
    shape = torch.exp(
        torch.empty(n, tries).uniform_(math.log(ratio[0]), math.log(ratio[1]), generator=source)
    )
    heights = torch.round(torch.sqrt(area * shape)).long()
    widths = torch.round(torch.sqrt(area / shape)).long()
    fits = (heights < height) & (widths < width)
    first = fits.int().argmax(1, keepdim=True)
    top, left, applied = torch.rand(3, n, generator=source)
    erased = fits.any(1) & (applied < probability)
    h, w = heights.gather(1, first).squeeze(1) * erased, widths.gather(1, first).squeeze(1) * erased
    return torch.stack(((top * (height - h + 1)).long(), (left * (width - w + 1)).long(), h, w), 1)


def erase(images: Tensor, boxes: Tensor, value: float = 0.0) -> Tensor:
    """Fill a box of each image.

    Args:
        images: ``[N, C, H, W]``, any range; the result is alike.
        boxes: ``[N, 4]`` integers: top, left, height, width; on any device.
        value: the filling; after normalisation, 0 is the mean colour.
    """
    boxes = boxes.to(images.device, non_blocking=True)
    rows, columns = (_between(boxes[:, i], boxes[:, i + 2], images.shape[i + 2]) for i in (0, 1))
    # a clone keeps channels_last, masked_fill out of place does not
    return images.clone().masked_fill_(rows[:, None, :, None] & columns[:, None, None], value)


def _between(start: Tensor, length: Tensor, size: int) -> Tensor:
    """``[N, size]`` bool: the ``length`` places from ``start`` on."""
    place = torch.arange(size, device=start.device)
    return (place >= start[:, None]) & (place < (start + length)[:, None])
