"""Images as a network gets them: what was drawn for each is applied, and they are normalised."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from finegrain.augmentation import color, crop, geometry, sampling
from finegrain.config.training import AugmentParams
from finegrain.core import log

TransformFunction = Callable[[Tensor, Tensor | None, sampling.SampledAugmentation, int, int, Tensor], Tensor]


def transform_images(
    source: Tensor,
    chosen: Tensor | None,
    views: sampling.SampledAugmentation,
    side: int,
    padding: int,
    normal: Tensor,
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
    if source.is_cuda and (at_once := _triton_transform(source.device)):
        return at_once(source, chosen, views, side, padding, normal)
    images = source if chosen is None else source[chosen]
    cut = crop.crop_batched if source.is_cuda else crop.crop_per_image
    return apply_operators(cut(images, views.crops, views.flips, side), views, padding, normal)


@functools.cache
def _triton_transform(device: torch.device) -> TransformFunction | None:
    """``fused.see`` where it gives what the operators give on this GPU; else it is said why not."""
    try:
        from finegrain.augmentation import triton_kernels

        differ = _max_difference(triton_kernels.transform_images, device)
    except Exception as error:  # no triton, no C compiler for it, an old GPU: each says so in its own way
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        if differ < 1:
            return triton_kernels.transform_images
        reason = f"they differ from torch's operators by {differ:.3g} of 255"
    log.info(f"no fused kernels ({reason}): images are prepared operator by operator, more slowly")
    return None


def _max_difference(see: TransformFunction, device: torch.device) -> float:
    """By how much at most, of 255, it differs from the operators on two tiny images, with everything on."""
    everything = AugmentParams(
        crop_scale=(0.3, 1.0), pad_crop_pixels=1, rotate_degrees=20.0, zoom=1.2, perspective=0.2,
        brightness=0.3,
        contrast=0.3, saturation=0.3, hue=0.2, erase_probability=0.5,
    )  # fmt: skip
    images = torch.arange(2 * 16 * 16 * 3).remainder(251).to(torch.uint8).view(2, 16, 16, 3)
    views = sampling.sample_augmentation(2, 16, 16, 16, everything, (0,))
    normal = torch.tensor([[0.0] * 3, [1.0] * 3])
    ours = see(images.to(device), None, views.to(device), 16, 1, normal.to(device)).cpu()
    cut = crop.crop_batched(images, views.crops, views.flips, 16, torch.float32)
    return (ours - apply_operators(cut, views, 1, normal)).abs().max().item()


def apply_operators(
    images: Tensor, views: sampling.SampledAugmentation, padding: int, normal: Tensor
) -> Tensor:
    """Everything after cropping and flipping, and the normalisation, operator by operator.

    Args:
        images: ``[N, 3, side, side]``, uint8 or float in 0..255, cropped and flipped.
        padding: largest displacement of the padding crop in pixels.
        normal: as ``normalisation`` gives it, on the images' device.

    Returns:
        float32, channels_last, on the images' device.
    """
    if views.offsets is not None:
        images = geometry.shift(images, views.offsets, padding, "zeros")
    if views.homographies is not None:
        images = geometry.warp(images.float(), views.homographies)
    factors = (views.brightness, views.contrast, views.saturation, views.hue)
    if any(factor is not None for factor in factors):
        images = color.adjust_color(images.float(), *factors)
    images = normalize(images, normal)
    if views.erasures is not None:
        images = color.erase(images, views.erasures)
    return images.contiguous(memory_format=torch.channels_last)


def normalization_factors(mean: list[float], std: list[float], device: torch.device) -> Tensor:
    """Offset and factor of each colour, ``[2, 3]``, from mean and deviation of values in 0..1."""
    offset = [-m / s for m, s in zip(mean, std, strict=True)]
    return torch.tensor([offset, [1 / (255 * s) for s in std]], device=device)


def normalize(images: Tensor, normal: Tensor) -> Tensor:
    """``[N, 3, H, W]`` in 0..255 to float32 with mean 0 and deviation 1, channels_last."""
    n, channels, height, width = images.shape
    # by rows of pixels: a loop over three channels would be four times slower on a CPU
    rows = images.permute(0, 2, 3, 1).reshape(n, height, width * channels).float()
    offset, factor = (values.repeat(width) for values in normal)
    return torch.addcmul(offset, rows, factor).view(n, height, width, channels).permute(0, 3, 1, 2)
