"""Images as a network gets them: what was drawn for each is applied, and they are normalised."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from finegrain import augment, colour, crop, record, warp

See = Callable[[Tensor, Tensor | None, augment.Views, int, int, Tensor], Tensor]


def see(
    source: Tensor, chosen: Tensor | None, views: augment.Views, side: int, padding: int, normal: Tensor
) -> Tensor:
    """Images as a network gets them: cropped and resized, augmented, normalised.

    Args:
        source: ``[M, H, W, 3]`` uint8; everything is on its device.
        chosen: ``[N]`` int64 indices of those to see; None: all.
        views: of the N images.
        side: height and width of the result in pixels.
        padding: largest displacement of the padding crop in pixels.
        normal: as ``normalisation`` gives it.

    Returns:
        ``[N, 3, side, side]`` float32, channels_last.
    """
    if source.is_cuda and (at_once := _fused(source.device)):
        return at_once(source, chosen, views, side, padding, normal)
    images = source if chosen is None else source[chosen]
    cut = crop.crop_by_matrices if source.is_cuda else crop.crop_one_by_one
    return apply(cut(images, views.crops, views.flips, side), views, padding, normal)


@functools.cache
def _fused(device: torch.device) -> See | None:
    """``fused.see`` where it works on this GPU, tried on a tiny image; else it is said why not."""
    try:
        from finegrain import fused

        normal = torch.zeros(2, 3, device=device)
        tiny = torch.zeros(1, 2, 2, 3, dtype=torch.uint8, device=device)
        fused.see(tiny, None, augment.whole(1, 2, 2).to(device), 2, 0, normal)
    except Exception as error:  # no triton, no C compiler for it, an old GPU: each says so in its own way
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        record.say(f"no fused kernels ({reason}): images are prepared operator by operator, more slowly")
        return None
    return fused.see


def apply(images: Tensor, views: augment.Views, padding: int, normal: Tensor) -> Tensor:
    """Everything after cropping and flipping, and the normalisation, operator by operator.

    Args:
        images: ``[N, 3, side, side]``, uint8 or float in 0..255, cropped and flipped.
        padding: largest displacement of the padding crop in pixels.
        normal: as ``normalisation`` gives it, on the images' device.

    Returns:
        float32, channels_last, on the images' device.
    """
    if views.offsets is not None:
        images = warp.shift(images, views.offsets, padding, "zeros")
    if views.homographies is not None:
        images = warp.warp(images.float(), views.homographies)
    factors = (views.brightness, views.contrast, views.saturation, views.hue)
    if any(factor is not None for factor in factors):
        images = colour.adjust(images.float(), *factors)
    images = normalise(images, normal)
    if views.erasures is not None:
        images = colour.erase(images, views.erasures)
    return images.contiguous(memory_format=torch.channels_last)


def normalisation(mean: list[float], std: list[float], device: torch.device) -> Tensor:
    """Offset and factor of each colour, ``[2, 3]``, from mean and deviation of values in 0..1."""
    offset = [-m / s for m, s in zip(mean, std, strict=True)]
    return torch.tensor([offset, [1 / (255 * s) for s in std]], device=device)


def normalise(images: Tensor, normal: Tensor) -> Tensor:
    """``[N, 3, H, W]`` in 0..255 to float32 with mean 0 and deviation 1, channels_last."""
    n, channels, height, width = images.shape
    # by rows of pixels: a loop over three channels would be four times slower on a CPU
    rows = images.permute(0, 2, 3, 1).reshape(n, height, width * channels).float()
    offset, factor = (values.repeat(width) for values in normal)
    return torch.addcmul(offset, rows, factor).view(n, height, width, channels).permute(0, 3, 1, 2)
