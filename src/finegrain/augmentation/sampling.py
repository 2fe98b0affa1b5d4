"""Sample the augmentation of a batch, image by image; ``transform`` applies it as a pure function.

Every draw depends on the seed, the epoch and the step alone, and each operator has a generator of its own:
turning one off leaves the draws of the others unchanged, and a resumed run needs no generator's state.
"""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from finegrain.augmentation import color, crop, geometry, policy
from finegrain.config.training import AugmentParams
from finegrain.runtime import devices


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed that depends on nothing but its key, such as (seed, "crop", epoch, step)."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1


def make_generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded with ``derive_seed(*key)``."""
    return torch.Generator().manual_seed(derive_seed(*key))


class SampledAugmentation(NamedTuple):
    """What is done to each of N images, in the order of the fields; None means that the operator is off.

    A named tuple, because that is what a Triton kernel takes as a single argument.
    """

    crops: Tensor
    """``[N, 4]`` int64: top, left, height, width of the box that is resized."""
    flips: Tensor
    """``[N]`` bool: flip horizontally."""
    operators: Tensor | None = None
    """``[N, K]`` int64, of the policy: which of ``policy.OPERATORS`` are applied, one after another."""
    magnitudes: Tensor | None = None
    """``[N, K]`` float32: how much of each of them, in its own unit."""
    offsets: Tensor | None = None
    """``[N, 2]`` int64: row and column of the padding crop, 0 to twice ``pad_crop_pixels``."""
    pad_crop_pixels: int = 0
    homographies: Tensor | None = None
    """``[N, 3, 3]`` float64, as in ``geometry``."""
    brightness: Tensor | None = None
    """``[N]`` float32 factors, like ``contrast`` and ``saturation``."""
    contrast: Tensor | None = None
    saturation: Tensor | None = None
    hue: Tensor | None = None
    """``[N]`` float32 shifts in turns."""
    erasures: Tensor | None = None
    """``[N, 4]`` int64: top, left, height, width of the erased box; height 0 erases nothing."""

    def to(self, device: torch.device) -> "SampledAugmentation":
        """A copy on the device; the host does not wait for it, and keeps what it chooses operators by."""
        moved = self.map(lambda values: devices.copy_to_device(values, device))
        return moved._replace(operators=self.operators, magnitudes=self.magnitudes)

    def map(self, function: Callable[[Tensor], Tensor]) -> "SampledAugmentation":
        """A copy with ``function`` applied to each operator's values ``[N, ...]``."""
        sampled = self._asdict().items()
        mapped: dict[str, Any] = {name: function(v) for name, v in sampled if isinstance(v, Tensor)}
        return self._replace(**mapped)


def identity(n: int, height: int, width: int) -> SampledAugmentation:
    """The augmentation that leaves ``n`` images of ``height`` x ``width`` as they are."""
    return SampledAugmentation(crop.full_boxes(n, height, width), torch.zeros(n, dtype=torch.bool))


def sample_augmentation(
    n: int, height: int, width: int, image_size: int, config: AugmentParams, key: tuple[int | str, ...]
) -> SampledAugmentation:
    """Sample the augmentation of ``n`` images of ``height`` x ``width`` that are resized to ``image_size``.

    Args:
        key: such as (seed, epoch, step): the same key gives the same augmentation.
    """
    seed, *rest = key

    def generator(operator: str) -> torch.Generator:
        return make_generator(seed, operator, *rest)

    def factors(name: str) -> Tensor | None:
        spread, probability = getattr(config, name), config.color_probability
        return color.sample_factors(n, spread, probability, generator(name)) if spread else None

    box_generator = generator("view")
    crops = crop.sample_crops(n, height, width, config.crop_scale, config.crop_ratio, box_generator)
    flips = crop.sample_flips(n, box_generator) & config.flip
    operators = magnitudes = offsets = homographies = hue = erasures = None
    if config.policy != "none":
        operators, magnitudes = policy.sample_operators(n, image_size, config, generator("policy"))
    if config.pad_crop_pixels:
        offsets = geometry.sample_offsets(n, config.pad_crop_pixels, generator("shift"))
    if config.rotate_degrees > 0 or config.zoom > 1 or config.perspective > 0:
        largest = config.rotate_degrees, config.zoom, config.perspective
        homographies = geometry.sample_homographies(n, *largest, config.warp_probability, generator("warp"))
    if config.hue:
        hue = color.sample_hue_shifts(n, config.hue, config.color_probability, generator("hue"))
    if config.erase_probability:
        erasures = color.sample_erasures(
            n, image_size, image_size, config.erase_probability, generator("erase")
        )
    return SampledAugmentation(
        crops,
        flips,
        operators,
        magnitudes,
        offsets,
        config.pad_crop_pixels,
        homographies,
        factors("brightness"),
        factors("contrast"),
        factors("saturation"),
        hue,
        erasures,
    )
