"""Each color adjustment equals torchvision's on one image at a time; boxes are sampled as torchvision's."""

import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from smooth_noise import smooth_noise
from torch import Tensor
from torchvision.transforms import v2

from finegrain.augmentation import color

N, HEIGHT, WIDTH = 6, 48, 40
CLOSE = 1e-4  # of 255: torchvision works in 0..1
CLOSE_HUE = 1e-3  # and divides by chroma and value
ADJUST = {
    "brightness": tvf.adjust_brightness,
    "contrast": tvf.adjust_contrast,
    "saturation": tvf.adjust_saturation,
    "hue": tvf.adjust_hue,
}


def make_images(n: int = N) -> Tensor:
    """Smooth noise ``[n, 3, 48, 40]``, whole numbers in 0..255, with gray, black, white and pure colors."""
    images = smooth_noise(n, HEIGHT, WIDTH).round()
    images[:, :, 0] = images[:, :1, 0]
    pure = torch.cartesian_prod(*[torch.tensor([0.0, 255.0])] * 3)  # the 8 corners of the cube: hues that tie
    images[:, :, 1, :8] = pure.T
    return images


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(name: str, n: int = N, seed: int = 0) -> Tensor:
    if name == "hue":
        return color.sample_hue_shifts(n, 0.5, 1.0, generator(seed))
    return color.sample_factors(n, 0.8, 1.0, generator(seed))


def one_by_one(images: Tensor, changes: dict[str, Tensor]) -> Tensor:
    """Apply torchvision's adjustments in this order."""
    out = images / 255
    for name, values in changes.items():
        out = torch.stack([ADJUST[name](image, v) for image, v in zip(out, values.tolist(), strict=True)])
    return out * 255


@pytest.mark.parametrize("name", ADJUST)
def test_each_adjustment_equals_torchvision_s(name):
    images, values = make_images(), sample(name)
    ours = color.adjust_color(images, **{name: values})
    close = CLOSE_HUE if name == "hue" else CLOSE
    assert (ours - one_by_one(images, {name: values})).abs().max() < close
    assert (ours - images).abs().amax((1, 2, 3)).min() > 1  # every image has changed


def test_all_adjustments_equal_torchvision_s_in_this_order():
    images = make_images()
    changes = {name: sample(name, seed=seed) for seed, name in enumerate(ADJUST)}
    ours = color.adjust_color(images, *changes.values())
    assert (ours - one_by_one(images, changes)).abs().max() < CLOSE_HUE
    reverse = one_by_one(images, dict(reversed(changes.items())))
    assert (ours - reverse).abs().max() > 1


def test_neutral_values_leave_the_image_unchanged():
    images, one = make_images(), torch.ones(N)
    assert torch.equal(color.adjust_color(images, one, one, one), images)
    assert color.adjust_color(images) is images
    assert (color.adjust_color(images, hue=one - 1) - images).abs().max() < CLOSE_HUE


def test_a_third_of_a_turn_swaps_the_channels():
    images = make_images()
    for turns in (1 / 3, -2 / 3):
        shifted = color.adjust_color(images, hue=torch.full((N,), turns))
        assert torch.allclose(shifted, images.roll(1, 1), atol=CLOSE_HUE)  # red to green, green to blue


@pytest.mark.parametrize(
    ("sampler", "neutral"),
    [(color.sample_factors, 1.0), (color.sample_hue_shifts, 0.0)],
    ids=["factors", "hues"],
)
def test_values_are_uniform_and_applied_with_their_probability(sampler, neutral):
    values = sampler(2000, 0.4, 1.0, generator())
    assert neutral - 0.4 <= values.min() and values.max() <= neutral + 0.4
    expected = torch.linspace(neutral - 0.4, neutral + 0.4, 2000)
    # Kolmogorov's distance of 2,000 uniform values exceeds 0.05 once in ten thousand times
    assert (values.sort().values - expected).abs().max() < 0.05 * 0.8
    some = sampler(2000, 0.4, 0.75, generator())
    assert (some != neutral).float().mean() == pytest.approx(0.75, abs=0.03)
    assert torch.equal(some, torch.where(some != neutral, values, neutral))
    assert torch.equal(sampler(2000, 0.4, 0.0, generator()), torch.full((2000,), neutral))


def test_samples_depend_on_the_seed_alone():
    for draw in (
        lambda seed: color.sample_factors(9, 0.4, 0.9, generator(seed)),
        lambda seed: color.sample_hue_shifts(9, 0.1, 0.9, generator(seed)),
        lambda seed: color.sample_erasures(9, HEIGHT, WIDTH, 0.9, generator(seed)),
    ):
        assert torch.equal(draw(1), draw(1))
        assert not torch.equal(draw(1), draw(2))


