"""Boxes are sampled as torchvision samples them, and both ways to crop equal its antialiased resize."""

import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from smooth_noise import smooth_images
from torchvision.transforms import v2

from finegrain.augmentation import crop, sampling

SCALE, RATIO = (0.08, 1.0), (0.75, 4 / 3)


def draw(n: int, height: int = 48, width: int = 40, seed: int = 0) -> torch.Tensor:
    return crop.sample_crops(n, height, width, SCALE, RATIO, sampling.make_generator(seed, "test"))


def test_crops_lie_inside_with_the_area_and_ratio_of_the_parameters():
    top, left, height, width = draw(2000, 480, 400).T
    assert (
        (top >= 0).all() and (left >= 0).all() and (top + height <= 480).all() and (left + width <= 400).all()
    )
    area = height * width / (480 * 400)
    assert area.min() > 0.07 and area.max() <= 1.0
    ratio = width / height
    assert ratio.min() > 0.73 and ratio.max() < 1.37


def test_crops_are_distributed_as_torchvision_s():
    ours = draw(4000, 480, 400).double()
    torch.manual_seed(0)
    image = torch.zeros(3, 480, 400)
    theirs = torch.tensor([list(_torchvision_box(image)) for _ in range(4000)]).double()
    # standard error of a mean of 4,000 boxes with a standard deviation of ~110 px is 1.7 px
    assert torch.allclose(ours.mean(0), theirs.mean(0), atol=8)
    assert torch.allclose(ours.std(0), theirs.std(0), atol=8)


def _torchvision_box(image: torch.Tensor) -> tuple[int, int, int, int]:
    drawn = v2.RandomResizedCrop(32, SCALE, RATIO).make_params([image])
    return drawn["top"], drawn["left"], drawn["height"], drawn["width"]


def test_an_image_too_long_for_every_ratio_is_cropped_to_its_largest_centered_box():
    crops = crop.sample_crops(3, 100, 1000, (0.9, 1.0), RATIO, sampling.make_generator(0))
    assert crops.tolist() == [[0, (1000 - 133) // 2, 100, 133]] * 3


def test_one_image_in_two_is_flipped():
    assert 0.45 < crop.sample_flips(4000, sampling.make_generator(0)).float().mean() < 0.55


@pytest.mark.parametrize("image_size", [16, 32, 64])
def test_both_ways_equal_torchvision_s_antialiased_resize(image_size):
    images, crops = smooth_images(), draw(6)
    flips = torch.tensor([True, False] * 3)
    expected = []
    for image, (top, left, height, width), flip in zip(images, crops.tolist(), flips, strict=True):
        cut = image.permute(2, 0, 1)[:, top : top + height, left : left + width].float()
        cut = tvf.resize(cut, [image_size, image_size], antialias=True)
        expected.append(cut.flip(2) if flip else cut)
    exact = crop.crop_batched(images, crops, flips, image_size, torch.float32)
    assert torch.allclose(exact, torch.stack(expected), atol=1e-4 * 255)
    assert exact.is_contiguous(memory_format=torch.channels_last)
    halves = crop.crop_batched(images, crops, flips, image_size)
    assert halves.dtype == torch.float16
    assert (halves.float() - exact).abs().max() < 0.25  # of 255: half a rounding step
    per_image = crop.crop_per_image(images, crops, flips, image_size)
    assert per_image.dtype == torch.uint8
    assert (per_image.float() - exact).abs().max() <= 1.01  # 8-bit rounding, of rows and of columns


def test_full_boxes_of_the_same_size_leave_an_image_unchanged():
    images = smooth_images(3, 32, 32)
    flips = torch.zeros(3, dtype=torch.bool)
    same = crop.crop_per_image(images, crop.full_boxes(3, 32, 32), flips, 32)
    assert torch.equal(same, images.permute(0, 3, 1, 2))
