"""Mixing is torchvision's, draw by draw, in fewer passes over the batch."""

import pytest
import torch
from torchvision.transforms import v2

from finegrain import mix
from finegrain.recipe import Augment

NONE = Augment(crop_scale=(1.0, 1.0))


def batch(n: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    images = torch.randn(n, 3, 16, 12, generator=source).contiguous(memory_format=torch.channels_last)
    return images, torch.randint(4, (n,), generator=source)


@pytest.mark.parametrize(("key", "theirs"), [("mixup_alpha", v2.MixUp), ("cutmix_alpha", v2.CutMix)])
def test_each_kind_equals_torchvision_s(key, theirs):
    images, labels = batch()
    ours, slow = mix.mixer(NONE.model_copy(update={key: 0.4}), 4), theirs(alpha=0.4, num_classes=4)
    changed = 0
    for seed in range(20):
        torch.manual_seed(seed)
        expected = slow(images, labels)
        torch.manual_seed(seed)
        mixed, shares = ours(images, labels)
        assert torch.allclose(mixed, expected[0], atol=1e-6) and torch.allclose(
            shares, expected[1], atol=1e-6
        )
        assert mixed.is_contiguous(memory_format=torch.channels_last)
        changed += not torch.equal(mixed, images)
    assert changed > 10 and torch.equal(images, batch()[0])


def test_with_both_each_batch_gets_one_of_them_and_without_nothing_is_mixed():
    both = mix.mixer(NONE.model_copy(update={"mixup_alpha": 1.0, "cutmix_alpha": 1.0}), 2)
    images = torch.stack((torch.zeros(3, 16, 16), torch.ones(3, 16, 16)))
    values = []
    for seed in range(30):
        torch.manual_seed(seed)
        mixed, _ = both(images, torch.tensor([0, 1]))
        values.append(len(mixed[0].unique()))
    assert {1, 2} <= set(values)  # one value: blended; two: a box pasted in
    assert mix.mixer(NONE, 2) is None


@pytest.mark.parametrize("key", ["mixup_alpha", "cutmix_alpha"])
def test_a_batch_of_one_is_mixed_with_itself(key):
    images, labels = batch(1)
    mixed, shares = mix.mixer(NONE.model_copy(update={key: 1.0}), 4)(images, labels)
    assert torch.allclose(mixed, images) and torch.allclose(shares, torch.eye(4)[labels])
