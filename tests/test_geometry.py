"""Each transform equals torchvision's on one image at a time, and samples keep to their parameters."""

import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from smooth_noise import smooth_noise
from torch import Tensor
from torchvision.transforms import InterpolationMode

from finegrain.augmentation import geometry

BILINEAR = InterpolationMode.BILINEAR
N, HEIGHT, WIDTH = 6, 48, 40
ASPECT = WIDTH / HEIGHT
TRANSFORMS = {"rotate_degrees": 10.0, "zoom": 1.5, "perspective": 0.2}
CLOSE = 5e-3  # of 255: coordinates are float32 on both sides, and an edge to zeros is up to 255 high


def make_images(n: int = N) -> Tensor:
    return smooth_noise(n, HEIGHT, WIDTH)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(low: float, high: float, *shape: int) -> Tensor:
    return torch.empty(shape).uniform_(low, high, generator=generator(1))


def difference(ours: Tensor, theirs: list[Tensor]) -> float:
    return (ours - torch.stack(theirs)).abs().max().item()


def map_points(homographies: Tensor, points: Tensor) -> Tensor:
    """Map points ``[N, P, 2]`` by homographies ``[N, 3, 3]``."""
    homogeneous = torch.cat((points, torch.ones_like(points[..., :1])), 2) @ homographies.mT
    return homogeneous[..., :2] / homogeneous[..., 2:]


def sample(n=2000, rotate_degrees=0.0, zoom=1.0, perspective=0.0, probability=1.0, seed=0) -> Tensor:
    return geometry.sample_homographies(n, rotate_degrees, zoom, perspective, probability, generator(seed))


def test_rotations_equal_torchvision_s():
    images, degrees = make_images(), uniform(-180, 180, N)
    ours = geometry.warp(images, geometry.rotations(degrees, ASPECT), "zeros")
    theirs = [tvf.rotate(image, d, BILINEAR) for image, d in zip(images, degrees.tolist(), strict=True)]
    assert difference(ours, theirs) < CLOSE


def test_outside_is_the_reflection():
    images, degrees = make_images(), uniform(-60, 60, N)
    ours = geometry.warp(images, geometry.rotations(degrees, ASPECT))
    wide = tvf.pad(images, [WIDTH, HEIGHT], padding_mode="symmetric")
    theirs = [
        tvf.center_crop(tvf.rotate(image, d, BILINEAR), [HEIGHT, WIDTH])
        for image, d in zip(wide, degrees.tolist(), strict=True)
    ]
    assert difference(ours, theirs) < CLOSE


def test_zooms_equal_torchvision_s_affine():
    images, factors, centers = make_images(), uniform(1, 3, N), uniform(-1, 1, N, 2)
    ours = geometry.warp(images, geometry.zooms(factors, centers), "zeros")
    pixels = (centers + 1) * torch.tensor([WIDTH, HEIGHT]) / 2
    theirs = [
        tvf.affine(image, 0, [0, 0], factor, [0, 0], BILINEAR, center=center)
        for image, factor, center in zip(images, factors.tolist(), pixels.tolist(), strict=True)
    ]
    assert difference(ours, theirs) < CLOSE


def test_a_zoom_touches_the_edges_at_the_ends_of_its_range():
    half = geometry.zooms(torch.full((3,), 2.0), torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, -1.0]]))
    corners = map_points(half, geometry.CORNERS[[0, 2]].expand(3, 2, 2))  # top left and bottom right
    assert corners.flatten(1).tolist() == [[-1, -1, 0, 0], [-0.5, -0.5, 0.5, 0.5], [0, -1, 1, 0]]


def test_perspectives_equal_torchvision_s():
    images = make_images()
    half = torch.tensor([WIDTH, HEIGHT], dtype=torch.float64) / 2
    start = ((geometry.CORNERS + 1) * half).expand(N, 4, 2)
    end = start + uniform(-8, 8, N, 4, 2)
    ours = geometry.warp(images, geometry.perspectives(start / half - 1, end / half - 1), "zeros")
    theirs = [
        tvf.perspective(image, s, e, BILINEAR)
        for image, s, e in zip(images, start.tolist(), end.tolist(), strict=True)
    ]
    assert difference(ours, theirs) < CLOSE


def test_a_perspective_sends_its_end_points_to_its_start_points():
    start, end = geometry.CORNERS + uniform(-0.4, 0.4, 2, N, 4, 2).double()
    assert torch.allclose(map_points(geometry.perspectives(start, end), end), start, atol=1e-12)


