"""Covariance pooling against eigendecompositions, and networks that end with the last stage pooled."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from architectures import COVARIANCE, FAMILIES
from torch import Tensor

from finegrain.config.training import HeadParams
from finegrain.models import build, pooling, pretrained
from finegrain.models.multi_stage import MultiStageNet

FEW_PLACES, MANY_PLACES = (12, 2, 3), (5, 6, 4)
"""Channels, height and width of feature maps for either side of the branch."""


def random_maps(shape: tuple[int, ...], n: int = 3) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0)).relu()


def covariances(maps: Tensor) -> Tensor:
    """Covariance of the channels with a trace of 1, ``[N, C, C]`` float64, one image at a time."""
    found = torch.stack([torch.cov(image.flatten(1)) for image in maps.double()])
    return found / found.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]


def exact_roots(matrices: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrices)
    return vectors @ torch.diag_embed(values.clamp_min(0).sqrt()) @ vectors.mT


@pytest.mark.parametrize("shape", [FEW_PLACES, MANY_PLACES], ids=["few places", "many places"])
def test_many_iterations_give_the_root_of_an_eigendecomposition(monkeypatch, shape):
    monkeypatch.setattr(pooling, "inverse_root", partial(pooling.inverse_root, iterations=15))
    maps = random_maps(shape)
    expected = exact_roots(covariances(maps))
    torch.testing.assert_close(pooling.covariance_root(maps).double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("reduce", [None, torch.randn(4, 5, generator=torch.Generator().manual_seed(1))])
def test_both_branches_give_the_same_root(reduce):
    """Channels that are all zero choose the other branch; their part of the root is zero."""
    maps = random_maps(MANY_PLACES)
    padded = torch.cat((maps, torch.zeros(3, 24, 6, 4)), 1)
    found = pooling.covariance_root(padded, None if reduce is None else F.pad(reduce, (0, 24)))
    expected = pooling.covariance_root(maps, reduce)
    assert found.shape[2] == 5 + 24 and expected.shape == (3, 5 if reduce is None else 4, 5)
    assert not found[:, :, 5:].any() and not found[:, 5:].any()
    torch.testing.assert_close(found[:, : expected.shape[1], :5], expected, atol=1e-6, rtol=1e-5)


def test_the_upper_triangle_keeps_inner_products():
    first, second = (torch.randn(4, 6, 6) for _ in range(2))
    first, second = first + first.mT, second + second.mT
    expected = (first * second).sum((1, 2))
    vectors = [pooling.upper_triangle(each) for each in (first, second)]
    assert vectors[0].shape == (4, 21)
    torch.testing.assert_close((vectors[0] * vectors[1]).sum(1), expected)


def test_features_have_unit_length_and_each_stage_an_equal_share():
    pool = pooling.CovariancePool([12, 5])
    maps = random_maps(FEW_PLACES), 100 * random_maps(MANY_PLACES)
    features = pool(*maps)
    assert features.shape == (3, pool.out_features) == (3, 12 * 13 // 2 + 5 * 6 // 2)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(features[:, 78:].norm(dim=1), torch.full((3,), 0.5**0.5))
    alone = pooling.CovariancePool([5])(maps[1])
    torch.testing.assert_close(features[:, 78:], alone * 0.5**0.5)


def test_the_brightness_of_the_maps_and_the_order_of_their_places_do_not_matter():
    pool, maps = pooling.CovariancePool([5]), random_maps(MANY_PLACES)
    shuffled = maps.flatten(2)[:, :, torch.randperm(24)].reshape(maps.shape)
    torch.testing.assert_close(pool(7 * shuffled + 2), pool(maps), atol=1e-5, rtol=0)


def test_reduce_keeps_combinations_of_rows_of_the_root():
    pool = pooling.CovariancePool([12, 5], channels=4)
    assert list(pool.reduce) == ["0"]  # four rows of the second would be more than its upper triangle
    reduce = pool.reduce["0"]
    torch.testing.assert_close(reduce @ reduce.T, torch.eye(4), atol=1e-5, rtol=0)
    maps = random_maps(FEW_PLACES), random_maps(MANY_PLACES)
    features = pool(*maps)
    assert features.shape == (3, pool.out_features) == (3, 4 * 12 + 15)
    rows = (reduce @ pooling.covariance_root(maps[0])).flatten(1)
    torch.testing.assert_close(features[:, :48], F.normalize(rows, dim=1) * 0.5**0.5)
    features.square()[:, 0].sum().backward()
    assert reduce.grad is not None and reduce.grad.isfinite().all() and reduce.grad.any()


@pytest.mark.parametrize("channels", [5, 6, 7, 13, 255, 256, 257, 400, 1024, 2048])
@pytest.mark.parametrize("wanted", [None, 1, 3, 4, 32])
def test_fewer_rows_are_kept_only_where_that_gives_fewer_features(channels, wanted):
    pool, triangle = pooling.CovariancePool([channels], wanted), channels * (channels + 1) // 2
    rows = len(pool.reduce["0"]) if pool.reduce else channels
    assert pool.out_features == (rows * channels if pool.reduce else triangle) <= triangle
    if wanted is None:
        assert pool.out_features <= pooling.MAX_FEATURES < triangle or not pool.reduce
        assert pool.out_features + channels > pooling.MAX_FEATURES or not pool.reduce
    else:
        assert rows == (wanted if wanted * channels < triangle else channels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_computes_in_float32_inside_of_autocast(dtype):
    pool = pooling.CovariancePool([12, 5], channels=4)
    maps = [random_maps(shape).to(dtype) for shape in (FEW_PLACES, MANY_PLACES)]
    with torch.autocast("cpu", dtype):
        inside = pool(*maps)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, pool(*(each.float() for each in maps)))


@pytest.mark.parametrize("shape", [FEW_PLACES, MANY_PLACES], ids=["few places", "many places"])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_constant_maps_give_finite_features_and_gradients(shape, value):
    maps = torch.full((2, *shape), value)
    maps[1] = random_maps(shape, 1)[0]
    pool = pooling.CovariancePool([shape[0]])
    features = pool(maps.requires_grad_())
    assert features.isfinite().all()
    torch.testing.assert_close(features[1], pool(maps[1:])[0])
    features.sum().backward()
    assert maps.grad is not None and maps.grad.isfinite().all() and maps.grad[1].any()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_ends_with_the_last_stage_pooled_and_takes_torchvision_s_weights(tmp_path, name):
    torch.manual_seed(1)
    whole = torchvision.models.get_model(name, weights=None)
    file = tmp_path / "weights.pth"
    torch.save(whole.state_dict(), file)
    net = build.build_model(name, 7, pretrained.read_weights(name, str(file)), COVARIANCE, seed=0)
    assert isinstance(net, MultiStageNet)
    body = build.get_body_state(net)
    others = {key for key in net.state_dict() if key not in body}
    assert others == {"avgpool.reduce.0", "avgpool.reduce.1", "fc.weight", "fc.bias"}
    upper = ("layer4.", "features.6.", "features.7.", "features.8.", "fc.", "classifier.")
    assert body.keys() == {key for key in whole.state_dict() if not key.startswith(upper)}
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in body.items())
    result = whole.load_state_dict(body, strict=False)
    assert not result.unexpected_keys and all(key.startswith(upper) for key in result.missing_keys)


@pytest.mark.parametrize(
    ("name", "stages"), [("resnet18", ["layer1"]), ("efficientnet_b0", ["layer4", "layer2"])]
)
def test_the_maps_pooled_are_those_of_the_whole_network(name, stages):
    """The input of the whole network's next block; nothing above the last stage runs."""
    net: MultiStageNet = build.build_model(
        name, 7, "none", HeadParams(pool="covariance", stage=stages, channels=8), seed=0
    )
    net.eval()
    whole = torchvision.models.get_model(name, weights=None).eval()
    whole.load_state_dict(build.get_body_state(net), strict=False)
    last_of = {"layer2": 3, "layer4": 8}  # of EfficientNet's features
    expected: list[Tensor] = []
    for stage in sorted(stages):
        module = whole.features[last_of[stage]] if name == "efficientnet_b0" else getattr(whole, stage)
        module.register_forward_hook(lambda _, inputs, output: expected.append(output.clone()))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        whole(images)
        maps = net.pooled_maps(images)
        assert len(maps) == len(expected) == len(stages)
        for found, wanted in zip(maps, expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(net(images), net.fc(net.avgpool(*expected)), atol=1e-5, rtol=1e-4)
