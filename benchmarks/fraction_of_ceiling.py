"""Speed of whole epochs as a fraction of the ceiling: the same step on one fixed batch, in the same process.

    python benchmarks/fraction_of_ceiling.py --archive part-1.zip part-2.zip part-3.zip part-4.zip

A machine's speed drifts by more than loading costs, so each round measures both, one after the other. Prints
a Markdown table: medians over the rounds, and the smallest and largest fraction.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import command_line
import shared
import yaml
from throughput_task import FirstStep

HEAD = """\
| model | batch | ours, images/s | ceiling, images/s | fraction of the ceiling |
|---|---:|---:|---:|---:|"""


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument(
        "--archive",
        type=Path,
        nargs="+",
        default=[],
        help="zips of class folders (default: generated images)",
    )
    parser.add_argument(
        "--models", nargs="+", default=["resnet18", "resnet50"], help="networks, by torchvision's names"
    )
    parser.add_argument("--images", type=int, default=320, help="images per epoch")
    parser.add_argument("--image-size", type=int, default=224, help="in pixels")
    parser.add_argument("--batch-size", type=int, default=32, help="images in a batch")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of measurements")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder, "photos")
        shared.write_photos([file.resolve() for file in args.archive], photos, args.images, args.image_size)
        os.chdir(folder)
        settings = shared.settings(photos, args.image_size, args.batch_size)
        Path("params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        for stage in ("download", "split", "pack"):
            subprocess.run([sys.executable, str(shared.ROOT / "src" / f"{stage}.py")], check=True)
        print(HEAD)
        for model in args.models:
            print(row(model, args.batch_size, args.rounds), flush=True)


def row(model: str, batch_size: int, rounds: int) -> str:
    import throughput_way

    job = throughput_way.job(model)
    ways = (throughput_way.our_epochs, throughput_way.ceiling_epochs)
    epochs = [start(job, FirstStep(0.0)) for start in ways]
    for epoch in epochs:
        epoch(1)
    speeds = [[speed(epoch, number) for epoch in epochs] for number in range(2, rounds + 2)]
    ours, fixed = (statistics.median(column) for column in zip(*speeds, strict=True))
    fractions = [mine / ceiling for mine, ceiling in speeds]
    return (
        f"| {model} | {batch_size} | {ours:.1f} | {fixed:.1f} | {statistics.median(fractions):.3f} "
        f"[{min(fractions):.3f}, {max(fractions):.3f}] |"
    )


def speed(epoch: Callable[[int], int], number: int) -> float:
    """Images per second."""
    started = time.perf_counter()
    images = epoch(number)
    return images / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
