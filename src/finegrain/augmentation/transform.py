"""Turn packed images into a network's input: apply a sampled augmentation, and normalize."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from finegrain.augmentation import color, crop, geometry, policy, sampling
from finegrain.config.training import AugmentParams
from finegrain.core import log

TransformFunction = Callable[[Tensor, Tensor | None, sampling.SampledAugmentation, int, Tensor], Tensor]


def transform_images(
    images: Tensor,
    indices: Tensor | None,
    augmentation: sampling.SampledAugmentation,
    image_size: int,
    normalization: Tensor,
) -> Tensor:
    """Crop, resize, augment and normalize a batch, on the images' device.

    Args:
        images: ``[M, H, W, 3]`` uint8; everything else is on their device.
        indices: ``[N]`` int64 indices of the images to transform; None means all images.
        augmentation: what is done to each of the N images.
        image_size: height and width of the result in pixels.
        normalization: from ``normalization_factors``.

    Returns:
        ``[N, 3, image_size, image_size]`` float32, channels_last.
    """
    by_operators = augmentation.operators is not None  # there are no kernels for the policy's
    if images.is_cuda and not by_operators and (by_kernels := _triton_transform(images.device)):
        return by_kernels(images, indices, augmentation, image_size, normalization)
    selected = images if indices is None else images[indices]
    crop_images = crop.crop_batched if images.is_cuda else crop.crop_per_image
    cropped = crop_images(selected, augmentation.crops, augmentation.flips, image_size)
    return apply_operators(cropped, augmentation, normalization)


@functools.cache
def _triton_transform(device: torch.device) -> TransformFunction | None:
    """The kernels' ``transform_images``, or None, with a message, where they do not work on this GPU."""
    try:
        from finegrain.augmentation import triton_kernels

        difference = _max_difference(triton_kernels.transform_images, device)
    except Exception as error:  # no triton, no C compiler for it, an old GPU: each raises its own error
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        if difference < 1:
            return triton_kernels.transform_images
        reason = f"they differ from torch's operators by {difference:.3g} of 255"
    log.info(f"no Triton kernels ({reason}): images are transformed by torch's operators, which is slower")
    return None


def _max_difference(transform: TransformFunction, device: torch.device) -> float:
    """Largest difference, of 255, from the operators on two tiny images with every augmentation on."""
    config = AugmentParams(
        crop_scale=(0.3, 1.0), pad_crop_pixels=1, rotate_degrees=20.0, zoom=1.2, perspective=0.2,
        brightness=0.3, contrast=0.3, saturation=0.3, hue=0.2, erase_probability=0.5,
    )  # fmt: skip
    images = torch.arange(2 * 16 * 16 * 3).remainder(251).to(torch.uint8).view(2, 16, 16, 3)
    augmentation = sampling.sample_augmentation(2, 16, 16, 16, config, (0,))
    identity = torch.tensor([[0.0] * 3, [1.0] * 3])
    ours = transform(images.to(device), None, augmentation.to(device), 16, identity.to(device)).cpu()
    cropped = crop.crop_batched(images, augmentation.crops, augmentation.flips, 16, torch.float32)
    return (ours - apply_operators(cropped, augmentation, identity)).abs().max().item()


def apply_operators(
    images: Tensor, augmentation: sampling.SampledAugmentation, normalization: Tensor
) -> Tensor:
    """Apply everything after cropping and flipping, and normalize, operator by operator.

    Args:
        images: ``[N, 3, S, S]``, uint8 or float in 0..255, cropped and flipped.
        normalization: from ``normalization_factors``, on the images' device.

    Returns:
        ``[N, 3, S, S]`` float32, channels_last, on the images' device.
    """
    if augmentation.operators is not None and augmentation.magnitudes is not None:
        images = policy.apply_policy(images, augmentation.operators, augmentation.magnitudes)
    if augmentation.offsets is not None:
        images = geometry.shift(images, augmentation.offsets, augmentation.pad_crop_pixels, "zeros")
    if augmentation.homographies is not None:
        images = geometry.warp(images.float(), augmentation.homographies)
    factors = (augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue)
    if any(factor is not None for factor in factors):
        images = color.adjust_color(images.float(), *factors)
    images = normalize(images, normalization)
    if augmentation.erasures is not None:
        images = color.erase(images, augmentation.erasures)
    return images.contiguous(memory_format=torch.channels_last)


def normalization_factors(mean: list[float], std: list[float], device: torch.device) -> Tensor:
    """Offset and factor of each channel, ``[2, 3]``, from mean and standard deviation of values in 0..1."""
    offset = [-m / s for m, s in zip(mean, std, strict=True)]
    return torch.tensor([offset, [1 / (255 * s) for s in std]], device=device)


def normalize(images: Tensor, normalization: Tensor) -> Tensor:
    """``[N, 3, H, W]`` in 0..255 to float32 with mean 0 and standard deviation 1, channels_last."""
    n, channels, height, width = images.shape
    # by rows of pixels: a loop over three channels would be four times slower on a CPU
    rows = images.permute(0, 2, 3, 1).reshape(n, height, width * channels).float()
    offset, factor = (values.repeat(width) for values in normalization)
    return torch.addcmul(offset, rows, factor).view(n, height, width, channels).permute(0, 3, 1, 2)
