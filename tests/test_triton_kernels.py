"""The Triton kernels agree with torch's operators, and compile for GPUs.

CI has no GPU: Triton's interpreter runs the kernels on the CPU, in a process of its own, because the
environment must ask for it before triton is imported. Compiling needs no GPU.
"""

import os
import subprocess
import sys

import pytest
import torch
from pipeline import ROOT
from smooth_noise import smooth_images

from finegrain.augmentation import crop, sampling, transform
from finegrain.config.training import AugmentParams

triton = pytest.importorskip("triton", reason="triton is not installed; torch brings it along on Linux")
triton_kernels = pytest.importorskip("finegrain.augmentation.triton_kernels")

CROP = AugmentParams(crop_scale=(0.1, 1.0))
SHIFT = AugmentParams(crop_scale=(1.0, 1.0), pad_crop_pixels=4, erase_probability=1.0)
COLOR = AugmentParams(crop_scale=(0.5, 1.0), contrast=0.5, hue=0.3, erase_probability=0.5)
ALL = AugmentParams(
    crop_scale=(0.3, 1.0), pad_crop_pixels=4, rotate_degrees=30.0, zoom=1.3, perspective=0.3, brightness=0.5,
    contrast=0.5, saturation=0.5, hue=0.4, erase_probability=0.5,
)  # fmt: skip
STD = torch.tensor([0.2, 0.3, 0.4])
NORMALIZATION = transform.normalization_factors([0.4, 0.5, 0.6], STD.tolist(), torch.device("cpu"))
IMAGES = smooth_images(7, 60, 52)

INTERPRETED = """
import sys
import torch
from finegrain.augmentation import triton_kernels
cases, results = torch.load(sys.argv[1], weights_only=False), []
for block, *case in cases:
    triton_kernels.BLOCK = triton_kernels.OPTIONS["BLOCK"] = block
    results.append(triton_kernels.transform_images(*case))
torch.save(results, sys.argv[1])
"""
CONFIGS = {"crop": CROP, "shift": SHIFT, "color": COLOR, "all": ALL}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """By case: the batch of the kernels, and the batch of the operators."""
    cases = {}
    for name, config in CONFIGS.items():
        for size in (17, 40):
            sampled = sampling.sample_augmentation(4, 60, 52, size, config, (0, 1, 2))
            indices = torch.tensor([3, 1, 6, 3])
            cases[f"{name} {size}"] = (8192, IMAGES, indices, sampled, size, NORMALIZATION)
    sampled = sampling.sample_augmentation(14, 60, 52, 20, ALL, (0, 1, 2)).map(lambda values: values[::2])
    assert not sampled.homographies.is_contiguous()
    cases["not contiguous"] = (8192, IMAGES, None, sampled, 20, NORMALIZATION)
    cases["small blocks"] = (256, IMAGES, None, sampled, 20, NORMALIZATION)
    file = tmp_path_factory.mktemp("interpreted") / "cases.pt"
    torch.save(list(cases.values()), file)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", INTERPRETED, str(file)], env=environment, check=True)
    return dict(
        zip(cases, zip(torch.load(file), map(by_operators, cases.values()), strict=True), strict=True)
    )


def by_operators(case: tuple) -> torch.Tensor:
    _, images, indices, sampled, size, normalization = case
    selected = images if indices is None else images[indices]
    cropped = crop.crop_batched(selected, sampled.crops, sampled.flips, size, torch.float32)
    return transform.apply_operators(cropped, sampled, normalization)


@pytest.mark.parametrize("size", [17, 40])
@pytest.mark.parametrize("name", CONFIGS)
def test_kernels_agree_with_operators(results, name, size):
    ours, slow = results[f"{name} {size}"]
    assert ours.dtype == torch.float32 and ours.is_contiguous(memory_format=torch.channels_last)
    difference = (ours - slow).abs() * 255 * STD[:, None, None]
    assert difference.max() < 0.5 and difference.mean() < 0.05  # of 255: the resized pixels are float16


def test_all_images_with_an_augmentation_that_is_not_contiguous(results):
    ours, slow = results["not contiguous"]
    assert ((ours - slow).abs() * 255 * STD[:, None, None]).max() < 0.5


def test_the_block_size_changes_nothing(results):
    """The mean luma, which contrast needs, is summed over blocks, of which the last is not full."""
    assert torch.allclose(results["small blocks"][0], results["not contiguous"][0], atol=1e-5)


class Launches:
    """Takes the place of a kernel and records its launches."""

    def __init__(self, kernel, launches: list) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.launches.append((self.kernel, args, kwargs))


class Driver:
    """Takes the place of a GPU's driver, so that Triton compiles for a GPU that is not there."""

    def __init__(self, capability: int) -> None:
        self.get_current_target = lambda: triton.backends.compiler.GPUTarget("cuda", capability, 32)
        self.get_current_device = lambda: 0
        self.get_current_stream = lambda device: 0


@pytest.mark.parametrize(
    ("config", "size", "pad_pixels"),
    [(CROP, 32, 0), (ALL, 17, 16), (ALL, 1, 1)],
    ids=lambda value: "" if isinstance(value, AugmentParams) else str(value),
)
def test_kernels_compile_for_gpus_from_turing_to_hopper(config, size, pad_pixels, monkeypatch, tmp_path):
    """Triton compiles a kernel again for each number that is 1 or divisible by 16, and for what is None."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    launches: list = []
    names = ("_resize_width", "_resize_height", "_sum_luma", "_augment")
    kernels = [getattr(triton_kernels, name) for name in names]
    for kernel in kernels:
        monkeypatch.setattr(triton_kernels, kernel.fn.__name__, Launches(kernel, launches))
    sampled = sampling.sample_augmentation(7, 60, 52, size, config, (0, 1, 2))
    sampled = sampled._replace(pad_crop_pixels=pad_pixels)
    indices = None if config is ALL else torch.arange(7)
    triton_kernels.transform_images(IMAGES, indices, sampled, size, NORMALIZATION)
    assert len(launches) == (4 if config is ALL else 3)
    for capability in (75, 90):
        for kernel in kernels:
            kernel.device_caches.clear()
        monkeypatch.setattr(triton.runtime.driver, "_active", Driver(capability))
        compiled = [kernel.warmup(*args, grid=(1, 1), **options) for kernel, args, options in launches]
        assert all(len(each.asm["cubin"]) > 1000 for each in compiled)
