"""A sampled augmentation depends on its key alone, and each operator has random numbers of its own."""

import torch
from torch import Tensor

from finegrain.augmentation import sampling
from finegrain.config.training import AugmentParams

ALL = AugmentParams(
    crop_scale=(0.5, 1.0), pad_crop_pixels=4, rotate_degrees=10.0, zoom=1.2, perspective=0.1, brightness=0.2,
    contrast=0.2, saturation=0.2, hue=0.1, erase_probability=0.5,
)  # fmt: skip


def sample(config: AugmentParams, *key: int) -> dict[str, Tensor]:
    """The sampled values of each operator that is on."""
    sampled = sampling.sample_augmentation(8, 64, 64, 48, config, key)
    return {name: values for name, values in sampled._asdict().items() if isinstance(values, Tensor)}


def test_a_generator_depends_on_its_key_alone():
    first = torch.rand(3, generator=sampling.make_generator(1, "view", 2, 3))
    assert torch.equal(first, torch.rand(3, generator=sampling.make_generator(1, "view", 2, 3)))
    assert not torch.equal(first, torch.rand(3, generator=sampling.make_generator(1, "view", 3, 2)))


def test_an_augmentation_depends_on_seed_epoch_and_step():
    first, again = sample(ALL, 0, 1, 2), sample(ALL, 0, 1, 2)
    assert len(first) == 9 and all(torch.equal(first[name], again[name]) for name in first)
    for key in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        other = sample(ALL, *key)
        assert not any(torch.equal(first[name], other[name]) for name in first if name != "flips"), key


def test_turning_operators_off_leaves_the_others_unchanged():
    every = sample(ALL, 0, 1, 2)
    few = sample(AugmentParams(crop_scale=(0.5, 1.0), contrast=0.2, erase_probability=0.5), 0, 1, 2)
    assert set(few) == {"crops", "flips", "contrast", "erasures"}
    assert all(torch.equal(values, every[name]) for name, values in few.items())


def test_map_keeps_what_is_off_and_the_padding():
    sampled = sampling.sample_augmentation(8, 64, 64, 48, ALL, (0, 1, 2))
    half = sampled.map(lambda values: values[::2])
    assert half.pad_crop_pixels == 4 and torch.equal(half.offsets, sampled.offsets[::2])
    assert sampling.identity(8, 64, 64).map(lambda values: values[::2]).hue is None
