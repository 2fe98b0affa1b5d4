"""Draw what happens to a batch, image by image; applying it is a pure function (look.py).

Every draw depends on the seed, the epoch and the step alone, and each operator has a generator of its own:
turning one off leaves the others as they were, and a resumed run needs no generator's state.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from finegrain.augmentation import color, crop, geometry
from finegrain.config.training import AugmentParams
from finegrain.runtime import devices


def derive_seed(*key: int | str) -> int:
    """A 63-bit number that depends on nothing but its key, such as (seed, "crop", epoch, step)."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1


def make_generator(*key: int | str) -> torch.Generator:
    """A CPU generator started from ``seed_of(*key)``."""
    return torch.Generator().manual_seed(derive_seed(*key))


@dataclass(frozen=True)
class SampledAugmentation:
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

    def to(self, device: torch.device) -> "SampledAugmentation":
        """A copy on the device; the host does not wait for it."""
        return self.each(lambda values: devices.copy_to_device(values, device))

    def each(self, function: Callable[[Tensor], Tensor]) -> "SampledAugmentation":
        """A copy with the function of every operator's values ``[N, ...]``."""
        known = {name: values for name, values in vars(self).items() if values is not None}
        return SampledAugmentation(**{name: function(values) for name, values in known.items()})


def identity(n: int, height: int, width: int) -> SampledAugmentation:
    """Every image as it is."""
    return SampledAugmentation(crop.full_boxes(n, height, width), torch.zeros(n, dtype=torch.bool))


def sample_augmentation(
    n: int, height: int, width: int, side: int, config: AugmentParams, key: tuple[int | str, ...]
) -> SampledAugmentation:
    """Random views of ``n`` images of ``height`` x ``width``, to be seen at ``side`` x ``side``.

    Args:
        key: such as (seed, epoch, step): the same key gives the same views.
    """
    seed, *rest = key
    source = make_generator(seed, "view", *rest)
    crops = crop.sample_crops(n, height, width, config.crop_scale, config.crop_ratio, source)
    flips = crop.sample_flips(n, source) & config.flip

    def of(operator: str) -> torch.Generator:
        return make_generator(seed, operator, *rest)

    def factors(name: str) -> Tensor | None:
        spread, probability = getattr(config, name), config.color_probability
        return color.sample_factors(n, spread, probability, of(name)) if spread else None

    warped = config.rotate_degrees > 0 or config.zoom > 1 or config.perspective > 0
    return SampledAugmentation(
        crops,
        flips,
        geometry.sample_offsets(n, config.pad_crop_pixels, of("shift")) if config.pad_crop_pixels else None,
        geometry.sample_homographies(
            n, config.rotate_degrees, config.zoom, config.perspective, config.warp_probability, of("warp")
        )
        if warped
        else None,
        factors("brightness"),
        factors("contrast"),
        factors("saturation"),
        color.sample_hue_shifts(n, config.hue, config.color_probability, of("hue")) if config.hue else None,
        color.sample_erasures(n, side, side, config.erase_probability, of("erase"))
        if config.erase_probability
        else None,
    )
