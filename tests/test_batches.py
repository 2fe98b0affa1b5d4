"""Batches hold every image once, the same for the same seed and epoch."""

import numpy as np
import pytest
import torch

from finegrain.config.training import AugmentParams, ChannelStatistics
from finegrain.loading import batches

CPU = torch.device("cpu")
PLAIN = AugmentParams(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False)
MILD = AugmentParams(crop_scale=(0.5, 1.0))


@pytest.fixture
def train(tiny_pack) -> batches.PackedSplit:
    return split(tiny_pack, "train")


def split(folder, names: str) -> batches.PackedSplit:
    return batches.PackedSplit(folder, names, CPU, *batches.normalization_mean_std(folder, "train", None))


def collect(batches) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_eval_batches_are_the_images_in_order_normalized(tiny_pack, train):
    images, labels = collect(train.eval_batches(8, 32))
    assert torch.equal(labels, train.labels)
    stored = torch.from_numpy(np.load(tiny_pack / "train.npy"))
    slow = (stored.permute(0, 3, 1, 2).double() / 255 - 0.2) / 0.15
    assert torch.allclose(images.double(), slow, atol=1e-5)


def test_each_epoch_holds_every_image_once_in_another_order(train):
    # without augmentation an image is recognized by its sum
    sums = [collect(train.train_batches(epoch, 8, 32, PLAIN, seed=0))[0].sum((1, 2, 3)) for epoch in (1, 2)]
    whole = collect(train.eval_batches(8, 32))[0].sum((1, 2, 3))
    assert torch.allclose(sums[0].sort().values, whole.sort().values, atol=1e-3)
    assert not torch.allclose(sums[0], sums[1])


def test_batches_depend_on_seed_and_epoch(train):
    first = collect(train.train_batches(3, 8, 32, MILD, seed=1))
    again = collect(train.train_batches(3, 8, 32, MILD, seed=1))
    other = collect(train.train_batches(3, 8, 32, MILD, seed=2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_batches_are_resized_and_channels_last(train):
    images, _ = next(train.train_batches(1, 8, 24, MILD, seed=0))
    assert images.shape == (8, 3, 24, 24)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_a_last_batch_of_one_image_is_left_out(train):
    assert len(train) == 42
    assert [train.steps_per_epoch(size) for size in (41, 42, 40, 100)] == [1, 1, 2, 1]
    sizes = [len(y) for _, y in train.train_batches(1, 41, 32, PLAIN, seed=0)]
    assert sizes == [41]


@pytest.mark.parametrize(
    ("normalization", "expected", "mean"),
    [
        ("auto", [0.7, 0.8, 0.9], [0.7, 0.8, 0.9]),
        ("auto", None, [0.2, 0.2, 0.2]),
        ("imagenet", None, batches.IMAGENET_MEAN_STD[0]),
        ("train", [0.7, 0.8, 0.9], [0.2, 0.2, 0.2]),
        (ChannelStatistics(mean=(0.4, 0.5, 0.6), std=(0.1, 0.1, 0.1)), [0.7, 0.8, 0.9], [0.4, 0.5, 0.6]),
    ],
)
def test_the_mean_is_the_one_of_the_parameter(tiny_pack, normalization, expected, mean):
    mean_std = (expected, [0.1, 0.1, 0.1]) if expected else None
    assert batches.normalization_mean_std(tiny_pack, normalization, mean_std)[0] == mean


def test_two_splits_are_read_as_one(tiny_pack, train):
    val, both = split(tiny_pack, "val"), split(tiny_pack, "train+val")
    assert len(both) == len(train) + len(val) == 57
    assert torch.equal(both.labels, torch.cat((train.labels, val.labels)))
    parts = [collect(part.eval_batches(8, 32))[0] for part in (train, val)]
    assert torch.equal(collect(both.eval_batches(10, 32))[0], torch.cat(parts))
    labels = torch.cat([y for _, y in both.train_batches(1, 8, 32, PLAIN, seed=0)])
    assert len(labels) == 56  # 57 is seven batches of 8 and one image, which is left out
    assert (labels.bincount() <= both.labels.bincount()).all()


def test_images_are_as_they_were_packed(tiny_pack):
    both = split(tiny_pack, "val+test")
    stored = np.concatenate([np.load(tiny_pack / f"{name}.npy") for name in ("val", "test")])
    indices = torch.tensor([20, 3, 3, 14, 15])
    assert np.array_equal(both.images(indices), stored[indices.numpy()])
    assert both.images(torch.empty(0, dtype=torch.int64)).shape == (0, 32, 32, 3)