def test_a_product_is_one_transform_after_the_other():
    a, b, c = geometry.CORNERS + uniform(-0.4, 0.4, 3, N, 4, 2).double()
    both = geometry.perspectives(a, b) @ geometry.perspectives(b, c)
    assert torch.allclose(both / both[:, 2:, 2:], geometry.perspectives(a, c), atol=1e-12)
    images, factors, degrees = make_images(), uniform(1, 2, N), uniform(-90, 90, N)
    matrices = geometry.zooms(factors, torch.zeros(N, 2)) @ geometry.rotations(degrees, ASPECT)
    theirs = [  # affine's angle is clockwise
        tvf.affine(image, -d, [0, 0], factor, [0, 0], BILINEAR)
        for image, d, factor in zip(images, degrees.tolist(), factors.tolist(), strict=True)
    ]
    assert difference(geometry.warp(images, matrices, "zeros"), theirs) < CLOSE


@pytest.mark.parametrize("padding", ["reflection", "zeros"])
def test_identities_leave_the_image_unchanged(padding):
    images = make_images()
    zero = torch.zeros(N)
    for matrices in (
        torch.eye(3).expand(N, 3, 3),
        geometry.rotations(zero),
        geometry.zooms(zero + 1, uniform(-1, 1, N, 2)),
        geometry.perspectives(geometry.CORNERS.expand(N, 4, 2), geometry.CORNERS.expand(N, 4, 2)),
        sample(N),
    ):
        assert torch.equal(matrices.float(), torch.eye(3).expand(N, 3, 3))
        # in float32 a coordinate is some 1e-6 of a pixel away from the pixel's center
        assert (geometry.warp(images, matrices, padding) - images).abs().max() < 1e-3


def test_rotations_are_uniform():
    sampled = sample(rotate_degrees=10)
    degrees = torch.rad2deg(torch.atan2(sampled[:, 1, 0], sampled[:, 0, 0]))
    assert torch.allclose(sampled, geometry.rotations(degrees))
    _assert_uniform(degrees, -10, 10)


def test_zooms_are_uniform_and_stay_inside():
    sampled = sample(zoom=1.5)
    factors = 1 / sampled[:, 0, 0]
    _assert_uniform(factors, 1, 1.5)
    places = sampled[:, :2, 2] / (1 - 1 / factors)[:, None]
    assert torch.allclose(sampled, geometry.zooms(factors, places))
    _assert_uniform(places[:, 0], -1, 1)
    _assert_uniform(places[:, 1], -1, 1)


def test_samples_are_independent():
    rotated, zoomed, tilted = sample(rotate_degrees=10)[:, 1, 0], sample(zoom=1.5), sample(perspective=0.2)
    scale = zoomed[:, 0, 0]
    places = (zoomed[:, :2, 2] / (1 - scale)[:, None]).T
    tilts = map_points(tilted, geometry.CORNERS[:1].expand(2000, 1, 2))[:, 0].T
    related = torch.corrcoef(torch.stack((rotated, scale, *places, *tilts)))
    # correlations of 2,000 independent values have a standard deviation of 0.022
    assert (related - torch.eye(6)).abs().max() < 0.1


def test_tilts_are_uniform_and_make_trapezoids():
    corners = geometry.CORNERS.expand(2000, 4, 2)
    moved = map_points(sample(perspective=0.2), corners) - corners
    tilts = moved[:, 1]  # to the top right corner, whose signs differ
    signs = torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64)  # neighbors go opposite ways
    assert torch.allclose(moved, signs[:, None] * tilts[:, None], atol=1e-12)
    _assert_uniform(tilts[:, 0], -0.2, 0.2)
    _assert_uniform(tilts[:, 1], -0.2, 0.2)


def _assert_uniform(values: Tensor, low: float, high: float) -> None:
    assert low <= values.min() and values.max() <= high
    expected = torch.linspace(low, high, len(values), dtype=values.dtype)
    # Kolmogorov's distance of 2,000 uniform values exceeds 0.05 once in ten thousand times
    assert (values.sort().values - expected).abs().max() < 0.05 * (high - low)


