"""What is drawn depends on its key alone, and applying it is each operator in turn."""

from types import SimpleNamespace

import pytest
import torch
import torchvision.transforms.v2.functional as tvf

import finegrain
from finegrain.augmentation import color, crop, geometry, sampling, transform
from finegrain.config.training import AugmentParams

ALL = AugmentParams(
    crop_scale=(0.5, 1.0), pad_crop_pixels=4, rotate_degrees=10.0, zoom=1.2, perspective=0.1, brightness=0.2,
    contrast=0.2, saturation=0.2, hue=0.1, erase_probability=0.5,
)  # fmt: skip
NORMAL = transform.normalization_factors([0.4, 0.5, 0.6], [0.2, 0.3, 0.4], torch.device("cpu"))


def photos(n: int = 6, height: int = 48, width: int = 40) -> torch.Tensor:
    """Smooth noise ``[n, height, width, 3]`` uint8."""
    noise = torch.rand(n, 3, 12, 10, generator=torch.Generator().manual_seed(0)) * 255
    big = torch.nn.functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 255)
    return big.permute(0, 2, 3, 1).contiguous().to(torch.uint8)


def test_a_generator_depends_on_its_key_alone():
    first = torch.rand(3, generator=sampling.make_generator(1, "view", 2, 3))
    assert torch.equal(first, torch.rand(3, generator=sampling.make_generator(1, "view", 2, 3)))
    assert not torch.equal(first, torch.rand(3, generator=sampling.make_generator(1, "view", 3, 2)))


def fields(views: sampling.SampledAugmentation) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(views).items() if value is not None}


def test_views_are_a_function_of_seed_epoch_and_step():
    first, again = (fields(sampling.sample_augmentation(8, 64, 64, 48, ALL, (0, 1, 2))) for _ in range(2))
    assert len(first) == 9 and all(torch.equal(first[name], again[name]) for name in first)
    for key in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        other = fields(sampling.sample_augmentation(8, 64, 64, 48, ALL, key))
        assert not any(torch.equal(first[name], other[name]) for name in first if name != "flips"), key


def test_turning_operators_off_leaves_the_others_as_they_were():
    whole = fields(sampling.sample_augmentation(8, 64, 64, 48, ALL, (0, 1, 2)))
    some = AugmentParams(crop_scale=(0.5, 1.0), contrast=0.2, erase_probability=0.5)
    fewer = fields(sampling.sample_augmentation(8, 64, 64, 48, some, (0, 1, 2)))
    assert set(fewer) == {"crops", "flips", "contrast", "erasures"}
    assert all(torch.equal(value, whole[name]) for name, value in fewer.items())


def test_apply_is_every_operator_in_turn():
    images = photos(8, 48, 48).permute(0, 3, 1, 2)
    views = sampling.sample_augmentation(8, 64, 64, 48, ALL, (0, 1, 2))
    slow = geometry.shift(images, views.offsets, 4).float()
    slow = geometry.warp(slow, views.homographies)
    slow = color.adjust_color(slow, views.brightness, views.contrast, views.saturation, views.hue)
    slow = tvf.normalize(slow / 255, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    slow = color.erase(slow, views.erasures)
    ours = transform.apply_operators(images, views, 4, NORMAL)
    assert torch.allclose(ours, slow, atol=1e-4)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_normalise_is_subtract_and_divide():
    images = photos().permute(0, 3, 1, 2)
    slow = tvf.normalize(images.float() / 255, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    assert torch.allclose(transform.normalize(images, NORMAL), slow, atol=1e-6)


class OnGpu(torch.Tensor):
    """Says that it is on a GPU."""

    is_cuda = True


@pytest.mark.parametrize("chosen", [None, torch.tensor([4, 0, 4, 1])])
def test_on_a_gpu_one_call_sees_or_operators_do(monkeypatch, chosen):
    images = photos()
    views = sampling.sample_augmentation(6 if chosen is None else 4, 48, 40, 24, ALL, (0, 1, 2))
    asked = []
    monkeypatch.setattr(transform, "_triton_transform", lambda device: lambda *given: asked.append(given))
    there = images.as_subclass(OnGpu)
    transform.transform_images(there, chosen, views, 24, 4, NORMAL)
    assert [len(given) for given in asked] == [6] and asked[0][2] is views
    monkeypatch.setattr(transform, "_triton_transform", lambda device: None)
    by_operators = transform.transform_images(there, chosen, views, 24, 4, NORMAL).as_subclass(torch.Tensor)
    on_cpu = transform.transform_images(images, chosen, views, 24, 4, NORMAL)
    assert by_operators.shape == on_cpu.shape
    # crops are rounded to 8 bits on the CPU; a pixel at an erased or padded edge is the same in both
    assert (by_operators - on_cpu).abs().mean() < 0.01 and (by_operators - on_cpu).abs().max() < 0.1


def by_operators(source, chosen, views, side, padding, normal) -> torch.Tensor:
    images = source if chosen is None else source[chosen]
    cut = crop.crop_batched(images, views.crops, views.flips, side)
    return transform.apply_operators(cut, views, padding, normal)


@pytest.mark.parametrize(
    ("see", "said"),
    [
        (by_operators, ""),
        (lambda *given: by_operators(*given) + 2, "(they differ from torch's operators by 2."),
        (lambda *given: by_operators(*given) * torch.nan, "torch's operators by nan of 255)"),
        (None, "(TypeError: 'NoneType' object is not callable): images are prepared operator"),
    ],
)
def test_kernels_are_used_where_they_give_what_operators_give(monkeypatch, capsys, see, said):
    monkeypatch.setattr(finegrain, "fused", SimpleNamespace(see=see), raising=False)
    transform._triton_transform.cache_clear()
    found = transform._triton_transform(torch.device("cpu"))
    assert found is (None if said else see) and transform._triton_transform(torch.device("cpu")) is found
    error = capsys.readouterr().err
    assert said in error and error.count("no fused kernels") == bool(said)  # said once
    transform._triton_transform.cache_clear()
