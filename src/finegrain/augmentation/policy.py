"""TrivialAugment and RandAugment: draw operators for each image, then apply torchvision's to a batch.

Operators, their order, magnitudes and signs are those of ``torchvision.transforms.v2.TrivialAugmentWide`` and
``RandAugment``. Pixels are interpolated bilinearly, as in torchvision's training scripts, and black outside.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from finegrain.config.training import AugmentParams

OPERATORS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
    "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip
"""torchvision's names of the operators, in the order in which ``sample_operators`` numbers them."""
SIGNED = 10
"""The magnitudes of the operators before this number take either sign."""
BINS = 31
"""Magnitudes of an operator, from none to the largest."""


def magnitude_table(kind: str, image_size: int) -> Tensor:
    """Every magnitude of every operator, ``[OPERATORS, BINS]`` float32; 0 where an operator has none.

    Shears are tangents, translations pixels, rotations degrees; colors and sharpness change by the factor
    1 + magnitude; posterize keeps so many bits, and solarize inverts what is above this share of white.

    Args:
        kind: ``trivial_augment_wide`` or ``randaugment``.
        image_size: height and width in pixels.
    """
    wide = kind == "trivial_augment_wide"
    shear, factor, degrees, bits = (0.99, 0.99, 135.0, 6) if wide else (0.3, 0.9, 30.0, 4)
    pixels = 32.0 if wide else 150.0 / 331.0 * image_size
    largest = [0.0, shear, shear, pixels, pixels, degrees, factor, factor, factor, factor]
    table = [torch.linspace(0.0, each, BINS) for each in largest]
    table.append((8 - torch.arange(BINS) / ((BINS - 1) / bits)).round())
    table.append(torch.linspace(1.0, 0.0, BINS))
    return torch.stack((*table, torch.zeros(BINS), torch.zeros(BINS)))


def sample_operators(
    n: int, image_size: int, config: AugmentParams, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Sample the operators of each of ``n`` images and their magnitudes, for ``apply_policy``.

    Returns:
        Numbers of operators, ``[n, K]`` int64, and magnitudes, ``[n, K]`` float32.
    """
    wide = config.policy == "trivial_augment_wide"
    shape = n, 1 if wide else config.randaugment_ops
    operators = torch.randint(len(OPERATORS), shape, generator=generator)
    bins = torch.randint(BINS, shape, generator=generator)
    negative = torch.rand(shape, generator=generator) < 0.5
    if not wide:
        bins = torch.full_like(bins, config.randaugment_magnitude)
    magnitudes = magnitude_table(config.policy, image_size)[operators, bins]
    return operators, torch.where(negative & (operators < SIGNED), -magnitudes, magnitudes)


def apply_policy(images: Tensor, operators: Tensor, magnitudes: Tensor) -> Tensor:
    """Apply its operators to each image, one after another; all images with the same one at once.

    Args:
        images: ``[N, 3, H, W]``, uint8 or float in 0..255, which is rounded.
        operators: ``[N, K]`` int64, on the CPU.
        magnitudes: ``[N, K]`` float32, on the CPU.

    Returns:
        ``[N, 3, H, W]`` uint8, on the images' device.
    """
    if images.is_floating_point():
        images = images.round().clamp(0, 255)
    images = images.to(torch.uint8, copy=True)
    for column in range(operators.shape[1]):
        groups: dict[tuple[int, float], list[int]] = {}
        pairs = zip(operators[:, column].tolist(), magnitudes[:, column].tolist(), strict=True)
        for image, pair in enumerate(pairs):
            groups.setdefault(pair, []).append(image)
        for (number, magnitude), members in groups.items():
            if number:  # 0 is the identity
                # without a tensor of indices: a GPU would make the host wait for its copy
                chosen = torch.stack([images[i] for i in members])
                changed = apply_operator(chosen, OPERATORS[number], magnitude)
                for i, image in zip(members, changed, strict=True):
                    images[i] = image
    return images


def apply_operator(images: Tensor, name: str, magnitude: float) -> Tensor:
    """Apply an operator with the same magnitude to all images, ``[N, 3, H, W]`` uint8."""
    from torchvision.transforms.v2 import functional as F  # slow to import, and few recipes have a policy

    bilinear = F.InterpolationMode.BILINEAR
    plain: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}

    def affine(**changes: Any) -> Tensor:
        return F.affine(images, **plain | changes, interpolation=bilinear)

    angle = math.degrees(math.atan(magnitude))
    functions: dict[str, Callable[[], Tensor]] = {
        "Identity": lambda: images,
        "ShearX": lambda: affine(shear=[angle, 0.0], center=[0, 0]),
        "ShearY": lambda: affine(shear=[0.0, angle], center=[0, 0]),
        "TranslateX": lambda: affine(translate=[int(magnitude), 0]),
        "TranslateY": lambda: affine(translate=[0, int(magnitude)]),
        "Rotate": lambda: F.rotate(images, magnitude, bilinear),
        "Brightness": lambda: F.adjust_brightness(images, 1.0 + magnitude),
        "Color": lambda: F.adjust_saturation(images, 1.0 + magnitude),
        "Contrast": lambda: F.adjust_contrast(images, 1.0 + magnitude),
        "Sharpness": lambda: F.adjust_sharpness(images, 1.0 + magnitude),
        "Posterize": lambda: F.posterize(images, int(magnitude)),
        "Solarize": lambda: F.solarize(images, 255.0 * magnitude),
        "AutoContrast": lambda: F.autocontrast(images),
        "Equalize": lambda: F.equalize(images),
    }
    return functions[name]()
