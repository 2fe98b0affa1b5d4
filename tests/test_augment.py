"""Boxes are drawn as torchvision draws them, and both ways to cut them out equal torchvision's resize."""

import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from torchvision.transforms import v2

from finegrain import augment

SCALE, RATIO = (0.08, 1.0), (0.75, 4 / 3)


def photos(n: int = 6, height: int = 48, width: int = 40) -> torch.Tensor:
    """Smooth noise ``[n, height, width, 3]`` uint8."""
    noise = torch.rand(n, 3, 12, 10, generator=torch.Generator().manual_seed(0)) * 255
    big = torch.nn.functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 255)
    return big.permute(0, 2, 3, 1).contiguous().to(torch.uint8)


def draw(n: int, height: int = 48, width: int = 40, seed: int = 0) -> torch.Tensor:
    return augment.draw_crops(n, height, width, SCALE, RATIO, augment.generator(seed, "test"))


def test_a_generator_depends_on_its_key_alone():
    first = torch.rand(3, generator=augment.generator(1, "view", 2, 3))
    assert torch.equal(first, torch.rand(3, generator=augment.generator(1, "view", 2, 3)))
    assert not torch.equal(first, torch.rand(3, generator=augment.generator(1, "view", 3, 2)))


def test_crops_lie_inside_with_the_area_and_shape_asked_for():
    top, left, height, width = draw(2000, 480, 400).T
    assert (
        (top >= 0).all() and (left >= 0).all() and (top + height <= 480).all() and (left + width <= 400).all()
    )
    area = height * width / (480 * 400)
    assert area.min() > 0.07 and area.max() <= 1.0
    shape = width / height
    assert shape.min() > 0.73 and shape.max() < 1.37


def test_crops_are_distributed_as_torchvision_s():
    ours = draw(4000, 480, 400).double()
    torch.manual_seed(0)
    image = torch.zeros(3, 480, 400)
    theirs = torch.tensor([list(_torchvision_box(image)) for _ in range(4000)]).double()
    # standard error of a mean of 4,000 boxes of deviation ~110 px is 1.7 px
    assert torch.allclose(ours.mean(0), theirs.mean(0), atol=8)
    assert torch.allclose(ours.std(0), theirs.std(0), atol=8)


def _torchvision_box(image: torch.Tensor) -> tuple[int, int, int, int]:
    drawn = v2.RandomResizedCrop(32, SCALE, RATIO).make_params([image])
    return drawn["top"], drawn["left"], drawn["height"], drawn["width"]


def test_an_image_too_long_for_every_shape_is_cut_to_its_largest_centred_box():
    crops = augment.draw_crops(3, 100, 1000, (0.9, 1.0), RATIO, augment.generator(0))
    assert crops.tolist() == [[0, (1000 - 133) // 2, 100, 133]] * 3


def test_flips_come_for_one_in_two():
    assert 0.45 < augment.draw_flips(4000, augment.generator(0)).float().mean() < 0.55


@pytest.mark.parametrize("side", [16, 32, 64])
def test_both_ways_equal_torchvision_s_antialiased_resize(side):
    images, crops = photos(), draw(6)
    flips = torch.tensor([True, False] * 3)
    exact = []
    for image, (top, left, height, width), flip in zip(images, crops.tolist(), flips, strict=True):
        cut = image.permute(2, 0, 1)[:, top : top + height, left : left + width].float()
        cut = tvf.resize(cut, [side, side], antialias=True)
        exact.append(cut.flip(2) if flip else cut)
    matrices = augment.crop_by_matrices(images, crops, flips, side)
    assert torch.allclose(matrices, torch.stack(exact), atol=1e-4 * 255)
    one_by_one = augment.crop_one_by_one(images, crops, flips, side)
    assert one_by_one.dtype == torch.uint8
    assert (one_by_one.float() - matrices).abs().max() <= 1.01  # 8-bit rounding, of rows and of columns


def test_whole_boxes_of_the_same_size_leave_an_image_as_it_is():
    images = photos(3, 32, 32)
    flips = torch.zeros(3, dtype=torch.bool)
    same = augment.crop_one_by_one(images, augment.whole(3, 32, 32), flips, 32)
    assert torch.equal(same, images.permute(0, 3, 1, 2))


def test_normalise_is_subtract_and_divide():
    images = photos().permute(0, 3, 1, 2)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    slow = tvf.normalize(images.float() / 255, mean, std)
    assert torch.allclose(augment.normalise(images, mean, std), slow, atol=1e-6)
