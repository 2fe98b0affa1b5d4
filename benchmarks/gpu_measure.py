"""How benchmarks/gpu.py packs its photos, times whole epochs, and records the machine."""

import argparse
import contextlib
import gc
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision
from throughput_task import Epoch, synchronize

from finegrain.augmentation import transform
from finegrain.config.params import PackParams
from finegrain.core import file_io
from finegrain.dataset import manifest, pack_writer
from finegrain.runtime import provenance
from finegrain.sources import archive


def pack(photos: Path, folder: Path, image_size: int) -> None:
    """Pack the photos with the project's own code, but without the checks of stage split."""
    with tempfile.TemporaryDirectory() as temporary:
        archive.store_local([str(photos)], Path(temporary))
        table = Path(temporary, "manifest.csv")
        paths = sorted(file.relative_to(photos) for file in photos.glob("*/*/*.jpg"))
        unknown = (0, 0, 0, "", "")  # sizes and hashes, which stage pack does not need
        rows = ((path.as_posix(), "", path.parts[1], path.parts[0], *unknown) for path in paths)
        file_io.write_csv(table, manifest.COLUMNS, rows)
        folder.mkdir()
        with archive.ArchiveReader(Path(temporary)) as reader:
            pack_writer.write_pack(reader, table, folder, PackParams(image_size=image_size))


def timed(epoch: Epoch, seconds: float) -> dict[str, Any]:
    """Images per second of whole epochs: at least two, for at least ``seconds``, after one warm-up epoch."""
    number = 1
    _, first = once(epoch, number)
    speeds, total = [], 0.0
    while len(speeds) < 2 or total < seconds:
        number += 1
        images, took = once(epoch, number)
        total += took
        speeds.append(images / took)
    return {
        "epochs": len(speeds),
        "images_per_second": statistics.median(speeds),
        "slowest": min(speeds),
        "fastest": max(speeds),
        "start_seconds": first - images / statistics.median(speeds),
    }


def once(epoch: Epoch, number: int) -> tuple[int, float]:
    """Images and seconds of one epoch; the GPU is idle before and after."""
    synchronize()
    started = time.perf_counter()
    images = epoch(number)
    synchronize()
    return images, time.perf_counter() - started


@contextlib.contextmanager
def by_operators() -> Iterator[None]:
    """Context in which torch's operators transform the images, even on a GPU."""
    usual = transform._triton_transform
    transform._triton_transform = lambda device: None
    try:
        yield
    finally:
        transform._triton_transform = usual


def reset_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def facts(device: torch.device, args: argparse.Namespace) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "revision": provenance.git_revision(),
        "device": torch.cuda.get_device_name(device) if cuda else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "photos": [file.name for file in args.archives] or "drawn",
        **{name: getattr(args, name) for name in ("image_size", "images", "workers", "seconds")},
    }
