"""The policies apply torchvision's operators, at every magnitude, and draw them by the key alone."""

from typing import Any

import pytest
import torch
from smooth_noise import smooth_images
from torchvision.transforms import v2

from finegrain.augmentation import crop, policy, sampling, transform
from finegrain.config.training import AugmentParams

KINDS = {"trivial_augment_wide": v2.TrivialAugmentWide, "randaugment": v2.RandAugment}
SIZE = 24
IMAGES = smooth_images(3, SIZE, SIZE).permute(0, 3, 1, 2)
NORMALIZATION = transform.normalization_factors([0.4, 0.5, 0.6], [0.2, 0.3, 0.4], torch.device("cpu"))


def config(kind: str, **more: Any) -> AugmentParams:
    return AugmentParams(crop_scale=(0.5, 1.0), policy=kind, **more)  # type: ignore[arg-type]


def by_torchvision(image: torch.Tensor, name: str, magnitude: float) -> torch.Tensor:
    theirs = v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR)
    return theirs._apply_image_or_video_transform(image, name, magnitude, theirs.interpolation, theirs._fill)


@pytest.mark.parametrize("kind", KINDS)
def test_operators_magnitudes_and_signs_are_torchvision_s(kind):
    space = KINDS[kind]._AUGMENTATION_SPACE
    assert tuple(space) == policy.OPERATORS
    table = policy.magnitude_table(kind, SIZE)
    for number, (name, (magnitudes, signed)) in enumerate(space.items()):
        theirs = magnitudes(policy.BINS, SIZE, SIZE)
        assert torch.equal(table[number], torch.zeros(policy.BINS) if theirs is None else theirs.float())
        assert signed == (0 < number < policy.SIGNED), name
    assert KINDS[kind]().num_magnitude_bins == policy.BINS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", policy.OPERATORS)
def test_every_operator_at_every_magnitude_is_torchvision_s_to_the_bit(kind, name):
    number = policy.OPERATORS.index(name)
    magnitudes = policy.magnitude_table(kind, SIZE)[number].unique()
    if number < policy.SIGNED:
        magnitudes = torch.cat((magnitudes, -magnitudes)).unique()
    for magnitude in magnitudes.tolist():
        ours = policy.apply_operator(IMAGES, name, magnitude)
        slow = torch.stack([by_torchvision(image, name, magnitude) for image in IMAGES])
        assert ours.dtype == torch.uint8 and torch.equal(ours, slow), magnitude


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gets_each_image_s_operators_in_turn(kind):
    images = smooth_images(40, SIZE, SIZE).permute(0, 3, 1, 2)
    images = images.contiguous(memory_format=torch.channels_last)
    before = images.clone()
    sampled = sampling.sample_augmentation(40, 32, 32, SIZE, config(kind, randaugment_ops=3), (0, 1, 2))
    ours = policy.apply_policy(images, sampled.operators, sampled.magnitudes)
    assert torch.equal(images, before)
    for image, numbers, magnitudes, found in zip(
        images, sampled.operators, sampled.magnitudes, ours, strict=True
    ):
        for number, magnitude in zip(numbers.tolist(), magnitudes.tolist(), strict=True):
            image = by_torchvision(image, policy.OPERATORS[number], magnitude)
        assert torch.equal(found, image)


def test_floats_are_rounded_to_pixels_first():
    images, nothing = torch.tensor([-0.4, 0.4, 127.6, 255.4]).view(1, 1, 2, 2).expand(1, 3, 2, 2), [[0]]
    ours = policy.apply_policy(images, torch.tensor(nothing), torch.zeros(1, 1))
    assert ours[0, 0].flatten().tolist() == [0, 0, 128, 255]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn(kind):
    """All operators; all magnitudes of TrivialAugment, and of RandAugment that of the parameter."""
    given = config(kind, randaugment_ops=3, randaugment_magnitude=12)
    operators, magnitudes = policy.sample_operators(20_000, 64, given, torch.Generator().manual_seed(0))
    assert operators.shape == magnitudes.shape == (20_000, 1 if kind == "trivial_augment_wide" else 3)
    shares = operators.flatten().bincount() / operators.numel()
    torch.testing.assert_close(shares, torch.full((14,), 1 / 14), rtol=0, atol=0.01)
    rotate = magnitudes[operators == policy.OPERATORS.index("Rotate")]
    assert (rotate > 0).double().mean().item() == pytest.approx(0.5, abs=0.05)
    expected = torch.linspace(0, 135, 31) if kind == "trivial_augment_wide" else torch.tensor([12.0])
    torch.testing.assert_close(rotate.abs().unique(), expected)
    assert (magnitudes[operators == policy.OPERATORS.index("Solarize")] >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_draw_depends_on_the_key_alone_and_changes_no_other(kind):
    first, again, other = (
        sampling.sample_augmentation(8, 64, 64, 48, config(kind), key)
        for key in [(0, 1, 2), (0, 1, 2), (0, 1, 3)]
    )
    assert torch.equal(first.operators, again.operators) and torch.equal(first.magnitudes, again.magnitudes)
    assert not torch.equal(first.operators, other.operators)
    plain = sampling.sample_augmentation(8, 64, 64, 48, config("none"), (0, 1, 2))
    assert plain.operators is None and torch.equal(plain.crops, first.crops)
    half = first.map(lambda values: values[1::2])
    assert torch.equal(half.operators, first.operators[1::2])


def test_it_comes_after_crop_and_flip_and_before_all_else():
    given = config(
        "randaugment", pad_crop_pixels=2, rotate_degrees=10.0, brightness=0.3, erase_probability=0.5
    )
    images = smooth_images(6, 32, 32)
    sampled = sampling.sample_augmentation(6, 32, 32, SIZE, given, (0, 1, 2))
    ours = transform.transform_images(images, None, sampled, SIZE, NORMALIZATION)
    cropped = crop.crop_per_image(images, sampled.crops, sampled.flips, SIZE)
    changed = policy.apply_policy(cropped, sampled.operators, sampled.magnitudes)
    rest = sampled._replace(operators=None, magnitudes=None)
    assert torch.equal(ours, transform.apply_operators(changed, rest, NORMALIZATION))
    assert not torch.equal(ours, transform.apply_operators(cropped, rest, NORMALIZATION))


class OnGpu(torch.Tensor):
    """A CPU tensor that claims to be on a GPU."""

    is_cuda = True


def test_on_a_gpu_the_operators_do_it_where_the_kernels_do_the_rest(monkeypatch):
    images, given = smooth_images(6, 32, 32), config("trivial_augment_wide")
    monkeypatch.setattr(transform, "_triton_transform", lambda device: pytest.fail)
    sampled = sampling.sample_augmentation(6, 32, 32, SIZE, given, (0, 1, 2))
    moved = sampled.to(torch.device("cpu"))
    assert moved.operators is sampled.operators and moved.magnitudes is sampled.magnitudes
    ours = transform.transform_images(images.as_subclass(OnGpu), None, sampled, SIZE, NORMALIZATION)
    cropped = crop.crop_batched(images, sampled.crops, sampled.flips, SIZE)
    assert torch.equal(
        ours.as_subclass(torch.Tensor), transform.apply_operators(cropped, sampled, NORMALIZATION)
    )