def test_boxes_lie_inside_with_the_area_and_ratio_of_the_parameters():
    top, left, height, width = color.sample_erasures(2000, 480, 400, 1.0, generator()).T
    assert (
        (top >= 0).all() and (left >= 0).all() and (top + height <= 480).all() and (left + width <= 400).all()
    )
    assert top.min() == 0 and left.min() == 0 and (top + height).max() == 480 and (left + width).max() == 400
    area, ratio = height * width / (480 * 400), height / width
    # sides are rounded to whole pixels: by under 1.5 % of the shortest, 34 pixels
    assert 0.0197 < area.min() < 0.025 and 0.32 < area.max() < 0.338
    assert 0.295 < ratio.min() < 0.32 and 3.1 < ratio.max() < 3.35


USUAL = (480, 400, (0.02, 1 / 3), (0.3, 3.3))
RETRIED = (320, 640, (0.3, 0.6), (0.5, 4.0))  # three in five do not fit; tall and wide boxes differ


@pytest.mark.parametrize(("height", "width", "scale", "ratio"), [USUAL, RETRIED], ids=["usual", "retried"])
def test_boxes_are_distributed_as_torchvision_s(height, width, scale, ratio):
    ours = color.sample_erasures(4000, height, width, 1.0, generator(), scale, ratio).double()
    torch.manual_seed(0)
    transform, image = v2.RandomErasing(1.0, scale, ratio), torch.zeros(3, height, width)
    boxes = [transform.make_params([image]) for _ in range(4000)]
    boxes = [box for box in boxes if box["v"] is not None]  # else torchvision returns the whole image
    theirs = torch.tensor([[box[key] for key in "ijhw"] for box in boxes]).double()
    ours = ours[ours[:, 2] > 0]
    assert len(ours) == pytest.approx(len(theirs), abs=40)
    # standard error of a mean of 4,000 boxes with a standard deviation of ~100 px is 1.6 px
    assert torch.allclose(ours.mean(0), theirs.mean(0), atol=8)
    assert torch.allclose(ours.std(0), theirs.std(0), atol=8)


def test_erasing_is_applied_with_its_probability():
    boxes = color.sample_erasures(2000, HEIGHT, WIDTH, 0.25, generator())
    erased = boxes[:, 2:].amin(1) > 0
    assert erased.float().mean() == pytest.approx(0.25, abs=0.03)
    assert (boxes[~erased, 2:] == 0).all()
    always = color.sample_erasures(2000, HEIGHT, WIDTH, 1.0, generator())
    assert torch.equal(boxes[erased], always[erased])


def test_a_box_that_never_fits_erases_nothing():
    boxes = color.sample_erasures(50, 20, 20, 1.0, generator(), scale=(1.0, 1.0))
    assert (boxes[:, 2:] == 0).all()


@pytest.mark.parametrize("value", [0.0, -1.5])
def test_erase_equals_torchvision_s(value):
    images, boxes = make_images() / 100 - 1, color.sample_erasures(N, HEIGHT, WIDTH, 0.7, generator())
    slow = [
        tvf.erase(image, *box, torch.tensor(value)) for image, box in zip(images, boxes.tolist(), strict=True)
    ]
    assert torch.equal(color.erase(images, boxes, value), torch.stack(slow))
    assert 0 < (boxes[:, 2] == 0).sum() < N  # some are erased, some are not
    assert torch.equal(color.erase(images, torch.zeros(N, 4, dtype=torch.long), value), images)


def test_images_are_not_changed_in_place():
    images = make_images()
    color.erase(images, color.sample_erasures(N, HEIGHT, WIDTH, 1.0, generator()))
    color.adjust_color(images, *(sample(name) for name in ADJUST))
    assert torch.equal(images, make_images())


def test_channels_last_images_give_the_same():
    images, boxes = make_images(), color.sample_erasures(N, HEIGHT, WIDTH, 1.0, generator())
    last = images.contiguous(memory_format=torch.channels_last)
    values = [sample(name) for name in ADJUST]
    assert torch.allclose(
        color.adjust_color(last, *values), color.adjust_color(images, *values), atol=CLOSE_HUE
    )
    erased = color.erase(last, boxes)
    assert torch.equal(erased, color.erase(images, boxes))
    assert erased.is_contiguous(memory_format=torch.channels_last)


def test_applying_never_waits_for_the_device():
    images = make_images().to("meta")  # has no values: reading one raises
    assert color.adjust_color(images, *(sample(name) for name in ADJUST)).shape == images.shape
    assert (
        color.erase(images, color.sample_erasures(N, HEIGHT, WIDTH, 1.0, generator())).shape == images.shape
    )