def test_each_transform_is_applied_with_its_probability_independently():
    identity = torch.eye(3, dtype=torch.float64)
    for name, size in TRANSFORMS.items():
        sampled = sample(probability=0.75, **{name: size})
        assert (sampled != identity).flatten(1).any(1).double().mean() == pytest.approx(0.75, abs=0.03)
        assert torch.equal(sample(probability=0.0, **{name: size}), sample())
    none = (sample(probability=0.5, **TRANSFORMS) - identity).abs().amax((1, 2)) < 1e-12
    assert none.double().mean() == pytest.approx(1 / 8, abs=0.03)


def test_turning_one_off_leaves_the_others_unchanged():
    zoomed, rotated, tilted = sample(zoom=1.5), sample(rotate_degrees=10), sample(perspective=0.2)
    assert torch.allclose(sample(rotate_degrees=10, zoom=1.5, perspective=0.2), zoomed @ rotated @ tilted)
    assert torch.allclose(sample(zoom=1.5, perspective=0.2), zoomed @ tilted)


def test_the_horizon_is_never_in_the_image():
    sampled = sample(rotate_degrees=180, zoom=2, perspective=0.5)
    corners = torch.cat((geometry.CORNERS, torch.ones(4, 1)), 1).T
    divisors = (sampled @ corners)[:, 2]  # linear in x and y: positive at the corners is positive throughout
    assert divisors.min() > 0
    inverse = sample(perspective=0.5).inverse()  # moving the input's corners instead
    assert (inverse @ corners / inverse[:, 2:, 2:])[:, 2].min() < 0


def test_samples_depend_on_the_seed_alone():
    assert torch.equal(sample(seed=1, **TRANSFORMS), sample(seed=1, **TRANSFORMS))
    assert not torch.equal(sample(seed=1, **TRANSFORMS), sample(seed=2, **TRANSFORMS))
    assert torch.equal(
        geometry.sample_offsets(9, 4, generator(1)), geometry.sample_offsets(9, 4, generator(1))
    )
    assert not torch.equal(
        geometry.sample_offsets(9, 4, generator(1)), geometry.sample_offsets(9, 4, generator(2))
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("padding", "mode"), [("zeros", "constant"), ("reflection", "reflect")])
def test_shift_equals_torchvision_s_pad_and_crop(padding, mode, dtype):
    images, offsets = make_images(50).to(dtype), geometry.sample_offsets(50, 4, generator())
    wide = tvf.pad(images, [4], padding_mode=mode)
    slow = [
        tvf.crop(image, top, left, HEIGHT, WIDTH)
        for image, (top, left) in zip(wide, offsets.tolist(), strict=True)
    ]
    shifted = geometry.shift(images, offsets, 4, padding)
    assert shifted.dtype == dtype
    assert torch.equal(shifted, torch.stack(slow))
    assert torch.equal(geometry.shift(images, torch.full((50, 2), 4), 4, padding), images)


def test_offsets_are_uniform():
    offsets = geometry.sample_offsets(9000, 4, generator())
    for counts in (offsets[:, 0].bincount(), offsets[:, 1].bincount()):
        assert len(counts) == 9
        assert (counts - 1000).abs().max() < 100  # 3.4 standard deviations


@pytest.mark.parametrize(
    ("max_pixels", "padding", "message"),
    [(-1, "zeros", r"in \[0, 40\), got -1"), (40, "zeros", "got 40"), (1, "mirror", "padding .* got mirror")],
)
def test_an_impossible_shift_is_rejected(max_pixels, padding, message):
    with pytest.raises(ValueError, match=message):
        geometry.shift(make_images(1), torch.zeros(1, 2, dtype=torch.long), max_pixels, padding)


def test_channels_last_images_give_the_same():
    images, matrices, offsets = (
        make_images(),
        sample(N, 10, 1.5, 0.2),
        geometry.sample_offsets(N, 4, generator()),
    )
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(geometry.warp(last, matrices), geometry.warp(images, matrices), atol=1e-3)
    shifted = geometry.shift(last, offsets, 4)
    assert torch.equal(shifted, geometry.shift(images, offsets, 4))
    assert shifted.is_contiguous(memory_format=torch.channels_last)


def test_applying_never_waits_for_the_device():
    images = make_images().to("meta")  # has no values: reading one raises
    assert geometry.warp(images, sample(N, 10, 1.5, 0.2)).shape == images.shape
    for padding in ("reflection", "zeros"):
        assert (
            geometry.shift(images, geometry.sample_offsets(N, 4, generator()), 4, padding).shape
            == images.shape
        )
