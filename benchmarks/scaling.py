"""Reading speed of packed images, and what large datasets need: python benchmarks/scaling.py

Writes a file as stage pack does (``--gigabytes`` of TMPDIR, removed at the end) and reads whole images from
it in random order, as an epoch does: from memory, and from the disk after evicting the file from Linux's page
cache. Prints both as images per second by number of threads, then sizes and times by number of images.
"""

import hashlib
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import command_line
import numpy as np
import torch

from finegrain.augmentation import crop
from finegrain.loading.pack_reader import PackReader

BATCH = 32
DATASETS = {
    "Stanford Cars": 16_185,
    "one million photos": 1_000_000,
    "ImageNet-1k": 1_331_167,
    "iNaturalist 2021": 2_786_843,
    "ImageNet-21k, winter 2021": 13_153_500,
}
RATES = (1_000, 5_000, 20_000)
"""Training speeds in images per second, summed over all GPUs."""


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="size of the file to read, in GB")
    parser.add_argument("--image-size", type=int, default=256, help="in pixels")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of threads that read"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of measurements")
    parser.add_argument("--folder", type=Path, help="folder on the disk to measure (default: TMPDIR)")
    args = parser.parse_args()
    image_bytes = 3 * args.image_size**2
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        file = Path(folder) / "train.npy"
        write(file, int(args.gigabytes * 1e9 / image_bytes), args.image_size)
        pixels = PackReader([file])
        print(f"{len(pixels):,} images of {args.image_size} px, {len(pixels) * image_bytes / 1e9:.1f} GB\n")
        print("| threads | from memory, images/s | from the disk, images/s | MB/s |")
        print("|---:|---:|---:|---:|")
        for threads in args.threads:
            warm = [read(pixels, threads, seed) for seed in range(args.rounds)]
            cold = []
            for seed in range(args.rounds):
                forget(file)
                cold.append(read(pixels, threads, seed))
            megabytes = np.median(cold) * image_bytes / 1e6
            print(f"| {threads} | {median_and_range(warm)} | {median_and_range(cold)} | {megabytes:,.0f} |")
        start = time.perf_counter()
        with file.open("rb") as stream:
            hashlib.file_digest(stream, "md5")
        speed = file.stat().st_size / 1e6 / (time.perf_counter() - start)
        print(f"\nmd5, which DVC computes of every output: {speed:,.0f} MB/s\n")
    sizes(args.image_size)


def write(file: Path, images: int, image_size: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, image_size, image_size, 3), np.uint8)
    with file.open("wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (images, image_size, image_size, 3)}
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, images, len(noise)):
            stream.write(noise[: images - start])
        stream.flush()
        os.fsync(stream.fileno())


def forget(file: Path) -> None:
    with file.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(pixels: PackReader, threads: int, seed: int) -> float:
    """Images per second when each image is read once, in batches."""
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed)).split(BATCH)
    image_size = pixels.image_size
    buffers = np.zeros((threads, BATCH, image_size, image_size, 3), np.uint8)

    def work(number: int) -> None:
        for chosen in order[number::threads]:
            pixels.read(chosen, crop.full_boxes(len(chosen), image_size, image_size), buffers[number])

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    return len(pixels) / (time.perf_counter() - start)


def median_and_range(rates: list[float]) -> str:
    return f"{np.median(rates):,.0f} [{min(rates):,.0f}, {max(rates):,.0f}]"


def sizes(image_size: int) -> None:
    image_bytes = 3 * image_size**2
    columns = [f"epoch at {rate:,} images/s" for rate in RATES]
    print(f"| | images | pack at {image_size} px, GB | {' | '.join(columns)} |")
    print("|---|---:|---:|" + "---:|" * len(RATES))
    for name, images in DATASETS.items():
        epochs = [minutes(images / rate) for rate in RATES]
        print(f"| {name} | {images:,} | {images * image_bytes / 1e9:,.0f} | {' | '.join(epochs)} |")
    needed = [f"{rate * image_bytes / 1e6:,.0f} MB/s" for rate in RATES]
    print(f"| to read, if memory does not hold it | | | {' | '.join(needed)} |")


def minutes(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.1f} min"


if __name__ == "__main__":
    main()
