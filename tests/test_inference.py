"""Predictions of whole splits: each image once, with flips, and what float16 can hold."""

import narrow_resnet
import pytest
import torch
from scripted_fit import split

from finegrain.config.training import HeadParams
from finegrain.core.errors import UserError
from finegrain.models import build, inference


@pytest.fixture(autouse=True)
def narrow(monkeypatch) -> None:
    narrow_resnet.use_instead_of(monkeypatch, "resnet18")


def test_predict_gives_each_image_once_whatever_the_batch_size(tiny_pack):
    net = build.build_model("resnet18", 3, "none", HeadParams(), 0)
    test = split(tiny_pack, "test")
    one, labels = inference.predict_split(net, test, 32, dtype=torch.float32, batch_size=5)
    other, _ = inference.predict_split(net, test, 32, dtype=torch.float32)
    assert one.shape == (18, 3) and torch.equal(labels, test.labels)
    assert torch.allclose(one, other, atol=1e-5)


def test_predict_with_flip_is_the_mean_over_both_views(tiny_pack):
    net = build.build_model("resnet18", 3, "none", HeadParams(), 0)
    test = split(tiny_pack, "test")
    images = torch.cat([x for x, _ in test.eval_batches(18, 32)])
    net.eval()
    with torch.no_grad():
        slow = (net(images) + net(images.flip(3))) / 2
    ours, _ = inference.predict_split(net, test, 32, dtype=torch.float32, flip=True)
    assert torch.allclose(ours, slow, atol=1e-5)
    assert not torch.allclose(ours, inference.predict_split(net, test, 32, dtype=torch.float32)[0], atol=1e-5)


def test_values_too_large_for_float16_are_an_error_and_others_none():
    fine, large = torch.ones(3), torch.tensor([1.0, torch.inf])
    inference.require_no_overflow(fine, torch.float16)
    inference.require_no_overflow(large, torch.float32)
    with pytest.raises(UserError, match="precision: fp16: .* use fp32"):
        inference.require_no_overflow(large, torch.float16)


def test_logits_of_float16_are_float32_near_those_of_float32(tiny_pack):
    net = build.build_model("resnet18", 3, "none", HeadParams(), 0)
    exact, rounded = (
        inference.predict_split(net, split(tiny_pack, "val"), 32, dtype)[0]
        for dtype in (torch.float32, torch.float16)
    )
    assert rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=2e-2)
