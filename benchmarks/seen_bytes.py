"""What preparing images moves through a GPU's memory, against a training step: counted, no GPU is needed.

    python benchmarks/seen_bytes.py [--side 224] [--batch-size 256]

Operators: each one's inputs and outputs, once (gpu_bound.Bytes). Kernels: each launch's tensors, once; of
those that are read at a few places only, all. Shapes alone are computed.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gpu
import gpu_bound
import inputs
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from finegrain.augmentation import crop, sampling, transform, triton_kernels
from finegrain.config.training import AugmentParams, HeadParams
from finegrain.core import file_io
from finegrain.models import build
from finegrain.training import train_step

META = torch.device("meta")
CLASSES = 196
AUGMENTATIONS = {"crop and flip": {"crop_scale": [0.08, 1.0]}, "all augmentation": gpu.ALL_AUGMENTATION}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--models", nargs="+", default=gpu.MODELS)
    parser.add_argument("--out", type=Path, help="folder for seen_bytes.md")
    args = parser.parse_args(argv)
    steps = {name: step_bytes(name, args.side, args.batch_size) / args.batch_size for name in args.models}
    text = f"{args.side} px, batches of {args.batch_size}, torch {torch.__version__}; MB an image.\n\n"
    text += f"| | images prepared | {' | '.join(f'of a {name} step' for name in steps)} |\n"
    text += f"|---|---:|{'---:|' * len(steps)}\n"
    text += f"| the step itself | | {' | '.join(f'{each / 1e6:.0f}' for each in steps.values())} |\n"
    for name, config in AUGMENTATIONS.items():
        for way, see in {"operators": by_operators, "kernels": by_kernels}.items():
            each = seen_bytes(AugmentParams(**config), args.side, args.batch_size, see) / args.batch_size
            shares = " | ".join(f"{each / step:.1%}" for step in steps.values())
            text += f"| {name}, {way} | {each / 1e6:.1f} | {shares} |\n"
    if args.out:
        file_io.write_text(args.out / "seen_bytes.md", text)
    print(text)


def seen_bytes(config: AugmentParams, side: int, n: int, see: Callable[..., tuple[Tensor, float]]) -> float:
    """Bytes of a batch: seen, and mixed where the augmentation says so."""
    size = inputs.pack_side(side)
    views = sampling.sample_augmentation(n, size, size, side, config, (0, 1, 1)).to(META)
    photos = torch.empty(n, size, size, 3, dtype=torch.uint8, device=META)
    images, moved = see(photos, views, side, torch.empty(2, 3, device=META))
    mixed = train_step.mixup_or_cutmix(config, CLASSES)
    if mixed:
        with gpu_bound.Bytes() as counted:
            mixed(images, torch.empty(n, dtype=torch.int64, device=META))
        moved += counted.total
    return moved


def by_operators(
    photos: Tensor, views: sampling.SampledAugmentation, side: int, normal: Tensor
) -> tuple[Tensor, float]:
    with gpu_bound.Bytes() as counted:
        cut = crop.crop_batched(photos, views.crops, views.flips, side)
        images = transform.apply_operators(cut, views, 0, normal)
    return images, counted.total


def by_kernels(
    photos: Tensor, views: sampling.SampledAugmentation, side: int, normal: Tensor
) -> tuple[Tensor, float]:
    """With stand-ins for the kernels, which count what they were given."""
    moved = 0.0

    class Counted:
        def __getitem__(self, grid: tuple[int, int]) -> Callable[..., None]:
            def launch(*args: Any, **options: Any) -> None:
                nonlocal moved
                moved += sum(arg.nbytes for arg in args if isinstance(arg, Tensor))

            return launch

    names = [
        name for name in vars(triton_kernels) if type(getattr(triton_kernels, name)).__name__ == "JITFunction"
    ]
    kernels = {name: getattr(triton_kernels, name) for name in names}
    try:
        for name in names:
            setattr(triton_kernels, name, Counted())
        images = triton_kernels.transform_images(photos, None, views, side, 0, normal)
    finally:
        for name, kernel in kernels.items():
            setattr(triton_kernels, name, kernel)
    return images, moved


def step_bytes(name: str, side: int, n: int) -> float:
    """Bytes of a step of a batch: forward, backward, SGD with momentum, in bfloat16 and channels_last."""
    net = build.build_model(name, CLASSES, "none", HeadParams(), 0)
    with FakeTensorMode() as fake:  # on the device "meta" there is no autocast
        for part in net.modules():
            for values in (part._parameters, part._buffers):
                values.update({k: fake.from_tensor(v) for k, v in values.items() if v is not None})
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, foreach=True)
        images = torch.empty(n, 3, side, side).contiguous(memory_format=torch.channels_last)
        labels = torch.empty(n, CLASSES)

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(images)
                loss = torch.nn.functional.cross_entropy(logits, labels)
            assert logits.dtype == torch.bfloat16
            loss.backward()
            optimizer.step()

        step()  # makes the optimizer's state
        with gpu_bound.Bytes() as counted:
            step()
    return counted.total


if __name__ == "__main__":
    main()
