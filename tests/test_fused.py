"""The kernels of a GPU give what the operators give, and compile for GPUs.

CI has no GPU: Triton's interpreter runs the kernels on the CPU, in a process that knows it from the start.
Triton's compiler makes machine code of them all the same.
"""

import os
import subprocess
import sys

import pytest
import torch
from pipeline import ROOT

from finegrain.augmentation import crop, sampling, transform
from finegrain.config.training import AugmentParams

triton = pytest.importorskip("triton", reason="triton, which torch brings along on Linux, is not there")
fused = pytest.importorskip("finegrain.augmentation.triton_kernels")

CROP = AugmentParams(crop_scale=(0.1, 1.0))
SHIFT = AugmentParams(crop_scale=(1.0, 1.0), pad_crop_pixels=4, erase_probability=1.0)
COLOUR = AugmentParams(crop_scale=(0.5, 1.0), contrast=0.5, hue=0.3, erase_probability=0.5)
ALL = AugmentParams(
    crop_scale=(0.3, 1.0), pad_crop_pixels=4, rotate_degrees=30.0, zoom=1.3, perspective=0.3, brightness=0.5,
    contrast=0.5, saturation=0.5, hue=0.4, erase_probability=0.5,
)  # fmt: skip
STD = torch.tensor([0.2, 0.3, 0.4])
NORMAL = transform.normalization_factors([0.4, 0.5, 0.6], STD.tolist(), torch.device("cpu"))


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    """Smooth noise ``[7, 60, 52, 3]`` uint8."""
    noise = torch.rand(7, 3, 12, 10, generator=torch.Generator().manual_seed(0)) * 255
    big = torch.nn.functional.interpolate(noise, (60, 52), mode="bicubic").clamp(0, 255)
    return big.permute(0, 2, 3, 1).contiguous().to(torch.uint8)


INTERPRETED = """
import sys
import torch
from finegrain.augmentation import triton_kernels as fused
cases, answers = torch.load(sys.argv[1], weights_only=False), []
for block, *case in cases:
    fused.BLOCK = fused.OPTIONS["BLOCK"] = block
    answers.append(fused.transform_images(*case))
torch.save(answers, sys.argv[1])
"""
CONFIGS = {"crop": CROP, "shift": SHIFT, "colour": COLOUR, "all": ALL}


@pytest.fixture(scope="module")
def seen(photos, tmp_path_factory):
    """By name: what the kernels give, and what operators give, in 0..255."""
    cases = {}
    for name, config in CONFIGS.items():
        for side in (17, 40):
            views = sampling.sample_augmentation(4, 60, 52, side, config, (0, 1, 2))
            chosen = torch.tensor([3, 1, 6, 3])
            cases[f"{name} {side}"] = (8192, photos, chosen, views, side, config.pad_crop_pixels, NORMAL)
    views = sampling.sample_augmentation(14, 60, 52, 20, ALL, (0, 1, 2)).each(lambda values: values[::2])
    assert not views.homographies.is_contiguous()
    cases["not contiguous"] = (8192, photos, None, views, 20, 4, NORMAL)
    cases["small blocks"] = (256, photos, None, views, 20, 4, NORMAL)
    file = tmp_path_factory.mktemp("interpreted") / "cases.pt"
    torch.save(list(cases.values()), file)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", INTERPRETED, str(file)], env=environment, check=True)
    return dict(
        zip(cases, zip(torch.load(file), map(by_operators, cases.values()), strict=True), strict=True)
    )


def by_operators(case: tuple) -> torch.Tensor:
    _, images, chosen, views, side, padding, normal = case
    images = images if chosen is None else images[chosen]
    cut = crop.crop_batched(images, views.crops, views.flips, side, torch.float32)
    return transform.apply_operators(cut, views, padding, normal)


@pytest.mark.parametrize("side", [17, 40])
@pytest.mark.parametrize("name", CONFIGS)
def test_kernels_give_what_operators_give(seen, name, side):
    ours, slow = seen[f"{name} {side}"]
    assert ours.dtype == torch.float32 and ours.is_contiguous(memory_format=torch.channels_last)
    apart = (ours - slow).abs() * 255 * STD[:, None, None]
    assert apart.max() < 0.5 and apart.mean() < 0.05  # of 255: pixels are float16 on their way


def test_all_images_and_views_that_are_not_contiguous(seen):
    ours, slow = seen["not contiguous"]
    assert ((ours - slow).abs() * 255 * STD[:, None, None]).max() < 0.5


def test_the_size_of_blocks_changes_nothing(seen):
    """The mean grey, from which the contrast is taken, is added up over blocks; the last is not full."""
    assert torch.allclose(seen["small blocks"][0], seen["not contiguous"][0], atol=1e-5)


class Launches:
    """In place of a kernel: remembers what it was launched with."""

    def __init__(self, kernel, made: list) -> None:
        self.kernel, self.made = kernel, made

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.made.append((self.kernel, args, kwargs))


class Driver:
    """Of a GPU that is not there, for which launches are compiled as for one that is."""

    def __init__(self, capability: int) -> None:
        self.get_current_target = lambda: triton.backends.compiler.GPUTarget("cuda", capability, 32)
        self.get_current_device = lambda: 0
        self.get_current_stream = lambda device: 0


@pytest.mark.parametrize(
    ("config", "side", "padding"),
    [(CROP, 32, 0), (ALL, 17, 16), (ALL, 1, 1)],
    ids=lambda value: "" if isinstance(value, AugmentParams) else str(value),
)
def test_kernels_compile_for_gpus_from_turing_to_hopper(photos, config, side, padding, monkeypatch, tmp_path):
    """A number that is 1 or divisible by 16 makes a launch a kernel of its own, and so does what is None."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    launches: list = []
    kernels = [getattr(fused, name) for name in ("_resample", "_sum_luma", "_finish")]
    for kernel in kernels:
        monkeypatch.setattr(fused, kernel.fn.__name__, Launches(kernel, launches))
    views = sampling.sample_augmentation(7, 60, 52, side, config, (0, 1, 2))
    fused.transform_images(photos, None if config is ALL else torch.arange(7), views, side, padding, NORMAL)
    assert len(launches) == (4 if config is ALL else 3)
    for capability in (75, 90):
        for kernel in kernels:
            kernel.device_caches.clear()
        monkeypatch.setattr(triton.runtime.driver, "_active", Driver(capability))
        made = [kernel.warmup(*args, grid=(1, 1), **options) for kernel, args, options in launches]
        assert all(len(each.asm["cubin"]) > 1000 for each in made)
