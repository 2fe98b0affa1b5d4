"""Transforming a batch is each operator in turn; on a GPU the kernels do it where they agree with that."""

from types import SimpleNamespace

import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from smooth_noise import smooth_images

import finegrain.augmentation
from finegrain.augmentation import color, crop, geometry, sampling, transform
from finegrain.config.training import AugmentParams

ALL = AugmentParams(
    crop_scale=(0.5, 1.0), pad_crop_pixels=4, rotate_degrees=10.0, zoom=1.2, perspective=0.1, brightness=0.2,
    contrast=0.2, saturation=0.2, hue=0.1, erase_probability=0.5,
)  # fmt: skip
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
NORMALIZATION = transform.normalization_factors(MEAN, STD, torch.device("cpu"))


def test_apply_is_every_operator_in_turn():
    images = smooth_images(8, 48, 48).permute(0, 3, 1, 2)
    sampled = sampling.sample_augmentation(8, 64, 64, 48, ALL, (0, 1, 2))
    slow = geometry.shift(images, sampled.offsets, 4).float()
    slow = geometry.warp(slow, sampled.homographies)
    slow = color.adjust_color(slow, sampled.brightness, sampled.contrast, sampled.saturation, sampled.hue)
    slow = tvf.normalize(slow / 255, MEAN, STD)
    slow = color.erase(slow, sampled.erasures)
    ours = transform.apply_operators(images, sampled, NORMALIZATION)
    assert torch.allclose(ours, slow, atol=1e-4)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_normalize_equals_torchvision_s():
    images = smooth_images().permute(0, 3, 1, 2)
    slow = tvf.normalize(images.float() / 255, MEAN, STD)
    assert torch.allclose(transform.normalize(images, NORMALIZATION), slow, atol=1e-6)


class OnGpu(torch.Tensor):
    """A CPU tensor that claims to be on a GPU."""

    is_cuda = True


@pytest.mark.parametrize("indices", [None, torch.tensor([4, 0, 4, 1])])
def test_on_a_gpu_the_kernels_or_batched_operators_transform(monkeypatch, indices):
    images = smooth_images()
    sampled = sampling.sample_augmentation(6 if indices is None else 4, 48, 40, 24, ALL, (0, 1, 2))
    calls = []
    monkeypatch.setattr(transform, "_triton_transform", lambda device: lambda *args: calls.append(args))
    on_gpu = images.as_subclass(OnGpu)
    transform.transform_images(on_gpu, indices, sampled, 24, NORMALIZATION)
    assert [len(args) for args in calls] == [5] and calls[0][2] is sampled
    monkeypatch.setattr(transform, "_triton_transform", lambda device: None)
    batched = transform.transform_images(on_gpu, indices, sampled, 24, NORMALIZATION)
    on_cpu = transform.transform_images(images, indices, sampled, 24, NORMALIZATION)
    assert batched.shape == on_cpu.shape
    # crops are rounded to 8 bits on the CPU; a pixel at an erased or padded edge is the same in both
    difference = (batched.as_subclass(torch.Tensor) - on_cpu).abs()
    assert difference.mean() < 0.01 and difference.max() < 0.1


def by_operators(images, indices, sampled, image_size, normalization) -> torch.Tensor:
    selected = images if indices is None else images[indices]
    cropped = crop.crop_batched(selected, sampled.crops, sampled.flips, image_size)
    return transform.apply_operators(cropped, sampled, normalization)


@pytest.mark.parametrize(
    ("kernels", "reason"),
    [
        (by_operators, ""),
        (lambda *args: by_operators(*args) + 2, "by 2."),
        (lambda *args: by_operators(*args) * torch.nan, "by nan of 255"),
        (None, "TypeError: 'NoneType' object is not callable"),
    ],
)
def test_kernels_are_used_where_they_agree_with_operators(monkeypatch, capsys, kernels, reason):
    monkeypatch.setattr(
        finegrain.augmentation,
        "triton_kernels",
        SimpleNamespace(transform_images=kernels),
        raising=False,
    )
    transform._triton_transform.cache_clear()
    found = transform._triton_transform(torch.device("cpu"))
    assert found is (None if reason else kernels)
    assert transform._triton_transform(torch.device("cpu")) is found
    error = capsys.readouterr().err
    assert reason in error and error.count("Triton") == bool(reason)  # reported once
    transform._triton_transform.cache_clear()
