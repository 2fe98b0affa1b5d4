"""What is drawn depends on its key alone, and applying it is each operator in turn."""

import pytest
import torch
import torchvision.transforms.v2.functional as tvf

from finegrain import augment, colour, warp
from finegrain.recipe import Augment

ALL = Augment(
    crop_scale=(0.5, 1.0), pad_crop_pixels=4, rotate_degrees=10.0, zoom=1.2, tilt=0.1, brightness=0.2,
    contrast=0.2, saturation=0.2, hue=0.1, erase_probability=0.5,
)  # fmt: skip
NORMAL = augment.normalisation([0.4, 0.5, 0.6], [0.2, 0.3, 0.4], torch.device("cpu"))


def photos(n: int = 6, height: int = 48, width: int = 40) -> torch.Tensor:
    """Smooth noise ``[n, height, width, 3]`` uint8."""
    noise = torch.rand(n, 3, 12, 10, generator=torch.Generator().manual_seed(0)) * 255
    big = torch.nn.functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 255)
    return big.permute(0, 2, 3, 1).contiguous().to(torch.uint8)


def test_a_generator_depends_on_its_key_alone():
    first = torch.rand(3, generator=augment.generator(1, "view", 2, 3))
    assert torch.equal(first, torch.rand(3, generator=augment.generator(1, "view", 2, 3)))
    assert not torch.equal(first, torch.rand(3, generator=augment.generator(1, "view", 3, 2)))


def fields(views: augment.Views) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(views).items() if value is not None}


def test_views_are_a_function_of_seed_epoch_and_step():
    first, again = (fields(augment.draw(8, 64, 64, 48, ALL, (0, 1, 2))) for _ in range(2))
    assert len(first) == 9 and all(torch.equal(first[name], again[name]) for name in first)
    for key in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        other = fields(augment.draw(8, 64, 64, 48, ALL, key))
        assert not any(torch.equal(first[name], other[name]) for name in first if name != "flips"), key


def test_turning_operators_off_leaves_the_others_as_they_were():
    whole = fields(augment.draw(8, 64, 64, 48, ALL, (0, 1, 2)))
    some = Augment(crop_scale=(0.5, 1.0), contrast=0.2, erase_probability=0.5)
    fewer = fields(augment.draw(8, 64, 64, 48, some, (0, 1, 2)))
    assert set(fewer) == {"crops", "flips", "contrast", "erasures"}
    assert all(torch.equal(value, whole[name]) for name, value in fewer.items())


def test_apply_is_every_operator_in_turn():
    images = photos(8, 48, 48).permute(0, 3, 1, 2)
    views = augment.draw(8, 64, 64, 48, ALL, (0, 1, 2))
    slow = warp.shift(images, views.offsets, 4).float()
    slow = warp.warp(slow, views.homographies)
    slow = colour.adjust(slow, views.brightness, views.contrast, views.saturation, views.hue)
    slow = tvf.normalize(slow / 255, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    slow = colour.erase(slow, views.erasures)
    ours = augment.apply(images, views, 4, NORMAL)
    assert torch.allclose(ours, slow, atol=1e-4)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_normalise_is_subtract_and_divide():
    images = photos().permute(0, 3, 1, 2)
    slow = tvf.normalize(images.float() / 255, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    assert torch.allclose(augment.normalise(images, NORMAL), slow, atol=1e-6)


@pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
def test_mixing_blends_images_and_labels_by_the_same_share(kind):
    mix = augment.mixer(Augment(crop_scale=(1.0, 1.0), **{kind: 1.0}), classes=3)
    images = torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1).expand(3, 3, 16, 16).contiguous()
    shares = []
    for seed in range(20):
        torch.manual_seed(seed)
        mixed, labels = mix(images, torch.tensor([0, 1, 2]))
        assert torch.allclose(labels.sum(1), torch.ones(3))
        # image i has the value i: the mean of the pixels is that of the labels
        assert torch.allclose(mixed.mean((1, 2, 3)), labels @ torch.tensor([0.0, 1.0, 2.0]), atol=1e-5)
        shares.append(labels.max(1).values.min().item())
    assert min(shares) < 0.9 and len(set(shares)) > 10


def test_with_both_each_batch_gets_one_of_them_and_without_nothing_is_mixed():
    both = augment.mixer(Augment(crop_scale=(1.0, 1.0), mixup_alpha=1.0, cutmix_alpha=1.0), classes=2)
    images = torch.stack((torch.zeros(3, 16, 16), torch.ones(3, 16, 16)))
    values = []
    for seed in range(30):
        torch.manual_seed(seed)
        mixed, _ = both(images, torch.tensor([0, 1]))
        values.append(len(mixed[0].unique()))
    assert {1, 2} <= set(values)  # one value: blended; two: a box pasted in
    assert augment.mixer(Augment(crop_scale=(1.0, 1.0)), classes=2) is None
