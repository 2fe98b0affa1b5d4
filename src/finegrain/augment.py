"""Draw what happens to a batch, image by image; applying it is a pure function (look.py).

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
