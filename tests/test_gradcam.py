"""Grad-CAM against its closed form, without a change to the network."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from finegrain.config.training import HeadParams
from finegrain.evaluation import gradcam
from finegrain.models import build, pooling

ARCHITECTURES = ["resnet18", "resnext50_32x4d", "efficientnet_b0"]


def build_net(name: str, head: HeadParams | None = None) -> torch.nn.Module:
    net = build.build_model(name, 5, "none", head or HeadParams(), seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return net.eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_grad_cam_of_a_linear_head_is_the_class_activation_map(name):
    """With mean pooling, the gradient of a logit with respect to a feature is proportional to its weight."""
    net, images, classes = build_net(name), torch.randn(3, 3, 96, 96), torch.tensor([0, 4, 2])
    features: list[torch.Tensor] = []
    net.avgpool.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.no_grad():
        net(images)
    weights = [p for p in build.get_head(net).parameters() if p.dim() == 2][0][classes]
    maps = F.relu(torch.einsum("nc,nchw->nhw", weights, features[0]))[:, None]
    expected = F.interpolate(maps, (96, 96), mode="bilinear")[:, 0]
    expected = expected / expected.amax((1, 2), keepdim=True).clamp(min=1e-30)
    got = gradcam.heatmaps(net, images, classes)
    assert got.shape == (3, 96, 96) and got.dtype == np.float32
    np.testing.assert_allclose(got, expected.detach().numpy(), atol=2e-4)
    assert got.min() >= 0 and got.max() <= 1


def test_grad_cam_of_a_deep_head_weights_features_by_finite_differences():
    """Finite differences of the logits, through batch norm and mean + max pooling."""
    head = HeadParams(widths=[16], dropouts=[0.3, 0.2], batch_norm=True, pool="avg+max")
    net = build_net("resnet18", head).double()
    images = torch.randn(1, 3, 64, 64, dtype=torch.double)
    captured: list[torch.Tensor] = []
    hook = net.avgpool.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    with torch.no_grad():
        net(images)
    hook.remove()
    features = captured[0]

    def logits(values: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return build.get_head(net)(net.avgpool(values).flatten(1))[0]

    slopes = torch.empty(512, 5, dtype=torch.double)
    for channel in range(512):
        moved = features.clone()
        moved[:, channel] += 1e-4  # at all places, which gives the sum of their gradients
        slopes[channel] = (logits(moved) - logits(features)) / 1e-4
    cams = F.relu(torch.einsum("ck,chw->khw", slopes, features[0]))[None]
    expected = F.interpolate(cams, (64, 64), mode="bilinear")[0]
    got = gradcam.heatmaps(net.float(), images.float().expand(5, -1, -1, -1), torch.arange(5))
    assert (expected.amax((1, 2)) > 0).any()
    highest = expected.amax((1, 2), keepdim=True).clamp(min=1e-30)
    np.testing.assert_allclose(got, expected / highest, atol=1e-2)


def test_grad_cam_of_covariances_is_what_a_stronger_deviation_at_a_place_adds_to_the_logit():
    """Finite differences in float64, with the pooling of two stages written out."""
    head = HeadParams(pool="covariance", stage=["layer2", "layer3"], channels=8)
    net, images, label = build_net("resnet18", head), torch.randn(2, 3, 64, 96), 3
    with torch.no_grad():
        stages = [maps.double() for maps in net.pooled_maps(images)]
    weights = net.fc.weight[label].detach().double()
    reduce = [each.detach().double() for each in net.avgpool.reduce.values()]

    def logits(stages: list[torch.Tensor]) -> torch.Tensor:
        vectors = []
        for maps, kept in zip(stages, reduce, strict=True):
            centered = (maps - maps.mean((2, 3), keepdim=True)).flatten(2)
            centered = centered / centered.flatten(1).norm(dim=1)[:, None, None]
            identity = torch.eye(centered.shape[2], dtype=torch.double)
            gram = centered.mT @ centered
            root, inverse = gram, identity.expand_as(gram)
            for _ in range(pooling.ITERATIONS):
                step = (3 * identity - inverse @ root) / 2
                root, inverse = root @ step, step @ inverse
            vectors.append(F.normalize((kept @ centered @ inverse @ centered.mT).flatten(1), dim=1))
        return torch.cat(vectors, 1) @ weights / 2**0.5

    torch.testing.assert_close(
        (logits(stages) + net.fc.bias[label]).float(), net(images)[:, label], atol=1e-5, rtol=0
    )
    expected = torch.zeros(2, 64, 96, dtype=torch.double)
    for i, maps in enumerate(stages):
        deviation = maps - maps.mean((2, 3), keepdim=True)
        slopes = torch.empty(2, 1, *maps.shape[2:], dtype=torch.double)
        for y, x in np.ndindex(*maps.shape[2:]):
            ends = []
            for factor in (1e-4, -1e-4):
                moved = [each.clone() for each in stages]
                moved[i][:, :, y, x] += factor * deviation[:, :, y, x]
                ends.append(logits(moved))
            slopes[:, 0, y, x] = (ends[0] - ends[1]) / 2e-4
        expected += F.interpolate(F.relu(slopes), (64, 96), mode="bilinear")[:, 0]
    expected /= expected.amax((1, 2), keepdim=True)
    got = gradcam.heatmaps(net, images, torch.full((2,), label))
    assert got.shape == (2, 64, 96) and got.dtype == np.float32 and got.min() >= 0 and got.max() == 1
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_the_heat_map_is_high_where_the_features_are():
    """A network whose features are the brightness of the image, and an image with one bright corner."""
    net = build_net("resnet18")
    for layer in (net.layer1, net.layer2, net.layer3):
        layer.register_forward_hook(lambda _, inputs, out: torch.zeros_like(out))
    net.layer4.register_forward_hook(
        lambda _, inputs, out: (
            F.adaptive_avg_pool2d(image, out.shape[2:]).mean(1, keepdim=True).expand_as(out)
        )
    )
    image = torch.zeros(1, 3, 224, 224)
    image[..., :64, 160:] = 1
    with torch.no_grad():
        build.get_head(net).weight.fill_(0.01)
    heat = gradcam.heatmaps(net, image, torch.tensor([1]))[0]
    top, left = np.unravel_index(heat.argmax(), heat.shape)
    assert top < 64 and left >= 160
    assert heat[128:, :96].max() < 0.1


def test_the_network_is_unchanged_afterwards():
    net = build_net("efficientnet_b0").train()
    net.features.eval()  # modes differ
    for p in net.parameters():
        p.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = {name: module.training for name, module in net.named_modules()}
    hooks = len(net.avgpool._forward_pre_hooks)
    gradcam.heatmaps(net, torch.randn(2, 3, 64, 64), torch.tensor([0, 1]))
    with pytest.raises(RuntimeError):
        gradcam.heatmaps(net, torch.randn(2, 5, 64, 64), torch.tensor([0, 1]))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert len(net.avgpool._forward_pre_hooks) == hooks
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())


def test_the_heat_map_is_zero_where_all_weights_are_negative():
    net = build_net("resnet18")
    with torch.no_grad():
        build.get_head(net).weight.fill_(-1.0)  # features are not negative
    assert gradcam.heatmaps(net, torch.randn(1, 3, 64, 64), torch.tensor([0])).max() == 0


def test_the_overlay_is_bright_where_the_heat_map_is_high():
    image = np.full((40, 60, 3), 128, np.uint8)
    heat = np.zeros((20, 30), np.float32)
    heat[5:10, 20:25] = 1
    shown = gradcam.overlay(image, heat)
    assert shown.shape == image.shape and shown.dtype == np.uint8
    assert shown[15, 45].mean() > shown[35, 5].mean() + 60
