"""Draw, then apply: what happens to a batch is drawn from generators, applying it is a pure function.

Every draw depends on the seed, the epoch and the step alone, and each operator has a generator of its own:
turning one off leaves the others as they were, and a resumed run needs no generator's state.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from finegrain import colour, crop, runtime, warp
from finegrain.recipe import Augment

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def seed_of(*key: int | str) -> int:
    """A 63-bit number that depends on nothing but its key, such as (seed, "crop", epoch, step)."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator started from ``seed_of(*key)``."""
    return torch.Generator().manual_seed(seed_of(*key))


@dataclass(frozen=True)
class Views:
    """How each image of a batch is seen: None where an operator is off."""

    crops: Tensor
    flips: Tensor
    offsets: Tensor | None = None
    homographies: Tensor | None = None
    brightness: Tensor | None = None
    contrast: Tensor | None = None
    saturation: Tensor | None = None
    hue: Tensor | None = None
    erasures: Tensor | None = None

    def to(self, device: torch.device) -> "Views":
        """A copy on the device; the host does not wait for it."""
        return self.each(lambda values: runtime.upload(values, device))

    def each(self, function: Callable[[Tensor], Tensor]) -> "Views":
        """A copy with the function of every operator's values ``[N, ...]``."""
        known = {name: values for name, values in vars(self).items() if values is not None}
        return Views(**{name: function(values) for name, values in known.items()})


def whole(n: int, height: int, width: int) -> Views:
    """Every image as it is."""
    return Views(crop.whole(n, height, width), torch.zeros(n, dtype=torch.bool))


def draw(n: int, height: int, width: int, side: int, config: Augment, key: tuple[int | str, ...]) -> Views:
    """Random views of ``n`` images of ``height`` x ``width``, to be seen at ``side`` x ``side``.

    Args:
        key: such as (seed, epoch, step): the same key gives the same views.
    """
    seed, *rest = key
    source = generator(seed, "view", *rest)
    crops = crop.draw_crops(n, height, width, config.crop_scale, config.crop_ratio, source)
    flips = crop.draw_flips(n, source) & config.flip

    def of(operator: str) -> torch.Generator:
        return generator(seed, operator, *rest)

    def factors(name: str) -> Tensor | None:
        spread, probability = getattr(config, name), config.colour_probability
        return colour.draw_factors(n, spread, probability, of(name)) if spread else None

    warped = config.rotate_degrees > 0 or config.zoom > 1 or config.tilt > 0
    return Views(
        crops,
        flips,
        warp.draw_offsets(n, config.pad_crop_pixels, of("shift")) if config.pad_crop_pixels else None,
        warp.draw_homographies(
            n, config.rotate_degrees, config.zoom, config.tilt, config.warp_probability, of("warp")
        )
        if warped
        else None,
        factors("brightness"),
        factors("contrast"),
        factors("saturation"),
        colour.draw_hues(n, config.hue, config.colour_probability, of("hue")) if config.hue else None,
        colour.draw_erasures(n, side, side, config.erase_probability, of("erase"))
        if config.erase_probability
        else None,
    )


def apply(images: Tensor, views: Views, padding: int, normal: tuple[Tensor, Tensor]) -> Tensor:
    """Everything after cropping and flipping, and the normalisation.

    Args:
        images: ``[N, 3, side, side]``, uint8 or float32 in 0..255, cropped and flipped.
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


def normalisation(mean: list[float], std: list[float], device: torch.device) -> tuple[Tensor, Tensor]:
    """Offset and factor ``[3]`` that ``normalise`` takes, from mean and deviation of values in 0..1."""
    offset = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    factor = torch.tensor([1 / (255 * s) for s in std], device=device)
    return offset, factor


def normalise(images: Tensor, normal: tuple[Tensor, Tensor]) -> Tensor:
    """``[N, 3, H, W]`` in 0..255 to float32 with mean 0 and deviation 1, channels_last."""
    n, channels, height, width = images.shape
    # by rows of pixels: a loop over three channels would be four times slower on a CPU
    rows = images.permute(0, 2, 3, 1).reshape(n, height, width * channels).float()
    offset, factor = (values.repeat(width) for values in normal)
    return torch.addcmul(offset, rows, factor).view(n, height, width, channels).permute(0, 3, 1, 2)


def mixer(config: Augment, classes: int) -> Mix | None:
    """Images and class ids to blended images and class probabilities ``[N, classes]``; None if both are off.

    MixUp (https://arxiv.org/abs/1710.09412) and CutMix (https://arxiv.org/abs/1905.04899) of torchvision;
    they draw from torch's global generator, which the training loop seeds at every step.
    """
    if not (config.mixup_alpha or config.cutmix_alpha):
        return None
    from torchvision.transforms import v2  # half a second that most runs need not pay

    choices = []
    if config.mixup_alpha:
        choices.append(v2.MixUp(alpha=config.mixup_alpha, num_classes=classes))
    if config.cutmix_alpha:
        choices.append(v2.CutMix(alpha=config.cutmix_alpha, num_classes=classes))
    return choices[0] if len(choices) == 1 else v2.RandomChoice(choices)
