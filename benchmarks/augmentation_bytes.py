"""GPU memory traffic of augmentation, as a share of a training step's traffic; counted without a GPU.

    python benchmarks/augmentation_bytes.py [--image-size 224] [--batch-size 256]

For operators it counts the inputs and outputs of each, once (gpu_bound.Bytes). For kernels it counts the
tensors of each launch, once, and as a whole even if only a part is read. Only shapes are computed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import command_line
import gpu
import gpu_bound
import shared
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from finegrain.augmentation import crop, sampling, transform, triton_kernels
from finegrain.augmentation.sampling import SampledAugmentation
from finegrain.config.training import AugmentParams, HeadParams
from finegrain.core import file_io
from finegrain.models import build
from finegrain.training import train_step

META = torch.device("meta")
CLASSES = 196
AUGMENTATIONS = {"crop and flip": {"crop_scale": [0.08, 1.0]}, "all augmentation": gpu.ALL_AUGMENTATION}


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("--image-size", type=int, default=224, help="in pixels")
    parser.add_argument("--batch-size", type=int, default=256, help="images in a batch")
    parser.add_argument("--models", nargs="+", default=gpu.MODELS, help="networks, by torchvision's names")
    parser.add_argument("--out", type=Path, help="folder for augmentation_bytes.md")
    args = parser.parse_args(argv)
    size, n = args.image_size, args.batch_size
    steps = {name: step_bytes(name, size, n) / n for name in args.models}
    text = f"{size} px, batches of {n}, torch {torch.__version__}; MB per image.\n\n"
    text += f"| | augmentation | {' | '.join(f'of a {name} step' for name in steps)} |\n"
    text += f"|---|---:|{'---:|' * len(steps)}\n"
    text += f"| the step itself | | {' | '.join(f'{step / 1e6:.0f}' for step in steps.values())} |\n"
    for label, moved in augmentation_bytes(size, n).items():
        shares = " | ".join(f"{moved / n / step:.1%}" for step in steps.values())
        text += f"| {label} | {moved / n / 1e6:.1f} | {shares} |\n"
    if args.out:
        file_io.write_text(args.out / "augmentation_bytes.md", text)
    print(text)


def augmentation_bytes(image_size: int, n: int) -> dict[str, float]:
    """Bytes moved for a batch of ``n`` images, by augmentation and by what computes it."""
    moved: dict[str, float] = {}
    for name, values in AUGMENTATIONS.items():
        config = AugmentParams(**values)
        pack_size = shared.pack_image_size(image_size)
        sampled = sampling.sample_augmentation(n, pack_size, pack_size, image_size, config, (0, 1, 1))
        images = torch.empty(n, pack_size, pack_size, 3, dtype=torch.uint8, device=META)
        for how, count in {"operators": operator_bytes, "kernels": kernel_bytes}.items():
            moved[f"{name}, {how}"] = count(images, sampled.to(META), image_size)
    return moved | {"MixUp": mixup_bytes(AugmentParams(**gpu.ALL_AUGMENTATION), image_size, n)}


def operator_bytes(images: Tensor, augmentation: SampledAugmentation, image_size: int) -> float:
    with gpu_bound.Bytes() as counted:
        cropped = crop.crop_batched(images, augmentation.crops, augmentation.flips, image_size)
        transform.apply_operators(cropped, augmentation, torch.empty(2, 3, device=META))
    return counted.total


def kernel_bytes(images: Tensor, augmentation: SampledAugmentation, image_size: int) -> float:
    """Bytes of the kernels' arguments, counted by stand-ins that replace the kernels."""
    moved = 0.0

    class Counter:
        def __getitem__(self, grid: tuple[int, int]) -> Callable[..., None]:
            def launch(*args: Any, **options: Any) -> None:
                nonlocal moved
                flat = [value for arg in args for value in (arg if isinstance(arg, tuple) else (arg,))]
                moved += sum(value.nbytes for value in flat if isinstance(value, Tensor))

            return launch

    names = [
        name for name in vars(triton_kernels) if type(getattr(triton_kernels, name)).__name__ == "JITFunction"
    ]
    kernels = {name: getattr(triton_kernels, name) for name in names}
    try:
        for name in names:
            setattr(triton_kernels, name, Counter())
        normalization = torch.empty(2, 3, device=META)
        triton_kernels.transform_images(images, None, augmentation, image_size, normalization)
    finally:
        for name, kernel in kernels.items():
            setattr(triton_kernels, name, kernel)
    return moved


def mixup_bytes(config: AugmentParams, image_size: int, n: int) -> float:
    """Bytes moved by torchvision's MixUp, which runs after the operators or the kernels."""
    mixup = train_step.mixup_or_cutmix(config, CLASSES)
    images = torch.empty(n, image_size, image_size, 3, device=META).permute(0, 3, 1, 2)
    assert mixup
    with gpu_bound.Bytes() as counted:
        mixup(images, torch.empty(n, dtype=torch.int64, device=META))
    return counted.total


def step_bytes(name: str, image_size: int, n: int) -> float:
    """Bytes moved by a training step: forward, backward, SGD with momentum, in bfloat16 and channels_last."""
    net = build.build_model(name, CLASSES, "none", HeadParams(), 0)
    with FakeTensorMode() as fake:  # on the device "meta" there is no autocast
        for part in net.modules():
            for values in (part._parameters, part._buffers):
                values.update({k: fake.from_tensor(v) for k, v in values.items() if v is not None})
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, foreach=True)
        images = torch.empty(n, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
        labels = torch.empty(n, CLASSES)

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(images)
                loss = torch.nn.functional.cross_entropy(logits, labels)
            assert logits.dtype == torch.bfloat16
            loss.backward()
            optimizer.step()

        step()  # creates the optimizer's state
        with gpu_bound.Bytes() as counted:
            step()
    return counted.total


if __name__ == "__main__":
    main()
