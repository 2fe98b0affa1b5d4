"""Peak memory and time of split, pack, an epoch of training and a solved head: python benchmarks/memory.py

Writes an archive of small patterns, all different, for each number of images, runs the stages as DVC does,
each in its own process, and prints a Markdown table. The epoch trains resnet18 at 32 px; the solved head is a
ridge regression on 2,080 features of its layer1, fewer than there are images. The defaults take
about five minutes on two cores and 2 GB of TMPDIR. With ``--archive FILE ...`` it measures photos instead.
"""

import io
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import command_line
import yaml

ROOT = Path(__file__).resolve().parent.parent
CLASSES = 196
SOLVED = {"solve": {"solve": "ridge", "image_size": 32}}


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument(
        "images", type=int, nargs="*", default=[1_600, 6_500, 100_000], help="numbers of images"
    )
    parser.add_argument("--image-size", type=int, default=64, help="in pixels, generated and packed")
    parser.add_argument("--archive", nargs="+", type=Path, default=[], help="part files of one archive")
    parser.add_argument("--source", type=Path, default=ROOT / "src", help="folder with the stage scripts")
    args = parser.parse_args()
    print("| images | stage | seconds | images/s | peak memory, MiB | relative to the first row |")
    print("|---:|---|---:|---:|---:|---:|")
    first: dict[str, int] = {}
    for parts in archives(args.images, args.image_size, [file.resolve() for file in args.archive]):
        with tempfile.TemporaryDirectory() as folder:
            params = yaml.safe_load((ROOT / "params.yaml").read_text())
            dataset = {"name": "d", "source": "archive", "path": [str(file) for file in parts]}
            params |= {"dataset": dataset, "pack": {"image_size": args.image_size}, "batch_size": 32}
            params["phases"]["all"] |= {"epochs": 1, "image_size": 32}
            Path(folder, "params.yaml").write_text(yaml.safe_dump(params))
            run(args.source / "download.py", folder)
            train = ["train", "--model", "resnet18", "--seed", "0"]
            for name, (stage, *words) in {
                "split": ["split"],
                "pack": ["pack"],
                "train": train,
                "solve": train,
            }.items():
                if name == "solve":
                    params |= {"phases": SOLVED, "head": {"pool": "covariance", "stage": "layer1"}}
                    Path(folder, "params.yaml").write_text(yaml.safe_dump(params))
                seconds, peak = run(args.source / f"{stage}.py", folder, *words)
                images = rows(Path(folder, "data", "d", "manifest.csv"))
                ratio = peak / first.setdefault(name, peak) - 1
                print(
                    f"| {images:,} | {name} | {seconds:.1f} | {images / seconds:,.0f} | {peak / 2**20:.1f} "
                    f"| {ratio:+.1%} |",
                    flush=True,
                )


def archives(numbers: list[int], image_size: int, photos: list[Path]) -> Iterator[list[Path]]:
    """The part files of each archive to measure."""
    if photos:
        yield photos
        return
    for images in numbers:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "patterns.zip"
            process = multiprocessing.get_context("spawn").Process(
                target=draw, args=(file, images, image_size)
            )
            process.start()
            process.join()
            yield [file]


def draw(file: Path, images: int, image_size: int) -> None:
    """Write a zip with this many JPEGs in class folders, no two of them byte-identical.

    Runs in its own process, because Linux counts the memory of the process that starts a stage as the
    stage's.
    """
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(images):
            cells = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            content = io.BytesIO()
            pattern = Image.fromarray(cells).resize((image_size, image_size), Image.Resampling.BICUBIC)
            pattern.save(content, "JPEG", quality=90)
            name = f"patterns/Pattern of Class {number % CLASSES:03d}/{number:06d}.jpg"
            archive.writestr(name, content.getvalue())


def run(script: Path, folder: str, *words: str) -> tuple[float, int]:
    """Seconds and peak resident bytes of one stage in its own process."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, script, *words], cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{script} failed")
    return time.monotonic() - start, usage.ru_maxrss * 1024


def rows(manifest: Path) -> int:
    with manifest.open() as stream:
        return sum(1 for _ in stream) - 1


if __name__ == "__main__":
    main()
